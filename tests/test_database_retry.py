"""A database that is away is waited for, and only that."""

from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import IntegrityError, OperationalError

from search.setup.reaching import note_database, reach_database
from search.variables import Variables
from storage.database import retry
from storage.database.address import address_digest
from storage.database.connection import check_database
from storage.database.retry import (
    DatabaseLost,
    DatabaseRetry,
    GaveUp,
    comes_back,
    is_away,
    may_be_down,
)
from storage.errors import DatabaseUnreachable
from storage.paths import RunPaths


def away() -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception("server closed the connection\nmore"))


class Server:
    """Answers after some failed attempts."""

    def __init__(self, failures: int, error: Callable[[], Exception] = away) -> None:
        self.failures = failures
        self.error = error

    def __call__(self) -> str:
        if self.failures > 0:
            self.failures -= 1
            raise self.error()
        return "answer"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST", 0.001)
    monkeypatch.setattr(retry, "LONGEST", 0.002)


def test_a_call_is_repeated_until_it_is_answered() -> None:
    told: list[str] = []
    waiting = DatabaseRetry(tell=told.append)
    assert waiting.wait_for(Server(5)) == "answer"
    assert told[0] == "the trial database is away, waiting for it: server closed the connection"
    assert told[1].startswith("the database is back after")
    assert len(told) == 2


def test_after_the_longest_outage_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "OUTAGE", 0.05)
    with pytest.raises(DatabaseLost, match=r"server closed the connection.*same command goes on"):
        DatabaseRetry(tell=print).wait_for(Server(10**9))


def test_who_is_asked_to_stop_does_not_wait() -> None:
    with pytest.raises(GaveUp):
        DatabaseRetry(given_up=lambda: True, tell=print).wait_for(Server(10**9))


def test_other_errors_are_raised_at_once() -> None:
    wrong = IntegrityError("INSERT", {}, Exception("twice"))
    with pytest.raises(IntegrityError):
        DatabaseRetry().wait_for(Server(1, lambda: wrong))


def test_an_outage_is_seen_through_what_it_is_wrapped_in() -> None:
    """Optuna wraps it, and in one place trips over a variable while it handles it."""
    wrapped = StorageInternalError("an exception in the storage")
    wrapped.__cause__ = away()
    tripped = UnboundLocalError("updated_state")
    tripped.__context__ = away()
    assert is_away(wrapped)
    assert is_away(tripped)
    assert not is_away(UnboundLocalError("updated_state"))


def test_after_an_attempt_that_took_long_nothing_is_tried_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training that reports each epoch to a frozen server would wait seconds for each."""
    now = [0.0]
    monkeypatch.setattr("storage.database.retry.time.monotonic", lambda: now[0])
    waits, attempts = DatabaseRetry(tell=lambda line: None), []

    def fails(seconds: float) -> None:
        attempts.append(now[0])
        now[0] += seconds
        raise away()

    assert not waits.try_once(lambda: fails(0.01))
    assert not waits.try_once(lambda: fails(15.0))
    assert len(attempts) == 2, "one that fails at once costs nothing"
    assert not waits.try_once(lambda: fails(15.0))
    assert len(attempts) == 2
    now[0] += retry.REST + 1
    assert waits.try_once(lambda: attempts.append(now[0]))
    assert waits.try_once(lambda: attempts.append(now[0]))


def test_a_call_in_a_call_is_repeated_with_it() -> None:
    """What the outer one has done is undone: the inner one alone would go on from nothing."""
    waiting, outer = DatabaseRetry(tell=lambda line: None), []
    server = Server(2)

    def call() -> str:
        outer.append(1)
        return waiting.wait_for(server)

    assert waiting.wait_for(call) == "answer"
    assert len(outer) == 3


def test_once_the_run_is_to_end_a_database_that_is_away_is_not_asked_again() -> None:
    stop: list[bool] = []
    waiting = DatabaseRetry(given_up=lambda: bool(stop), tell=lambda line: None)
    asked = Server(1)
    assert not waiting.try_once(asked)
    stop.append(True)
    assert not waiting.try_once(asked)
    with pytest.raises(GaveUp):
        waiting.wait_for(asked)


@pytest.mark.parametrize(
    ("said", "is_waited_for"),
    [
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  sorry, too many clients already", True),
        ("FATAL:  remaining connection slots are reserved for roles with", True),
        ("Connection refused", False),
        ('FATAL:  password authentication failed for user "me"', False),
        ("unable to open database file", False),
    ],
)
def test_at_first_only_a_database_that_is_there_is_waited_for(
    said: str, is_waited_for: bool
) -> None:
    """All else may be a mistake in STORAGE."""
    assert comes_back(OperationalError("", {}, Exception(said))) == is_waited_for


@pytest.mark.parametrize(
    ("said", "is_waited_for"),
    [
        ("FATAL:  the database system is starting up", True),
        ('connection to server at "10.0.0.7", port 5432 failed: Connection refused', True),
        ("connection timeout expired", True),
        ('FATAL:  password authentication failed for user "me"', False),
        ('FATAL:  database "studies" does not exist', False),
    ],
)
def test_a_server_that_was_right_before_is_waited_for_unless_it_turns_us_away(
    said: str, is_waited_for: bool
) -> None:
    assert may_be_down(OperationalError("", {}, Exception(said))) == is_waited_for


ADDRESS = "postgresql://me:secret@127.0.0.1:1/studies"


@pytest.mark.parametrize("was_used", [False, True])
def test_a_study_waits_for_a_server_only_at_an_address_that_its_runs_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_used: bool
) -> None:
    """Port 1 refuses at first; then somebody has started the server."""
    monkeypatch.setattr("storage.database.retry.FIRST", 0.01)
    answers = [True, True, False]
    check = check_database

    def check_refused(url: str) -> None:
        if answers.pop(0):
            check(url)

    monkeypatch.setattr("search.setup.reaching.check_database", check_refused)
    said: list[str] = []
    variables = Variables(storage=ADDRESS, runs=tmp_path)
    if was_used:
        note_database(variables)
        (note,) = (tmp_path / "cache").iterdir()
        assert note == RunPaths(tmp_path).kept_in(address_digest(ADDRESS.replace("secret", "new")))
        reach_database(variables, DatabaseRetry(tell=said.append))
        assert "waiting for it" in said[0]
        assert "Connection refused" in said[0]
        assert "back after" in said[1]
    else:
        with pytest.raises(DatabaseUnreachable, match="is the server running"):
            reach_database(variables, DatabaseRetry(tell=said.append))
        assert said == []


def test_who_finds_no_connection_is_told_what_helps() -> None:
    told: list[str] = []
    full = OperationalError("", {}, Exception("FATAL:  sorry, too many clients already"))
    DatabaseRetry(tell=told.append).wait_for(Server(1, lambda: full))
    assert "waiting for one; fewer WORKERS or a larger max_connections help" in told[0]
