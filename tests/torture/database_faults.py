"""Faults of the database: away, frozen, locked, read-only, put back to an older state.

Each takes the scene and its blow, and returns what it hit, or "" where there was nothing to hit.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from tests.torture.databases import Database, SQLiteFile
from tests.torture.machines import send
from tests.torture.postgres import LOCK_HOLDERS, ROLE, SESSIONS, PostgresDatabase
from tests.torture.process_faults import kill_everything
from tests.torture.scene import Aim, Blow, Fault, Scene

T = TypeVar("T", bound=Database)


def _of(kind: type[T], scene: Scene) -> T:
    assert isinstance(scene.database, kind)
    return scene.database


def _short(chance: random.Random) -> float:
    """Return some seconds; one time in six more than an answer may take."""
    return chance.uniform(16, 22) if chance.random() < 1 / 6 else chance.uniform(0.5, 4)


def hold(what: Callable[[Scene, Blow], AbstractContextManager[object]]) -> Callable[..., str]:
    """Return a fault that holds something for a while."""

    def strike(scene: Scene, blow: Blow) -> str:
        seconds = _short(blow.chance)
        with what(scene, blow):
            began = time.monotonic()
            scene.rest(seconds)
        return f"for {time.monotonic() - began:.1f} s"

    return strike


def set_clock(scene: Scene, blow: Blow) -> str:
    hours = blow.chance.choice([-5, -2, -1, 1, 2, 5])
    scene.database.set_clock(3600 * hours)
    return f"by {hours} h"


def go_back(scene: Scene, blow: Blow) -> str:
    """Put the database back to a state of seconds before, while all run on."""
    place = _copy(scene)
    seconds = blow.chance.uniform(2, 8)
    scene.rest(seconds)
    scene.database.put_back(place)
    place.unlink()
    return f"to its state {seconds:.1f} s before"


def _copy(scene: Scene) -> Path:
    place = scene.folder / "copy-of-database"
    place.unlink(missing_ok=True)
    scene.database.copy(place)
    return place


def go_back_while_stopped(scene: Scene, blow: Blow) -> str:
    """Cut the power of everything, and start it again with an older file."""
    place = _copy(scene)
    scene.rest(blow.chance.uniform(2, 8))
    for machine in scene.machines:
        machine.is_off = True
    try:
        count = kill_everything(scene)
        _of(SQLiteFile, scene).replace_by(place)
    finally:
        for machine in scene.machines:
            machine.is_off = False
    return f"with {count} processes killed"


def lock_file(scene: Scene, blow: Blow) -> AbstractContextManager[object]:
    return _of(SQLiteFile, scene).locked()


def lock_study(scene: Scene, blow: Blow) -> AbstractContextManager[object]:
    return scene.database.study_locked()


def lock_table(scene: Scene, blow: Blow) -> AbstractContextManager[object]:
    table = blow.chance.choice(["trials", "genstudy_leases", "trial_user_attributes"])
    return _of(PostgresDatabase, scene).table_locked(table)


def restart(scene: Scene, blow: Blow) -> str:
    return _restart(scene, blow, blow.chance.choice([signal.SIGINT, signal.SIGQUIT]))


def _restart(scene: Scene, blow: Blow, how: signal.Signals) -> str:
    server = _of(PostgresDatabase, scene).server
    seconds = blow.chance.uniform(0.2, 4)
    server.stop(how)
    try:
        scene.rest(seconds)
    finally:
        server.start()
    return f"by {how.name} for {seconds:.1f} s"


def cut_power_of_all_and_server(scene: Scene, blow: Blow) -> str:
    kill_everything(scene)
    return _restart(scene, blow, signal.SIGKILL)


def freeze(scene: Scene, blow: Blow) -> str:
    server = _of(PostgresDatabase, scene).server
    seconds = _short(blow.chance)
    found = server.processes()
    send(found, signal.SIGSTOP)
    try:
        scene.rest(seconds)
    finally:
        send(found, signal.SIGCONT)
    return f"{len(found)} processes for {seconds:.1f} s"


def terminate_one(scene: Scene, blow: Blow) -> str:
    found = _of(PostgresDatabase, scene).server.run(
        f"{SESSIONS} AND pid = (SELECT pid FROM pg_stat_activity WHERE usename = '{ROLE}' "
        f"ORDER BY md5(pid::text || '{blow.chance.random()}') LIMIT 1)"
    )
    return "one session" if found else ""


def terminate_all(scene: Scene, blow: Blow) -> str:
    found = _of(PostgresDatabase, scene).server.run(SESSIONS)
    return f"{len(found)} sessions" if found else ""


def terminate_lock_holders(scene: Scene, blow: Blow) -> str:
    """Look again and again: a lock of a study is held for milliseconds."""
    server = _of(PostgresDatabase, scene).server
    with server.connect() as connection:
        for _ in range(200):
            if found := connection.execute(LOCK_HOLDERS).fetchall():
                return f"{len(found)} sessions"
            time.sleep(0.005)
    return ""


def read_only(scene: Scene, blow: Blow) -> str:
    database = _of(PostgresDatabase, scene)
    seconds = _short(blow.chance)
    database.set_server("default_transaction_read_only", "on")
    try:
        scene.rest(seconds)
    finally:
        database.set_server("default_transaction_read_only", None)
    return f"for {seconds:.1f} s"


def few_connections(scene: Scene, blow: Blow) -> str:
    return _set_role(scene, blow, f"CONNECTION LIMIT {blow.chance.randint(1, 4)}")


def short_statements(scene: Scene, blow: Blow) -> str:
    """Statements may take a few milliseconds only; so may a transaction's pauses."""
    name = blow.chance.choice(["statement_timeout", "idle_in_transaction_session_timeout"])
    return _set_role(scene, blow, f"SET {name} = '{blow.chance.choice([2, 5, 20])}ms'")


