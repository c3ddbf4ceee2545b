"""Postgres as people have it: encodings, poolers, options in the address, roles, schemas."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from uuid import uuid4

import optuna
import psycopg
import pytest
import sqlalchemy
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from search.trials.epoch_report import EpochReport
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue
from storage import best, curves, studies, trials
from storage.database import optuna_storage, postgres_connection
from storage.database import study_lock as study_lock_file
from storage.database.connection import check_encodable, open_engine, open_storage
from storage.database.retry import is_away
from storage.database.study_lock import study_lock
from storage.errors import DatabaseUnreachable
from tests.conftest import SMALL_STUDY


def run_sql(server: str, *statements: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def change(url: str, *, user: str | None = None, **options: str) -> str:
    place = make_url(url)
    if user is not None:
        place = place.set(username=user)
    return place.update_query_dict(options).render_as_string(hide_password=False)


@contextmanager
def a_queue(url: str, name: str = "s") -> Iterator[TrialQueue]:
    storage = open_storage(url)
    try:
        study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
        yield TrialQueue(study, storage, owner=owner_name(os.getpid()))
    finally:
        storage.engine.dispose()


def run_trial(queue: TrialQueue) -> None:
    trial = queue.claim(9)
    assert trial is not None
    trial.suggest_float("lr", 0.0, 1.0)
    trial.suggest_categorical("kind", ["größer", "λ"])
    queue.set_attributes(trial, {"reason": "Straße λ"})
    queue.report(trial, EpochReport(1, 0.5, {"loss": 1.0}))
    queue.study.tell(trial, 0.5)


@pytest.fixture
def encoded_url(postgres_server: str, request: pytest.FixtureRequest) -> str:
    """A database in another encoding, as `initdb` makes it where LC_ALL is C."""
    name = f"test_{uuid4().hex}"
    run_sql(
        postgres_server,
        f"CREATE DATABASE {name} ENCODING '{request.param}' TEMPLATE template0 "
        "LC_COLLATE 'C' LC_CTYPE 'C'",
    )
    place = make_url(postgres_server).set(drivername="postgresql", database=name)
    return place.render_as_string(hide_password=False)


@pytest.mark.parametrize("encoded_url", ["SQL_ASCII", "LATIN1"], indirect=True)
def test_a_database_may_have_any_encoding(encoded_url: str) -> None:
    with a_queue(encoded_url) as queue:
        run_trial(queue)
    (row,) = trials("s", storage=encoded_url).to_dict("records")
    assert (row["state"], row["reason"]) == ("COMPLETE", "Straße λ")
    assert row["kind"] in ("größer", "λ")
    assert curves("s", storage=encoded_url)["loss"].tolist() == [1.0]
    assert studies(storage=encoded_url)["best"].tolist() == [0.5]


@pytest.mark.parametrize("encoded_url", ["LATIN1"], indirect=True)
def test_a_name_that_an_encoding_cannot_hold_is_one_line(
    encoded_url: str, refused: Callable[..., str], study_file: Callable[..., object]
) -> None:
    study = study_file(content=SMALL_STUDY.replace('"latent"', '"λatent"'))
    said = refused(NAME=study, STORAGE=encoded_url, may_make=["cache", "runs"])
    assert "has no equivalent in encoding" in said
    assert "a database with ENCODING 'UTF8'" in said
    with a_queue(encoded_url) as queue:
        check_encodable(queue.engine, ["größe"])


def test_nothing_is_prepared_and_no_lock_outlives_its_transaction(postgres_url: str) -> None:
    """Behind a pooler, the next transaction runs on another connection of the server."""
    with a_queue(postgres_url) as queue:
        for _ in range(8):  # psycopg prepares what it has executed five times
            run_trial(queue)
        assert all(t.value == 0.5 for t in queue.study.get_trials())
        for _ in range(queue.engine.pool.size()):  # type: ignore[attr-defined]
            with queue.engine.connect() as connection:
                count = "SELECT count(*) FROM"
                assert not connection.scalar(text(f"{count} pg_prepared_statements"))
                locks = f"{count} pg_locks WHERE locktype = 'advisory'"
                assert not connection.scalar(text(locks))


def test_trials_run_where_every_transaction_has_another_connection(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna_storage, "ONE", {"poolclass": sqlalchemy.NullPool})
    with a_queue(postgres_url) as queue:
        for _ in range(3):
            run_trial(queue)
        queue.reclaim_abandoned()
        assert queue.count() == {"COMPLETE": 3}


def test_who_waits_for_a_study_occupies_no_connection(postgres_url: str) -> None:
    """A pooler has few connections: the holder needs one of them for its work."""
    engine, waiting = open_engine(postgres_url), open_engine(change(postgres_url))
    ended = Event()

    def wait() -> None:
        with study_lock(waiting, 7):
            ended.set()

    def is_blocked(engine: Engine) -> bool:
        with engine.connect() as connection:
            return bool(
                connection.scalar(
                    text(
                        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                        "AND datname = current_database()"
                    )
                )
            )

    with study_lock(engine, 7):
        thread = Thread(target=wait)
        thread.start()
        for _ in range(20):
            assert not is_blocked(engine)
            assert not ended.wait(0.01)
    thread.join(timeout=10)
    assert ended.is_set()
    waiting.dispose()
    engine.dispose()


def test_options_of_an_address_are_taken_as_they_stand(postgres_url: str) -> None:
    url = change(
        postgres_url, connect_timeout="5", sslmode="disable", application_name="mine",
        keepalives="1", keepalives_idle="30", prepare_threshold="0",
    )  # fmt: skip
    with a_queue(url) as queue:
        run_trial(queue)
        assert run(queue.engine, "SHOW application_name") == "mine"
    assert len(trials("s", storage=url)) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"connect_timeout": "soon"}, "bad value for connect_timeout: 'soon'.*correct the options"),
        ({"pgbouncer": "true"}, 'invalid connection option "pgbouncer".*correct the options'),
        ({"autocommit": "1"}, "STORAGE sets autocommit, which genstudy sets itself"),
        ({"options": "-csearch_path=nowhere"}, "create the schema that search_path names"),
    ],
)
def test_wrong_options_are_one_line(postgres_url: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(DatabaseUnreachable, match=words) as caught:
        open_storage(change(postgres_url, **options))
    assert "\n" not in str(caught.value)


def test_a_study_may_stand_in_a_schema_of_its_own(postgres_url: str) -> None:
    run_sql(postgres_url, "CREATE SCHEMA mine")
    url = change(postgres_url, options="-csearch_path=mine")
    for _ in range(2):
        with a_queue(url) as queue:
            run_trial(queue)
    assert len(trials("s", storage=url)) == 2
    with pytest.raises(DatabaseUnreachable, match="it holds no trials of Optuna"):
        trials("s", storage=postgres_url)


def test_a_role_that_may_not_create_tables(postgres_url: str) -> None:
    role = f"role_{uuid4().hex}"
    run_sql(postgres_url, f"CREATE ROLE {role} LOGIN")
    url = change(postgres_url, user=role)
    with pytest.raises(DatabaseUnreachable, match=f"USAGE, CREATE ON SCHEMA public TO {role}"):
        open_storage(url)
    with a_queue(postgres_url) as queue:
        run_trial(queue)
    with pytest.raises(DatabaseUnreachable, match=f"GRANT ALL ON ALL TABLES .* TO {role}"):
        trials("s", storage=url)
    run_sql(postgres_url, f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    assert len(trials("s", storage=url)) == len(best("s", storage=url)) == 1
    assert len(curves("s", storage=url)) == len(studies(storage=url)) == 1
    run_sql(
        postgres_url,
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )
    with a_queue(url) as queue:  # the tables are there: nothing has to be created
        run_trial(queue)
    assert len(trials("s", storage=url)) == 2


def test_a_role_without_rights_is_told_what_to_ask_for(
    postgres_url: str, refused: Callable[..., str], study_file: Callable[..., object]
) -> None:
    role = f"role_{uuid4().hex}"
    open_storage(postgres_url).engine.dispose()
    run_sql(postgres_url, f"CREATE ROLE {role} LOGIN")
    url = change(postgres_url, user=role)
    for command, made in (("study", ["cache", "runs"]), ("studies", []), ("dashboard", [])):
        said = refused(command, NAME=study_file(), STORAGE=url, may_make=made)
        assert "GRANT ALL ON ALL TABLES" in said


def test_a_database_of_another_program_is_one_line(postgres_url: str) -> None:
    for read in (studies, lambda storage: trials("s", storage=storage)):
        with pytest.raises(DatabaseUnreachable, match="it holds no trials of Optuna"):
            read(storage=postgres_url)
    run_sql(postgres_url, "CREATE TABLE studies (title text)")
    with pytest.raises(DatabaseUnreachable, match="it holds no trials of Optuna"):
        trials("s", storage=postgres_url)


def test_a_server_that_does_not_answer_is_given_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is frozen, or behind a network that drops packets."""
    storage = open_storage(postgres_url)
    monkeypatch.setattr(postgres_connection, "ANSWER", 0.5)
    began = time.monotonic()
    with pytest.raises(OperationalError, match=r"has not answered for 0\.5 s") as raised:
        run(storage.engine, "SELECT pg_sleep(30)")
    assert time.monotonic() - began < 10
    assert is_away(raised.value)
    assert run(storage.engine, "SELECT 1") == 1
    storage.engine.dispose()


