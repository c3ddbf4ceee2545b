"""What a running study shows: a live display on a terminal, plain lines in a log, the time left."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
from rich.cells import cell_len
from rich.console import Console

from search.events import (
    SPENT,
    Ended,
    EpochEnded,
    Measuring,
    Paused,
    Preparing,
    Resumed,
    Retraining,
    Started,
    Warned,
)
from search.pace import WorkerStatus, epoch_pace, seconds_left
from search.setup.loading import load_study
from search.strategies.promotion import AshaPruner
from search.supervisor.display import Display
from search.supervisor.live_view import MOST_ELSEWHERE, MOST_HERE
from search.supervisor.other_machines import OtherMachines
from search.supervisor.worker_pool import WorkerHandle
from search.trials.outcomes import Ending
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue
from search.trials.rung_work import RungWork
from tests.queues import make_study
from tests.test_status import RUNNING
from tests.test_terminal import GAN, STEERING

Handle = Callable[..., Any]


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def a_worker(index: int = 0) -> WorkerHandle:
    fields = {"index": index, "device": "cpu", "log": "runs/log"}
    return cast(WorkerHandle, type("Worker", (), fields)())


def a_display(width: int = 200, *, live: bool = False) -> tuple[Display, StringIO]:
    said = Terminal() if live else StringIO()
    console = Console(file=said, width=width, force_terminal=live, markup=False, emoji=False)
    return Display("cae", load_study("cae").spec, 50, console), said


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that a display reads, in seconds from now on."""
    now = [1000.0]
    monkeypatch.setattr("search.supervisor.display.time.monotonic", lambda: now[0])

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time


def epoch(number: int, done: int, of: int, value: float = 0.0123, seconds: float = 2.0) -> Any:
    return EpochEnded(number=number, epoch=done, epochs=of, value=value, seconds=seconds)


# ---- a worker that holds several trials ----


def test_each_trial_of_a_worker_has_a_row_until_it_ends(clock: Callable[[float], None]) -> None:
    display, said = a_display()
    for number in (3, 7):
        display.handle_event(a_worker(), Started(number=number, epochs=20, parameters={}))
    for done in (1, 2):
        clock(2.0)
        for number in (3, 7):
            display.handle_event(a_worker(), epoch(number, done, 20, value=number / 100))
    assert drawn(display, said)[-2:] == [
        "worker 0  cpu  trial 3  epoch 2/20  0.03  2.0 s/epoch",
        "worker 0  cpu  trial 7  epoch 2/20  0.07  2.0 s/epoch",
    ]
    assert "1.0 s/epoch" in display.progress.summary(), (
        "an epoch of one or the other ends each second"
    )
    display.handle_event(a_worker(), ended("pruned"))
    assert drawn(display, said)[-1:] == ["worker 0  cpu  trial 3  epoch 2/20  0.03  2.0 s/epoch"]
    display.handle_event(a_worker(), Paused(number=3, epoch=2, value=0.03))
    assert drawn(display, said)[-1:] == ["worker 0  cpu  idle"]


def test_of_many_trials_the_first_are_shown() -> None:
    display, said = a_display()
    for number in range(MOST_HERE + 4):
        display.handle_event(a_worker(), Started(number=number, epochs=20, parameters={}))
    lines = drawn(display, said)
    assert sum("worker 0" in line for line in lines) == MOST_HERE
    assert lines[-1] == "and 4 trials more here"


def test_no_row_stays_of_a_worker_that_has_died() -> None:
    display, said = a_display()
    for number in (3, 7):
        display.handle_event(a_worker(), Started(number=number, epochs=20, parameters={}))
    display.show_death(a_worker(), SPENT, [3, 7])
    assert drawn(display, said)[-1:] == ["worker 0  cpu  starting"]


