"""NOTIFY: whoever wants to hears that the best improved, that a study failed, that it is done."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from search import passwords
from search.cli.notifying import notices_of, tell_end
from search.errors import BadVariable
from search.receiver import NotDelivered, Receiver, parse_receiver
from search.run import StudyRun
from search.setup.extension import extend_epochs
from search.setup.loading import load_study
from search.setup.stored_study import write_identity
from search.strategies.pruners import make_pruner
from search.supervisor import notices, sender
from search.supervisor.notices import Notices
from search.trials.epoch_report import EpochReport
from search.trials.outcomes import Ending
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue, open_queue
from search.variables import Variables, read_variables
from storage.database.notices import claim_notice, make_notices
from storage.database.returns import let_return
from storage.database.transactions import write
from tests.queues import make_study
from tests.test_joining import IDENTITY
from tests.user import User, WriteStudy, free_port, slow, wait_until, watched

FEW_DIGITS = True

SECRET = "T0K3N-hunter2"


@dataclass
class Hook:
    """A real server that takes JSON, on a port of its own.

    answers: status of each answer, then 200; delay: seconds before one, or until it is let go
    """

    server: ThreadingHTTPServer
    heard: list[dict[str, Any]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    delay: float = 0.0
    let_go: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hooks/{SECRET}?key={SECRET}"

    @property
    def events(self) -> list[str]:
        return [message["event"] for message in self.heard]


@pytest.fixture
def hook() -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if made.let_go.wait(made.delay):
                return
            status = made.answers.pop(0) if made.answers else 200
            if status == 200:
                assert self.headers["Content-Type"] == "application/json"
                made.heard.append(json.loads(content))
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False  # its end waits for all answers

        def handle_error(self, request: object, address: object) -> None:
            """Say nothing of a client that has not waited."""

    made = Hook(Server(("127.0.0.1", 0), Handler))
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.let_go.set()
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@dataclass
class Machine:
    """A machine's part in a study: its queue, what it tells, what it says itself."""

    queue: TrialQueue
    notices: Notices
    said: list[str]

    def end(self, value: float) -> None:
        """Let a trial end with this value, and look for the best."""
        trial = self.queue.claim(9)
        assert trial is not None
        self.queue.end(trial, Ending.complete(value, 1))
        self.notices.look_for_best(at_once=True)


@pytest.fixture
def make_machine(study_file: WriteStudy) -> Iterator[Callable[..., Machine]]:
    spec = load_study(str(study_file())).spec
    made: list[Machine] = []

    def make(queue: TrialQueue, url: str, **run: Any) -> Machine:
        said: list[str] = []
        about = StudyRun(
            name="small", study="s", storage="", runs="", images="", seed=0, trials=9, epochs=2,
            retrain_epochs=2, revision="", token="t",
        )  # fmt: skip
        about = replace(about, **run)
        made.append(
            Machine(queue, Notices(parse_receiver(url), queue, about, spec, said.append), said)
        )
        return made[-1]

    yield make
    for machine in made:
        machine.notices.close()


def test_each_improvement_is_told_once_by_any_machine_and_after_restarts(
    storage_url: str, hook: Hook, make_machine: Callable[..., Machine]
) -> None:
    queue = make_study(storage_url)
    first = make_machine(queue, hook.url)
    second = make_machine(open_queue("s", storage_url, owner=owner_name(2)), hook.url)
    for machine, value in ((first, 0.5), (second, 0.7), (second, 0.4), (first, 0.4), (first, 0.3)):
        machine.end(value)
    for machine in (first, second):
        machine.notices.look_for_best(at_once=True)
        machine.notices.close()
    again = make_machine(queue, hook.url)
    again.notices.look_for_best(at_once=True)
    again.notices.close()
    told = sorted((each["trial"], each["value"]) for each in hook.heard)
    assert told == [(0, 0.5), (2, 0.4), (4, 0.3)]
    assert {each["study"] for each in hook.heard} == {"s"}
    assert len({each["id"] for each in hook.heard}) == 3
    by_trial = {each["trial"]: each for each in hook.heard}
    assert by_trial[2]["text"] == (
        "study s: trial 2 is the best so far, mse 0.4; 3 of 9 trials have ended"
    )
    assert by_trial[2]["parameters"] == {}
    assert first.said == second.said == []