FAILURES = {
    "ended by an operator": "SELECT pg_terminate_backend(pg_backend_pid())",
    "cancelled": "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)",
    "a statement that takes too long": "SET LOCAL statement_timeout = 50; SELECT pg_sleep(5)",
    "a lock that takes too long": "SET LOCAL lock_timeout = 50; LOCK TABLE studies",
    "a server that is being taken over": "SET TRANSACTION READ ONLY; DELETE FROM studies",
    "a transaction that waited": "SET LOCAL idle_in_transaction_session_timeout = 50",
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_a_server_does_to_a_connection_is_waited_out(postgres_url: str, failure: str) -> None:
    storage, other = open_storage(postgres_url), open_storage(postgres_url)
    with other.engine.connect() as holder:
        holder.execute(text("LOCK TABLE studies" if "lock" in failure else "SELECT 1"))
        with pytest.raises(SQLAlchemyError) as raised:
            run_all(storage.engine, FAILURES[failure].split(";"))
    assert is_away(raised.value)
    for each in (storage, other):
        each.engine.dispose()


def run_all(engine: Engine, statements: list[str]) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
        time.sleep(0.2)
        connection.execute(text("SELECT 1"))


def run(engine: Engine, statement: str) -> object:
    with engine.connect() as connection:
        return connection.scalar(text(statement))


def count_connections(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as operator:
        found = operator.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'genstudy'"
        ).fetchone()
    assert found is not None
    return int(found[0])


def test_a_process_holds_one_connection_and_none_once_it_rests(postgres_url: str) -> None:
    """Also under the lock of a study: a pooler may have no second one."""
    counted = []
    with a_queue(postgres_url) as queue:
        queue._next.suggest = lambda trial: None
        queue._next.draw = lambda *_, **__: counted.append(count_connections(postgres_url))  # type: ignore[method-assign]
        run_trial(queue)
        counted.append(count_connections(postgres_url))
        queue.engine.dispose()
        assert counted == [1, 1]
        assert count_connections(postgres_url) == 0


def test_what_is_done_under_a_lock_is_done_as_a_whole(postgres_url: str) -> None:
    with a_queue(postgres_url) as queue, a_queue(postgres_url) as other:

        def make_one() -> None:
            with queue._locked():
                queue.study.enqueue_trial({"lr": 0.5})
                assert queue.count() == {"WAITING": 1}
                assert other.count() == {}, "others do not see it yet"
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            make_one()
        assert queue.count() == {}
        assert queue.study.get_trials() == []
        run_trial(queue)
        assert other.count() == {"COMPLETE": 1}


def test_a_machine_that_vanishes_does_not_keep_its_lock(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_lock_file, "TRY", text(str(study_lock_file.TRY).replace("60s", "1s")))
    with a_queue(postgres_url) as vanished, a_queue(postgres_url) as other:

        def vanish() -> None:
            with study_lock(vanished.engine, 7):
                began = time.monotonic()
                with study_lock(other.engine, 7):
                    assert 0.5 < time.monotonic() - began < 10

        with pytest.raises(SQLAlchemyError) as raised:
            vanish()
        assert is_away(raised.value)


def test_a_server_gives_up_clients_that_have_vanished(postgres_url: str) -> None:
    with a_queue(postgres_url) as queue:
        for name in ("idle_in_transaction_session_timeout", "lock_timeout"):
            assert run(queue.engine, f"SHOW {name}") != "0", name


def test_who_wants_the_run_to_end_waits_for_no_server(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "HURRY", 0.3)
    stop = Event()
    storage = open_storage(postgres_url, given_up=stop.is_set)
    assert run(storage.engine, "SELECT 1 FROM pg_sleep(0.5)") == 1
    stop.set()
    began = time.monotonic()
    with pytest.raises(OperationalError, match=r"has not answered for 0\.3 s"):
        run(storage.engine, "SELECT pg_sleep(30)")
    assert time.monotonic() - began < 5
    storage.engine.dispose()


@pytest.mark.parametrize("create", [True, False])
def test_a_session_that_the_server_has_ended_is_given_back_without_a_traceback(
    postgres_url: str, caplog: pytest.LogCaptureFixture, create: bool
) -> None:
    open_storage(postgres_url).engine.dispose()
    engine = open_storage(postgres_url, create=create).engine
    fairy = engine.raw_connection()
    cursor = fairy.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    (session,) = cursor.fetchone() or (0,)
    with psycopg.connect(postgres_url, autocommit=True) as operator:
        operator.execute("SELECT pg_terminate_backend(%s)", [session])
    fairy.close()
    assert caplog.records == []
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()