def drawn(display: Display, said: StringIO) -> list[str]:
    """Return the lines of the live display, without the spaces that align them."""
    said.truncate(0)
    said.seek(0)
    display.console.print(display._draw())
    lines = [re.sub(r" {2,}", "  ", line).strip() for line in said.getvalue().splitlines()]
    return [line for line in lines if line]


# ---- in a log ----


def test_without_a_terminal_long_work_says_how_far_it_is(clock: Callable[[float], None]) -> None:
    display, said = a_display()
    display.handle_event(a_worker(), Retraining(number=7, epochs=60))
    clock(30.0)
    display.handle_event(
        a_worker(),
        EpochEnded(number=7, epoch=3, epochs=60, value=0.0123, seconds=2.0, retraining=True),
    )
    clock(30.0)
    display.handle_event(a_worker(), Measuring(number=7, what="trained on poisson, epoch 2"))
    assert said.getvalue().splitlines() == [
        "retraining trial 7: epoch 3/60, mse 0.0123, at most 2 min left",
        "measuring trial 7: trained on poisson, epoch 2",
    ]


def test_a_log_says_now_and_then_what_a_long_trial_has_come_to(
    clock: Callable[[float], None],
) -> None:
    display, said = a_display()
    for index in (0, 1):
        display.handle_event(a_worker(index), Started(number=7 + index, epochs=20, parameters={}))
    for done in (1, 2, 3):
        clock(9.0)
        display.handle_event(a_worker(), epoch(7, done, 20, seconds=9.0))
        display.update_counts(Counter(RUNNING=2))
    assert said.getvalue() == "", "27 seconds are not long"
    clock(9.0)
    display.update_counts(Counter(RUNNING=2))
    assert said.getvalue().splitlines() == [
        "cae  0/50 trials  2 running  9.0 s/epoch  74 min left",
        "trial 7: epoch 3/20, mse 0.0123; trial 8: epoch 0/20",
    ]


def test_a_log_of_days_is_no_longer_than_one_of_hours(clock: Callable[[float], None]) -> None:
    display, said = a_display()
    for _ in range(2 * 24 * 360):
        clock(10.0)
        display.update_counts(Counter(RUNNING=1))
    assert 200 < said.getvalue().count("\n") < 500


def test_what_all_workers_say_is_said_once() -> None:
    display, said = a_display()
    for index in range(8):
        display.handle_event(a_worker(index), Preparing(line="the classifier is trained"))
        display.handle_event(a_worker(index), Warned(what="pictures", message="the disk is full"))
        display.show_death(a_worker(index), SPENT, [])
    assert said.getvalue().splitlines() == [
        "the classifier is trained",
        "worker 0: the disk is full",
        "worker 0 starts anew: memory had run out",
    ]


def ended(outcome: str, **more: Any) -> Any:
    return Ended(number=7, outcome=outcome, value=more.pop("value", None), **more)


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([epoch(7, 1, 20), ended("complete", value=0.01)], r"complete    mse 0.01  .*  \*best$"),
        ([epoch(7, 1, 20), ended("pruned")], "pruned      mse 0.0123 after 1 epoch  "),
        ([epoch(7, 2, 20), ended("pruned")], "pruned      mse 0.0123 after 2 epochs  "),
        ([ended("diverged", reason="DivergedError: ...")], "diverged    in epoch 1  "),
        ([epoch(7, 2, 20), ended("diverged")], "diverged    mse 0.0123 after 2 epochs  "),
        ([ended("failed", reason="KeyError: '[/x]'\nmore")], r"failed      KeyError: '\[/x\]'  "),
        (
            [ended("failed", reason="KeyError: 'a'", place="own.py, line 7")],
            "failed      own.py, line 7: KeyError: 'a'  ",
        ),
        ([ended("pruned", verdict="d_won")], "pruned      D won  "),
    ],
)
def test_the_line_of_a_trial_says_how_it_ended(events: list[Any], line: str) -> None:
    display, said = a_display()
    parameters = {"lr": 0.5, "choice": STEERING}
    display.handle_event(a_worker(), Started(number=7, epochs=20, parameters=parameters))
    for event in events:
        display.handle_event(a_worker(), event)
    shown = said.getvalue()
    assert re.match(f"trial   7  {line}", shown)
    assert r"lr 0.5, choice bell\x07 \x1b[31mred" in shown
    assert shown.count("\n") == 1


