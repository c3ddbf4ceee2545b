"""Which shared files a study has: the object of each, its digest, and the attempt that wrote it.

    begin_file(engine, token, "trial-7", key=key, epoch=9, guard=guard)   # before it is written
    finish_file(engine, token, "trial-7", key=key, size=..., sha256=..., guard=guard)
    kept_files(engine, token, "trial-7")                                  # the newest first

The objects themselves lie in FILES, which cannot tell who may write. So the trial database decides:
both transactions end with a call of the guard, which raises if another attempt has the trial. An
object without a row, or with a row that says that it is not whole, does not count. An object gets
its row before it is written, so that a kill leaves no object that nobody knows.

The rows stand in ``genstudy_files``, which is made by the first run with FILES.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError

from storage.database.transactions import read, write

KEPT = 2  # whole ones of a name: a damaged one costs what lies between the two
Guard = Callable[[Connection], object]

file_tables = MetaData()
files = Table(
    "genstudy_files",
    file_tables,
    Column("key", String(32), primary_key=True),  # random: no two writers share one
    Column("token", String(100), nullable=False, index=True),  # of the stored study
    Column("name", String(200), nullable=False),  # as `trial-7`
    Column("generation", Integer, nullable=False),  # it grows with each writing of a name
    Column("epoch", Integer, nullable=False),  # behind which it was written; 0: it has none
    Column("whole", Integer, nullable=False),  # 1: all of it is there
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
)
objects = Table(  # of FILES=database
    "genstudy_objects",
    file_tables,
    Column("name", String(300), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One object of a shared file; see `files` for its fields."""

    key: str
    name: str
    generation: int
    epoch: int
    whole: bool
    size: int
    sha256: str


def create_file_tables(engine: Engine) -> None:
    """Create the tables that are missing, also for who holds a study's lock."""
    try:
        with write(engine) as connection:
            file_tables.create_all(connection)
    except DBAPIError:  # another process creates them at this moment
        with write(engine) as connection:
            file_tables.create_all(connection)


def begin_file(
    engine: Engine, token: str, name: str, *, key: str, epoch: int, guard: Guard
) -> None:
    """Note that an object is about to be written. Raises what ``guard`` raises."""
    latest = select(func.coalesce(func.max(files.c.generation), 0) + 1).where(
        files.c.token == token, files.c.name == name
    )
    with write(engine) as connection:
        connection.execute(
            files.insert().values(
                key=key,
                token=token,
                name=name,
                generation=latest.scalar_subquery(),
                epoch=epoch,
                whole=0,
                size=0,
                sha256="",
            )
        )
        guard(connection)


def finish_file(
    engine: Engine, token: str, name: str, *, key: str, size: int, sha256: str, guard: Guard
) -> list[str]:
    """Note that an object is whole; return those that it makes superfluous.

    Raises what ``guard`` raises; then the object does not count.
    """
    with write(engine) as connection:
        connection.execute(
            files.update().where(files.c.key == key).values(whole=1, size=size, sha256=sha256)
        )
        found = _read(connection, token, name)
        guard(connection)
    whole = [row.key for row in found if row.whole][:KEPT]
    latest = max((row.generation for row in found if row.key in whole), default=0)
    return [
        row.key for row in found if row.key not in whole and (row.whole or row.generation < latest)
    ]


def drop_files(engine: Engine, keys: Iterable[str]) -> None:
    """Forget objects that are gone."""
    gone = list(keys)
    if gone:
        with write(engine) as connection:
            connection.execute(files.delete().where(files.c.key.in_(gone)))


def kept_files(engine: Engine, token: str, name: str) -> list[FileRecord]:
    """Return all objects of a name that were begun and are not removed, the newest first."""
    with read(engine) as connection:
        return _read(connection, token, name)


def file_names(engine: Engine, token: str) -> list[str]:
    """Return the names under which a study has anything, whole or not."""
    with read(engine) as connection:
        found = connection.scalars(select(files.c.name).where(files.c.token == token).distinct())
        return sorted(found)


def file_tokens(engine: Engine) -> list[str]:
    """Return the tokens of the studies that have anything."""
    with read(engine) as connection:
        return sorted(connection.scalars(select(files.c.token).distinct()))


def newest_files(engine: Engine, token: str) -> dict[str, FileRecord]:
    """Return the newest whole object of each name of a study."""
    with read(engine) as connection:
        found = _read(connection, token, None)
    return {row.name: row for row in reversed(found) if row.whole}


def _read(connection: Connection, token: str, name: str | None) -> list[FileRecord]:
    statement = select(files).where(files.c.token == token)
    if name is not None:
        statement = statement.where(files.c.name == name)
    rows = connection.execute(statement.order_by(files.c.generation.desc()))
    return [
        FileRecord(
            key=row.key,
            name=row.name,
            generation=row.generation,
            epoch=row.epoch,
            whole=bool(row.whole),
            size=row.size,
            sha256=row.sha256,
        )
        for row in rows
    ]