def _set_role(scene: Scene, blow: Blow, words: str) -> str:
    database = _of(PostgresDatabase, scene)
    seconds = blow.chance.uniform(1, 6)
    database.set_role(words)
    try:
        scene.rest(seconds)
    finally:
        database.set_role("CONNECTION LIMIT -1")
        database.set_role("RESET ALL")
    return f"{words} for {seconds:.1f} s"


def _brief(name: str, strike: Callable[[Scene, Blow], str], weight: float) -> Fault:
    """Return a fault of a moment."""
    return Fault(name=name, strike=strike, weight=weight, aim=Aim.DATABASE)


def _outage(
    name: str,
    strike: Callable[[Scene, Blow], str],
    weight: float,
    *,
    aim: Aim = Aim.DATABASE,
) -> Fault:
    """Return a fault that keeps all from the database for a while."""
    return Fault(name=name, strike=strike, weight=weight, aim=aim, halts=True, is_heavy=True)


BOTH = [
    _brief("clock set", set_clock, 4),
    _outage("study's lock held", hold(lock_study), 3),
    _outage("older state put back", go_back, 4),
]
OF_SQLITE = [
    *BOTH,
    _outage("file locked", hold(lock_file), 8),
    _outage("older file put back", go_back_while_stopped, 2, aim=Aim.EVERYTHING),
]
OF_POSTGRES = [
    *BOTH,
    _brief("backend terminated", terminate_one, 6),
    _brief("all backends terminated", terminate_all, 2),
    _brief("lock's backend terminated", terminate_lock_holders, 3),
    _outage("server restarted", restart, 4),
    _outage("server frozen", freeze, 3),
    _outage("server read-only", read_only, 3),
    _outage("few connections", few_connections, 3),
    _outage("short statements", short_statements, 3),
    _outage("table locked", hold(lock_table), 3),
    _outage(
        "power cut of everything and the server",
        cut_power_of_all_and_server,
        1,
        aim=Aim.EVERYTHING,
    ),
]