def test_a_trial_that_fails_before_it_starts_took_no_time(clock: Callable[[float], None]) -> None:
    """`suggest` fails or turns its parameters down: there is no start from which to count."""
    display, said = a_display()
    clock(40_000.0)  # the clock counts from the machine's start
    display.handle_event(a_worker(), ended("failed", reason="KeyError: 'oops'"))
    assert said.getvalue() == "trial   7  failed      KeyError: 'oops'\n"
    assert display.progress.costs == [], "nor does it say how long a trial takes"


def test_a_trial_that_goes_on_says_at_which_epoch() -> None:
    display, said = a_display()
    display.handle_event(a_worker(), Started(number=7, epochs=60, parameters={}))
    display.handle_event(a_worker(), Resumed(number=7, epoch=56))
    assert said.getvalue() == "trial   7  goes on at epoch 57\n"
    display.handle_event(a_worker(), ended("complete", value=0.1))
    assert display.progress.costs == [], "four epochs are not what a trial takes"


def test_paused_trials_that_go_on_count_as_running_at_once() -> None:
    display, _ = a_display()
    display.update_counts(Counter(COMPLETE=2, RUNNING=1, PAUSED=12))
    for worker in range(3):
        display.handle_event(a_worker(worker), Started(number=worker, epochs=9, parameters={}))
        if worker:
            display.handle_event(a_worker(worker), Resumed(number=worker, epoch=3))
    assert display.progress.summary() == "cae  2/50 trials  2 complete  3 running  10 paused"
    display.update_counts(Counter(COMPLETE=2, RUNNING=3, PAUSED=10))
    assert display.progress.summary() == "cae  2/50 trials  2 complete  3 running  10 paused"
    display.handle_event(a_worker(3), Started(number=20, epochs=9, parameters={}))
    assert "10 paused" in display.progress.summary(), "a new trial was not paused"


def test_diverged_trials_are_not_counted_as_pruned() -> None:
    display, _ = a_display()
    display.set_ends(Counter(complete=3, diverged=2, pruned=1))
    display.handle_event(a_worker(), Started(number=7, epochs=2, parameters={}))
    display.handle_event(a_worker(), ended("infeasible", reason="MemoryError"))
    display.update_counts(Counter(COMPLETE=3, PRUNED=4, FAIL=1))
    counted = "3 complete  1 pruned  2 diverged  1 infeasible  1 failed"
    assert display.progress.summary() == f"cae  8/50 trials  {counted}"


# ---- on a terminal ----


@pytest.mark.parametrize("width", [70, 80, 100, 150])
def test_the_live_display_fits_and_cuts_no_number(width: int) -> None:
    display, said = a_display(width, live=True)
    display.leader.mark(17, [0.0123456], GAN, violates=False)
    display.update_counts(Counter(COMPLETE=21, PRUNED=16, FAIL=1, RUNNING=2))
    for index in range(2):
        display.handle_event(a_worker(index), Started(number=38, epochs=20, parameters=GAN))
        display.handle_event(a_worker(index), epoch(38, 7, 20, value=1.23456e-05, seconds=4.9))
    display.handle_event(a_worker(2), Measuring(number=7, what="trained on poisson, " * 5))
    display.console.print(display._draw())
    display.handle_event(a_worker(), Ended(number=38, outcome="pruned", value=None))
    lines = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).splitlines()
    assert max(map(cell_len, lines)) <= width
    shown = "\n".join(lines)
    for word in ("38/50 trials", "21 complete", "16 pruned", "2 running", "left", "0.0123456"):
        assert word in shown
    rows = [line for line in lines if line.startswith("worker")]
    assert re.match(r"worker 0  cpu  trial 38 +epoch 7/20  1\.23456e-05  4\.9 s/epoch$", rows[0])
    assert rows[2].startswith("worker 2  cpu  trial 7: ")
    assert len(lines) <= 13, "a best trial and an ended one take two lines each"