def test_a_best_trial_that_more_epochs_improve_is_told_again(
    storage_url: str, hook: Hook, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(make_study(storage_url), hook.url)
    for value in (0.5, 0.4, 0.4):
        machine.end(value)
        with write(machine.queue.engine) as connection:
            let_return(connection, machine.queue.id_of(0))
        machine.queue.read_again()
    machine.notices.close()
    assert [(each["trial"], each["value"]) for each in hook.heard] == [(0, 0.5), (0, 0.4)]


@pytest.mark.parametrize("pruner", ["none", "asha"])
def test_no_trial_is_the_best_while_a_better_one_goes_on_with_more_epochs(
    storage_url: str, hook: Hook, make_machine: Callable[..., Machine], pruner: str
) -> None:
    queue = make_study(storage_url)
    queue.study.pruner = make_pruner(pruner)
    write_identity(queue.study, replace(IDENTITY, epochs=3))
    values = (0.6, 0.3, 0.5, 0.7, 0.8, 0.9)
    for value in values:  # in a run without NOTIFY
        trial = queue.claim(6)
        assert trial is not None
        for epoch in (1, 2, 3):
            queue.report(trial, EpochReport(epoch, value, {}))
        queue.end(trial, Ending.complete(value, 3))
    machine = make_machine(queue, hook.url, epochs=9)
    assert extend_epochs(queue, machine.notices.run, filed=3)
    goes_on = {0: 0.55, 1: 0.3, 2: 0.5}
    while (trial := queue.claim(6)) is not None:
        value = goes_on.get(trial.number, values[trial.number])
        queue.report(trial, EpochReport(9, value, {}))
        queue.end(trial, Ending.complete(value, 9))
        machine.notices.look_for_best(at_once=True)
    machine.notices.close()
    assert [(each["trial"], each["value"]) for each in hook.heard] == [(1, 0.3)]


def test_a_look_is_cheap_and_seldom(
    storage_url: str, hook: Hook, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(make_study(storage_url), hook.url)
    machine.notices.look_for_best()
    trial = machine.queue.claim(9)
    assert trial is not None
    machine.queue.end(trial, Ending.complete(0.5, 1))
    machine.notices.look_for_best()
    machine.notices.close()
    assert hook.heard == [], "the last look was a moment ago"


def test_of_many_that_claim_a_message_one_tells_it(storage_url: str) -> None:
    engine = make_study(storage_url).engine
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: make_notices(engine), range(8)))
        claims = list(pool.map(lambda _: claim_notice(engine, "t", "done 9"), range(8)))
    assert sorted(claims) == [False] * 7 + [True]
    assert claim_notice(engine, "of another study", "done 9")


