"""Memory that runs out: the trial is infeasible, the sampler learns it, the study goes on.

Real workers under a limit that Linux holds them to.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch

from search.trials.queue import TrialQueue
from search.worker.context import WorkerContext
from search.worker.device import TrialMemory, taken_memory
from search.worker.device_trouble import MOST_CROWDED, DeviceCrowded, SpentProcess
from search.worker.trial import run_trial
from storage import trials
from tests.trials import Greedy, MakeContext
from tests.user import User, WriteStudy, is_error_line, wait_until, watched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds to the limit")

LIMIT = 2.0  # GiB: a worker takes nearly one of them before its first trial
# Training holds an eighth of a GiB for each of the latent numbers: 4, 7, 11 and 4 with this seed.
SEED, FITS, TOO_LARGE = 276, [True, True, False, True], 11
WIDE = {
    "model=CAE,": "model=Wide,",
    'trial.suggest_int("latent", 2, 8),': 'trial.suggest_int("latent", 2, 17),',
    "epochs=2, retrain": "epochs=1, retrain",
    "def suggest": """import torch

    class Wide(CAE):
        def train_step(self, batch):
            if not hasattr(self, "held"):
                self.held = torch.empty(self.config.latent, 2**25)
            return super().train_step(batch)

    def suggest""",
}
# A worker is killed while it trains three channels; two attempts, to be quick.
KILLED = {
    "model=CAE,": "model=Killed,",
    "def suggest": """import os, signal
    from storage.database import leases
    leases.MAX_ATTEMPTS = 2

    class Killed(CAE):
        def train_step(self, batch):
            if self.config.channels == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().train_step(batch)

    def suggest""",
}


def searched(user: User, count: int, **variables: Any) -> tuple[pd.DataFrame, str]:
    """The table and what was printed, of a run that is stopped before it retrains."""

    def ended() -> bool:
        assert process.poll() is None, process.communicate()
        try:
            states = trials("small", storage=user.url)["state"]
        except Exception:
            return False
        return len(states) == count and not set(states) & {"RUNNING", "WAITING"}

    with watched(user.start(**variables, TRIALS=count, WORKERS=1)) as process:
        wait_until(ended)
        process.send_signal(2)
        out, error = process.communicate(timeout=30)
    assert (process.returncode, error) == (130, "")
    return trials("small", storage=user.url), out


def test_what_does_not_fit_is_infeasible_and_all_else_is_as_if_it_had(
    real_user: User, user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace=WIDE)
    frame, out = searched(real_user, 4, NAME=name, SEED=SEED, MEMORY=LIMIT)
    fits = frame["outcome"] == "complete"
    assert fits.tolist() == FITS  # the second too, though the first had left pieces behind
    (infeasible,) = frame[~fits].to_dict("records")
    assert (infeasible["outcome"], infeasible["state"]) == ("infeasible", "PRUNED")
    assert "trial   2  infeasible" in out

    assert infeasible["memory_budget_mib"] == LIMIT * 1024
    assert infeasible["needed_memory_mib"] > TOO_LARGE * 128 + 500
    assert 100 < infeasible["peak_memory_mib"] < LIMIT * 1024
    over = infeasible["needed_memory_mib"] - infeasible["memory_budget_mib"]
    stored = optuna.load_study(study_name="small", storage=real_user.url).trials
    assert [bool(trial.constraints) for trial in stored] == [not fit for fit in FITS]
    assert stored[2].constraints == {"memory": pytest.approx(over, abs=0.2)}
    assert frame["pid"][3] != frame["pid"][2]  # a new process went on

    roomy = user.with_other_runs("roomy")
    undisturbed, _ = searched(roomy, 4, NAME=name, SEED=SEED, MEMORY=8)
    assert set(undisturbed["outcome"]) == {"complete"}
    assert frame["value"][fits].tolist() == undisturbed["value"][fits].tolist()
    assert frame["latent"].tolist() == undisturbed["latent"].tolist()


def test_a_limit_that_holds_no_worker_is_one_line(real_user: User, study_file: WriteStudy) -> None:
    code, _, error = real_user.run(NAME=study_file(), TRIALS=1, WORKERS=1, MEMORY=0.2)
    assert code == 2
    assert is_error_line(error)
    assert re.search(r"MEMORY=0.2 is too little: a worker takes [\d.]+ GiB before its first", error)
    frame = trials("small", storage=real_user.url)
    assert frame.empty


def test_what_earlier_trials_left_behind_makes_no_trial_infeasible(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(model=Greedy)
    monkeypatch.setattr("search.worker.device_trouble.lift_limit", lambda device: None)
    monkeypatch.setattr("search.worker.device_trouble.memory_budget", lambda device: 2.0**53)
    monkeypatch.setattr("search.worker.device.taken_memory", lambda device: 2**53)
    context.memory_before, context.begun = 1, 1  # one trial was here before
    trial = context.queue.claim(9)
    assert trial is not None
    with pytest.raises(SpentProcess, match=r"trial 0 goes on in a new process: .*can't allocate"):
        run_trial(context, trial)
    assert context.queue.count() == {"WAITING": 1}
    context.memory_before, context.begun = 2**53, 0  # as in a new process
    assert run_again(context.queue, context) == {"PRUNED": 1}


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of which other processes hold a part, as only a GPU can be."""
    monkeypatch.setattr("search.worker.device_trouble.lift_limit", lambda device: None)
    monkeypatch.setattr("search.worker.device_trouble.memory_budget", lambda device: 2.0**60)
    monkeypatch.setattr("search.worker.device_trouble.held_by_others", lambda device: 2**59)