def test_a_log_in_colours_is_a_log_all_the_same() -> None:
    said = StringIO()
    display = Display("cae", load_study("cae").spec, 50, Console(file=said, force_terminal=True))
    with display:
        display.say("a line")
    assert said.getvalue() == "a line\n", "no cursor is moved"


# ---- the time left ----


def at_epoch(
    done: int, of: int, pace: float, *, turned: float = 100.0, most: float = math.inf
) -> WorkerStatus:
    since = turned - done * pace
    status = WorkerStatus("cpu", "trial", 7, epochs=of, since=since, most=most)
    status.turned = turned - pace
    status.note_epoch(done, value=0.1, seconds=pace, now=turned)
    return status


def left(*statuses: WorkerStatus, now: float = 100.0, **more: Any) -> float | None:
    known: dict[str, Any] = {"costs": [], "unstarted": 0, "others": 0, **more}
    return seconds_left(statuses, now=now, **known)


def test_the_last_trial_takes_the_epochs_that_are_left() -> None:
    assert left(at_epoch(5, 20, 10.0), costs=[20.0] * 9) == 150.0, "others were pruned early"
    assert left(at_epoch(5, 20, 10.0), now=107.0) == 143.0
    assert left(at_epoch(19, 20, 10.0), now=150.0) == 0.0, "it is late"
    idle = WorkerStatus("cpu", "idle")
    assert left(at_epoch(5, 20, 10.0), idle) == 150.0, "whoever is idle does not help"


def test_a_trial_takes_no_longer_than_it_may() -> None:
    assert left(at_epoch(5, 20, 10.0, most=60.0)) == 10.0
    assert left(at_epoch(5, 20, 10.0, most=60.0), unstarted=2) == 130.0, "none may"
    assert left(at_epoch(5, 20, 10.0, most=900.0)) == 150.0


def test_trials_go_to_whoever_is_free_first() -> None:
    two = (at_epoch(10, 20, 10.0), at_epoch(18, 20, 10.0))
    assert left(*two, costs=[60.0], unstarted=1) == 100.0
    assert left(*two, costs=[60.0], unstarted=2) == 140.0
    assert left(*two, costs=[60.0], unstarted=2, others=1) == 100.0
    assert left(*two, costs=[60.0], unstarted=1_000_000) == pytest.approx(3e7, rel=1e-3)


def test_nothing_is_guessed_before_the_first_epoch() -> None:
    begun = WorkerStatus("cpu", "trial", 7, epochs=20, since=90.0)
    assert left() is None
    assert left(begun, unstarted=3) is None
    assert left(begun, costs=[60.0]) == 50.0
    assert left(begun, at_epoch(10, 20, 10.0), unstarted=1) == 300.0


def test_promotions_from_rungs_are_part_of_the_time_left(clock: Any) -> None:
    display, _ = a_display()
    display.handle_event(a_worker(), Started(number=48, epochs=9, parameters={}))
    clock(10.0)
    display.handle_event(a_worker(), epoch(48, 1, 9, seconds=10.0))
    display.update_counts(Counter(PAUSED=48, RUNNING=1))
    pruner = AshaPruner()
    display.progress.rungs = RungWork(stretches=Counter({1: 1, 2: 6}), pruner=pruner, epochs=9)
    assert pruner.rung_epochs(9, 48) == (1, 3)
    assert display.progress.seconds_left() == 20.0 + 10.0 + 120.0, "48 pauses again after 3 epochs"
    display.progress.rungs = RungWork(stretches=Counter(), pruner=pruner, epochs=9)
    assert display.progress.seconds_left() == 20.0