def test_an_older_database_without_the_table_costs_no_message(
    storage_url: str, hook: Hook, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(make_study(storage_url), hook.url)
    with machine.queue.engine.begin() as connection:
        connection.execute(text("DROP TABLE genstudy_notices"))
    machine.end(0.5)
    machine.notices.close()
    assert hook.events == ["best"]


def test_a_role_that_may_make_no_table_costs_the_messages_and_no_study(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(engine: object) -> None:
        raise ProgrammingError("CREATE TABLE", {}, Exception("permission denied for schema public"))

    monkeypatch.setattr(notices, "make_notices", refuse)
    said: list[str] = []
    supervisor: Any = SimpleNamespace(
        queue=make_study(storage_url), run=None, notices=None,
        study=SimpleNamespace(spec=None), display=SimpleNamespace(say=said.append),
    )  # fmt: skip
    with notices_of(supervisor, Variables(notify=parse_receiver(f"https://h/{SECRET}"))):
        assert supervisor.notices is None
    (line,) = said
    assert line.startswith("NOTIFY: h is told nothing: the trial database failed (permission")
    assert SECRET not in line


def test_the_end_and_a_failure_are_told_once_each(
    storage_url: str, hook: Hook, make_machine: Callable[..., Machine]
) -> None:
    queue = make_study(storage_url)
    trial = queue.claim(9)
    assert trial is not None
    queue.end(trial, Ending.complete(0.5, 1))  # and the search stops before the others
    for _ in range(2):
        machine = make_machine(queue, hook.url)
        machine.notices.tell_failed("3 trials in a row failed (KeyError: 'a'); see worker-1.log")
        machine.notices.tell_done("the best is trial 4", trial=4)
        machine.notices.close()
    machine.notices.close()
    later = make_machine(queue, hook.url, token="t")
    later.notices.tell_failed("4 trials in a row failed (KeyError: 'a'); see worker-2.log")
    later.notices.tell_failed("disk full")
    later.notices.close()
    assert hook.events == ["failed", "done", "failed"]
    assert hook.heard[1]["text"] == "study s is done: 1 trial has ended, the best is trial 4"
    assert hook.heard[2]["reason"] == "disk full"


def test_a_receiver_that_is_late_costs_a_line_and_no_time(
    storage_url: str,
    hook: Hook,
    make_machine: Callable[..., Machine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deliver = Receiver.deliver
    monkeypatch.setattr(Receiver, "deliver", lambda self, message: deliver(self, message, 0.2))
    hook.delay = 60.0
    machine = make_machine(make_study(storage_url), hook.url)
    for reason in ("disk full", "no memory"):
        began = time.monotonic()
        machine.notices.tell_failed(reason)
        assert time.monotonic() - began < 20, "it does not wait for the receiver"
    machine.notices.close()
    assert machine.said == ["NOTIFY: 127.0.0.1 is not told (no answer in 0.2 s)"]


def test_a_receiver_that_never_answers_ends_no_command(
    storage_url: str,
    hook: Hook,
    make_machine: Callable[..., Machine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "FAREWELL", 0.2)
    hook.delay = 60.0
    machine = make_machine(make_study(storage_url), hook.url)
    machine.notices.tell_done("x")
    began = time.monotonic()
    machine.notices.close()
    assert time.monotonic() - began < 20
    assert machine.said == ["NOTIFY: 127.0.0.1 takes too long; whether it was told is not known"]


@pytest.mark.parametrize(
    ("answers", "events", "said"),
    [
        ([503, 429], ["done"], []),
        ([503, 503, 503], [], ["NOTIFY: 127.0.0.1 is not told (it answers 503)"]),
        ([500], [], ["NOTIFY: 127.0.0.1 is not told (it answers 500)"]),
        ([302], [], ["NOTIFY: 127.0.0.1 is not told (it answers 302)"]),
    ],
)
def test_what_certainly_was_not_taken_is_sent_again(
    hook: Hook,
    make_machine: Callable[..., Machine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answers: list[int],
    events: list[str],
    said: list[str],
) -> None:
    monkeypatch.setattr(sender, "PAUSES", (0.01, 0.01))
    hook.answers = answers
    machine = make_machine(make_study(f"sqlite:///{tmp_path / 'studies.db'}"), hook.url)
    machine.notices.tell_done("x")
    wait_until(lambda: not hook.answers, 5)
    machine.notices.sender._closing.wait(0.3)
    machine.notices.close()
    assert (hook.events, machine.said) == (events, said)


def test_a_receiver_that_is_away_is_said_without_its_address(tmp_path: Path) -> None:
    receiver = parse_receiver(f"http://127.0.0.1:{free_port()}/{SECRET}")
    with pytest.raises(NotDelivered, match=r"cannot be reached \(Connection refused\)") as why:
        receiver.deliver({})
    assert why.value.may_repeat
    assert SECRET not in f"{why.value} {receiver!r} {receiver.shown}"
    assert why.value.__suppress_context__


def test_messages_that_a_command_appends_to_a_file_are_lines(tmp_path: Path) -> None:
    place = tmp_path / "heard"
    receiver = parse_receiver(f"cat >> '{place}'")
    receiver.deliver({"event": "best", "text": "two\nlines"})
    receiver.deliver({"event": "done"})
    heard = [json.loads(line)["event"] for line in place.read_text().splitlines()]
    assert heard == ["best", "done"]


def test_a_command_gets_the_message_on_its_standard_input(tmp_path: Path) -> None:
    place = tmp_path / "it's here.json"
    receiver = parse_receiver(f'cat > "{place}"')
    receiver.deliver({"event": "done", "text": "ü"})
    assert json.loads(place.read_text()) == {"event": "done", "text": "ü"}
    assert receiver.shown == "cat"
    with pytest.raises(NotDelivered, match="it ended with code 3"):
        parse_receiver("exit 3").deliver({})
    began = time.monotonic()
    with pytest.raises(NotDelivered, match=r"it has not ended after 0\.2 s"):
        parse_receiver("sleep 77 | cat; true").deliver({}, timeout=0.2)
    assert time.monotonic() - began < 5
    wait_until(lambda: not is_asleep(), 20)


def is_asleep() -> bool:
    found = psutil.process_iter(["cmdline"])
    return any(process.info["cmdline"] == ["sleep", "77"] for process in found)


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (f"ftp://host/{SECRET}", "NOTIFY begins with ftp://, which takes no JSON"),
        (f"https:///{SECRET}", "NOTIFY is no address such as https://host/path"),
        (f"https://host:none/{SECRET}", "NOTIFY is no address"),
        (f"https://host/{SECRET} x", "NOTIFY is no address"),
        ("file:/no/such/file", "cannot read NOTIFY=file:/no/such/file"),
    ],
)
def test_a_wrong_address_is_refused_without_being_shown(
    refused: Callable[..., str], written: str, line: str
) -> None:
    said = refused("study", NAME="cae", NOTIFY=written)
    assert line in said
    assert SECRET not in said


def test_a_file_of_ones_own_holds_the_address(tmp_path: Path) -> None:
    path = tmp_path / "hook"
    path.write_text(f"https://hooks.example/{SECRET}\n")
    with pytest.raises(BadVariable, match="may be read by others; keep it to yourself: chmod 600"):
        parse_receiver(f"file:{path}")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    receiver = parse_receiver(f"file:{path}")
    assert receiver == Receiver(url=f"https://hooks.example/{SECRET}")
    assert receiver.shown == "hooks.example"
    assert SECRET not in repr(read_variables({"NOTIFY": f"file:{path}"}))
    path.write_text("a\nb")
    with pytest.raises(BadVariable, match="is no file of one line"):
        parse_receiver(f"file:{path}")


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("https://hooks.example/T0/B1", True),
        ("HTTP://me:secret@host?x=1", True),
        ("https://host", False),
        ("https://host/", False),
        ("notify-send https://host/x", False),
    ],
)
def test_a_path_counts_as_secret(address: str, holds: bool) -> None:
    assert passwords.holds_path(address) is holds


@pytest.mark.parametrize("typed", [True, False])
def test_a_secret_address_reaches_the_command_through_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], typed: bool
) -> None:
    begun: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *given: begun.append(given))
    address, storage = f"https://hooks.example/{SECRET}", "postgresql://me:hunter2@h/d"
    words = [sys.executable, "genstudy", "study", "cae"]
    monkeypatch.setattr(sys, "orig_argv", [*words, f"NOTIFY={address}"] if typed else words)
    monkeypatch.setenv("STORAGE", storage)
    if not typed:
        monkeypatch.setenv("NOTIFY", address)
    passwords.hide_password()
    ((_, began, environment),) = begun
    assert SECRET not in repr((began, environment))
    assert "hunter2" not in repr((began, environment))
    assert ("NOTIFY=file:PATH" in capfd.readouterr().err) is typed  # the warning
    piped = began[-1].removeprefix("NOTIFY=") if typed else environment["NOTIFY"]
    monkeypatch.setenv("NOTIFY", piped)
    monkeypatch.setenv("STORAGE", environment["STORAGE"])
    with passwords.received_storage():
        assert not {"NOTIFY", "STORAGE"} & set(os.environ)
        found = read_variables()
        assert found.notify == Receiver(url=address)
        assert found.storage == storage
    assert os.environ["NOTIFY"] == address


