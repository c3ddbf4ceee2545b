"""What is said where no terminal shows a live display."""

from __future__ import annotations

from io import StringIO
from typing import cast

import pytest
from rich.console import Console

from search.messages import EpochEnded, Measuring, Retraining, Started
from search.setup.loading import load_study
from search.supervisor.display import Display
from search.supervisor.worker_pool import WorkerHandle


def test_without_a_terminal_long_work_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.supervisor.display.PLAIN_EVERY", 0.0)
    said = StringIO()
    console = Console(file=said, width=200)
    display = Display("cae", load_study("cae").spec, 50, console)
    worker = cast(WorkerHandle, type("Worker", (), {"index": 0, "device": "cpu"})())
    display.handle_event(worker, Retraining(number=7, epochs=60))
    display.handle_event(
        worker,
        EpochEnded(number=7, epoch=3, epochs=60, value=0.0123, seconds=2.0, retraining=True),
    )
    display.handle_event(worker, Measuring(number=7, what="trained on poisson, epoch 2"))
    assert said.getvalue().splitlines() == [
        "retraining trial 7: epoch 3/60, mse 0.0123, at most 2 min left",
        "measuring trial 7: trained on poisson, epoch 2",
    ]


def test_trials_say_it_in_the_summary_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.supervisor.display.PLAIN_EVERY", 0.0)
    said = StringIO()
    display = Display("cae", load_study("cae").spec, 50, Console(file=said, width=200))
    worker = cast(WorkerHandle, type("Worker", (), {"index": 0, "device": "cpu"})())
    display.handle_event(worker, Started(number=7, epochs=20, parameters={}))
    display.handle_event(
        worker, EpochEnded(number=7, epoch=3, epochs=20, value=0.0123, seconds=2.0)
    )
    assert said.getvalue() == ""
    display.update_counts(display.states)
    assert said.getvalue().startswith("cae  0/50 trials")