def test_nobody_promises_no_time_while_the_last_trial_is_measured(clock: Any) -> None:
    display, _ = a_display()
    display.handle_event(a_worker(), Started(number=49, epochs=2, parameters={}))
    for number in (1, 2):
        clock(10.0)
        display.handle_event(a_worker(), epoch(49, number, 2, seconds=10.0))
        display.update_counts(Counter(COMPLETE=49, RUNNING=1))
        assert (" left" in display.progress.summary()) == (number == 1)


def test_the_pace_is_that_of_all_workers_and_of_an_epoch_that_lasts() -> None:
    two = [at_epoch(1, 20, 2.0), at_epoch(1, 20, 2.0)]
    assert epoch_pace(two, 100.0) == 1.0
    assert epoch_pace([at_epoch(1, 20, 300.0)], 250.0) == 300.0, "longer than a minute"
    assert epoch_pace([at_epoch(1, 20, 2.0)], 160.0) == 60.0
    assert epoch_pace([WorkerStatus("cpu", "idle")], 100.0) is None


# ---- workers of other machines ----


def test_workers_of_other_machines_are_shown_and_counted(clock: Callable[[float], None]) -> None:
    display, said = a_display(100, live=True)
    display.update_counts(Counter(COMPLETE=21, RUNNING=20))
    display.handle_event(a_worker(), Started(number=38, epochs=20, parameters=GAN))
    clock(4.0)
    display.handle_event(a_worker(), epoch(38, 1, 20, seconds=4.0))
    many = [replace(RUNNING, number=40 + index) for index in range(19)]
    display.progress.show_elsewhere(many, epochs=20)
    left = display.progress.seconds_left()
    assert left is not None
    assert 13 * 4.9 < left < 13 * 4.9 + 20 * 4.9, "the 13 epochs that are left, and one trial more"
    display.console.print(display._draw())
    lines = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).splitlines()
    assert max(map(cell_len, lines)) <= 100
    rows = [line for line in lines if line.startswith("node-17 ")]
    assert len(rows) == MOST_ELSEWHERE
    assert re.search(r"trial 40 +epoch 7/20 +1\.23456e-05 +4\.9 s/epoch$", rows[0])
    assert lines[-1] == f"and {19 - MOST_ELSEWHERE} trials more elsewhere"
    display.begin_finish()
    assert not display.progress.elsewhere


def test_a_log_says_how_trials_of_other_machines_end(tmp_path: Path) -> None:
    queue = make_study(f"sqlite:///{tmp_path / 'studies.db'}", "cae")
    other = TrialQueue(queue.study, queue.storage, owner=owner_name(7))
    display, said = a_display()
    elsewhere = OtherMachines(queue, display, epochs=20)

    def look() -> list[str]:
        said.truncate(0)
        said.seek(0)
        elsewhere.look({queue.owner}, at_once=True)
        return said.getvalue().splitlines()

    earlier, running = other.claim(9), other.claim(9)
    assert earlier is not None
    assert running is not None
    other.end(earlier, Ending.complete(0.5, 3))
    assert look() == [], "what had ended before is told by others"
    assert list(display.progress.elsewhere) == [1]
    ours = queue.claim(9)
    assert ours is not None
    look()
    assert list(display.progress.elsewhere) == [1], "our own worker is no other machine"
    about = {"seconds": 8.0}
    other.set_attributes(running, {"host": "node-17.cluster", "pid": 1, "device": "cpu"})
    other.end(running, Ending.complete(0.25, 3).with_attributes(about))
    queue.set_attributes(ours, {"host": elsewhere.host, "pid": os.getpid()})
    queue.end(ours, Ending.complete(0.125, 3))
    assert look() == ["trial   1  complete    mse 0.25  8 s  on node-17  *best"]
    assert display.progress.costs == [8.0]
    assert look() == []
    elsewhere.forget()
    assert look() == []