def test_the_end_of_a_study_with_exports_says_what_the_winner_scored(
    storage_url: str, hook: Hook, make_machine: Callable[..., Machine]
) -> None:
    machine = make_machine(make_study(storage_url), hook.url, trials=1, runs="/r", study="cae")
    machine.end(0.5)
    supervisor: Any = SimpleNamespace(
        notices=machine.notices, queue=machine.queue, run=machine.notices.run,
        study=SimpleNamespace(spec=machine.notices.spec),
    )  # fmt: skip
    record = {
        "trial": 0, "rank": 1, "metric": "mse", "direction": "minimize",
        "valid": {"mse": 0.25}, "test": {"mse": 0.125},
    }  # fmt: skip
    tell_end(supervisor, [record], code=0)
    tell_end(supervisor, [], code=1)
    machine.notices.close()
    assert hook.events == ["best", "done", "failed"]
    _, done, failed = hook.heard
    assert (done["valid"], done["test"], done["export"]) == (0.25, 0.125, "/r/exports/cae/1")
    assert done["text"] == (
        "study cae is done: 1 trial has ended, the best is trial 0, mse 0.25, test 0.125; "
        "/r/exports/cae/1"
    )
    assert failed["reason"] == "no trial is complete: nothing to export"


def test_a_study_tells_its_best_and_its_end_and_keeps_the_secret(
    user: User, study_file: WriteStudy, hook: Hook
) -> None:
    path = study_file(replace=slow(0.05))
    given: dict[str, Any] = {"NAME": path, "NOTIFY": hook.url, "WORKERS": 1, "TRIALS": 3, "TOP": 0}
    with watched(user.start(**given)) as process:
        wait_until(lambda: bool(hook.heard))
        for child in psutil.Process(process.pid).children(recursive=True):
            seen = repr((child.cmdline(), child.environ()))
            assert SECRET not in seen
        out, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    bests = [each for each in hook.heard if each["event"] == "best"]
    values = [each["value"] for each in bests]
    assert values == sorted(values, reverse=True)
    assert hook.events == ["best"] * len(bests) + ["done"]
    done = hook.heard[-1]
    assert done["text"].startswith(
        f"study small is done: 3 trials have ended, the best is trial {bests[-1]['trial']}, mse "
    )
    assert (done["trial"], done["value"]) == (bests[-1]["trial"], values[-1])
    assert user.run(**given)[0] == 0
    assert hook.events.count("done") == 1, "the same command again tells nothing new"
    assert len(hook.heard) == len(bests) + 1
    kept = [place for place in user.runs.rglob("*") if place.is_file()]
    assert kept
    assert not [place for place in kept if SECRET.encode() in place.read_bytes()]
    assert SECRET not in out + error
    with sqlite3.connect(user.runs / "studies.db") as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM genstudy_notices")}
    connection.close()
    told = {f"best {each['trial']} {each['value']!r}" for each in bests}
    assert names == told | {"done 3 x 2"}


def test_a_study_that_fails_says_why_once(user: User, study_file: WriteStudy, hook: Hook) -> None:
    """Its model works on the two images of the dry run, and fails on a batch."""
    broken = """class Broken(CAE):
        def train_step(self, batch):
            if len(batch.images) > 2:
                raise KeyError("a mistake in the model")
            return super().train_step(batch)

    """
    path = study_file(
        replace={"model=CAE,": "model=Broken,", "def suggest": broken + "def suggest"}
    )
    for _ in range(2):
        code, _, error = user.run(NAME=path, NOTIFY=hook.url, WORKERS=1, TRIALS=9, TOP=0)
        assert code == 2, error
        assert "3 trials in a row failed for the same reason" in error
    assert hook.events == ["failed"]
    assert "study small failed: 3 trials in a row" in hook.heard[0]["text"]