@pytest.mark.usefixtures("crowded")
def test_a_trial_that_others_leave_no_memory_waits_until_they_are_to_stay(
    make_context: MakeContext,
) -> None:
    context = make_context(model=Greedy)
    for _ in range(MOST_CROWDED):
        context.begun = 0  # a new process each time
        trial = context.queue.claim(1)
        assert trial is not None
        with pytest.raises(DeviceCrowded, match="allocate"):
            run_trial(context, trial)
        assert context.queue.count() == {"WAITING": 1}
    context.begun = 0
    assert run_again(context.queue, context) == {"PRUNED": 1}
    (stored,) = context.queue.study.get_trials()
    assert stored.user_attrs["outcome"] == "infeasible"
    assert stored.user_attrs["memory_budget_mib"] == (2**60 - 2**59) / 2**20


# Some trial finds too little memory, once, as if the other worker's trial held it.
ONCE_CROWDED = {
    "model=CAE,": "model=Crowded,",
    "def suggest": """import os, torch
    from search.worker import device_trouble
    device_trouble.held_by_others = lambda device: 2**30

    class Crowded(CAE):
        def begin_epoch(self, number, epochs):
            super().begin_epoch(number, epochs)
            if number == 2:
                try:
                    os.close(os.open("MARK", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def suggest""",
}


def test_a_worker_leaves_a_device_that_is_too_small_for_all(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    code = {old: new.replace("MARK", str(tmp_path / "mark")) for old, new in ONCE_CROWDED.items()}
    name = study_file(replace=code)
    code_, out, error = user.run(NAME=name, TRIALS=4, WORKERS=2, TOP=0)
    assert (code_, error) == (0, "")
    frame = trials("small", storage=user.url)
    assert frame["outcome"].tolist() == ["complete"] * 4
    words = " ".join(out.split())
    assert "waits for memory: other processes hold 1.0 GiB of cpu" in words
    assert words.count("ends: cpu has too little memory for all") == 1


class Card:
    """A GPU's allocator: what is allocated, and the most since the peak was reset."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def take(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def forget(self, device: str) -> None:
        self.peak = self.now


def test_the_peak_of_an_earlier_trial_is_not_left_behind_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = Card()
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: card.peak)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", card.forget)
    card.take(100)  # images
    before = taken_memory("cuda:0")
    card.take(900)  # a trial
    card.take(-890)  # which leaves ten behind
    memory = TrialMemory("cuda:0", before=before)
    assert memory.left_behind == 10
    card.take(500)
    assert memory.taken_by_trial() == 600


def run_again(queue: TrialQueue, context: WorkerContext) -> dict[str, int]:
    trial = queue.claim(1)
    assert trial is not None
    with pytest.raises(SpentProcess):
        run_trial(context, trial)
    return dict(queue.count())


def test_a_trial_that_gets_its_workers_killed_is_given_up(
    user: User, study_file: WriteStudy
) -> None:
    """As the kernel does when all workers together take too much: nobody says whose fault it is."""
    user.deaths = 2
    frame, out = searched(user, 2, NAME=study_file(replace=KILLED), SEED=2)
    killed = frame["channels"] == 3
    assert killed.tolist() == [True, False]
    assert frame["outcome"][killed].tolist() == ["failed"]
    assert frame["reason"][killed].tolist() == ["its worker died 2 times without getting further"]
    assert set(frame["outcome"][~killed]) == {"complete"}
    assert out.count("ended by signal 9") == 2
