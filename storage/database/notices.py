"""Which messages about a study have been told, over all machines and restarts: each once.

    make_notices(engine)                          # the table, by the first run with NOTIFY
    if claim_notice(engine, token, "best 7"):     # True for one caller alone
        ...                                       # tell it

The row is written before the message is sent. So a message is told once at most: if a machine goes
down between the two, the message is lost, but none is told twice. Neither the message nor its
receiver is stored.
"""

from __future__ import annotations

from sqlalchemy import Column, Engine, MetaData, String, Table, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from storage.database.schema import is_sqlite
from storage.database.transactions import write

notice_tables = MetaData()

notices = Table(
    "genstudy_notices",
    notice_tables,
    Column("token", String(100), primary_key=True),  # of the stored study
    Column("name", String(200), primary_key=True),  # of the message
)


def make_notices(engine: Engine) -> None:
    """Create the table where it is missing."""
    try:
        notice_tables.create_all(engine)
    except DBAPIError:  # another process has created it at the same moment
        if not inspect(engine).has_table(notices.name):
            raise


def claim_notice(engine: Engine, token: str, name: str) -> bool:
    """Return whether the message ``name`` was not told before; from now on it counts as told."""
    insert = sqlite.insert if is_sqlite(engine) else postgresql.insert
    statement = (
        insert(notices)
        .values(token=token, name=name)
        .on_conflict_do_nothing(index_elements=["token", "name"])
        .returning(notices.c.name)
    )
    with write(engine) as connection:
        return connection.execute(statement).scalar() is not None
