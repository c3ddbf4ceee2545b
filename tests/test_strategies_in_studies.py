"""Samplers, references and trials as users of Optuna write them, in the queue of a study."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import BaseTrial, Trial, TrialState

from models.base import Metrics
from models.cae import CAE, CAEConfig
from models.data.images import Batch
from search.errors import StudyFileError
from search.setup.checks import probe
from search.setup.loading import load_study
from search.setup.sampled import sample_configurations
from search.strategies.samplers import make_sampler
from search.trials.outcomes import Ending
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue, open_queue
from storage import trials
from storage.database.connection import open_storage
from tests.trials import MakeContext, run_one
from tests.user import User, WriteStudy

FEW_DIGITS = True

SPACE = {
    "width": optuna.distributions.IntDistribution(1, 3),
    "kind": optuna.distributions.CategoricalDistribution(["a", "b"]),
}
POINTS = 4  # (1, a), (2, a), (3, a), and b, which has no width


def suggest(trial: BaseTrial) -> None:
    """A space with a branch."""
    if trial.suggest_categorical("kind", ["a", "b"]) == "a":
        trial.suggest_int("width", 1, 3)


def queue_of(url: str, sampler: Any, **more: Any) -> TrialQueue:
    optuna.create_study(study_name="s", storage=open_storage(url), load_if_exists=True)
    made = make_sampler(sampler, seed=0, space=SPACE)
    owner = owner_name(os.getpid())
    return open_queue("s", url, owner=owner, sampler=made, suggest=suggest, **more)


def end(queue: TrialQueue, trial: Trial | None) -> dict[str, Any]:
    assert trial is not None
    suggest(trial)
    queue.end(trial, Ending.complete(0.5, 1))
    return trial.params


@pytest.mark.parametrize(("sampler", "points"), [("brute_force", POINTS), ("grid", 6)])
def test_more_workers_than_points_repeat_none(storage_url: str, sampler: str, points: int) -> None:
    """All points are being tried, and none has ended: no sampler has stopped the study yet."""
    workers = [queue_of(storage_url, sampler) for _ in range(points + 2)]
    begun = [worker.claim(99) for worker in workers]
    assert [trial is None for trial in begun] == [False] * points + [True, True]
    assert workers[-1].is_exhausted()
    assert not workers[-1].is_stopped(), "what runs may be given back"
    workers[0].release(0)
    begun[0] = workers[-1].claim(99)
    workers[0] = workers[-1]
    for worker, trial in zip(workers, begun[:points], strict=False):
        end(worker, trial)
    assert workers[1].is_stopped()
    assert [worker.claim(99) for worker in workers[:2]] == [None, None]


@pytest.mark.parametrize("sampler", ["brute_force", "brute_force(avoid_premature_stop=True)"])
def test_two_workers_try_every_point_once_and_then_there_is_no_more(
    storage_url: str, sampler: str
) -> None:
    workers = [queue_of(storage_url, sampler) for _ in range(2)]
    found = []
    for index in range(POINTS // 2):
        pair = [worker.claim(99) for worker in workers]  # both have drawn before either ends
        found += [end(worker, trial) for worker, trial in zip(workers, pair, strict=True)]
        assert workers[0].is_stopped() == (index == POINTS // 2 - 1)
    assert len({str(parameters) for parameters in found}) == POINTS
    assert [worker.claim(99) for worker in workers] == [None, None]
    assert queue_of(storage_url, sampler).claim(99) is None, "the next run knows it, too"
    assert queue_of(storage_url, "random").claim(99) is not None, "another sampler goes on"


def test_a_trial_that_a_user_enqueues_is_the_next(storage_url: str) -> None:
    queue = queue_of(storage_url, "random")
    end(queue, queue.claim(3))
    theirs = optuna.load_study(study_name="s", storage=storage_url)
    theirs.enqueue_trial({"kind": "a", "width": 2}, user_attrs={"note": "mine"})
    theirs.enqueue_trial({"kind": "a"})  # the sampler draws what is left out
    assert end(queue, queue.claim(3)) == {"kind": "a", "width": 2}
    assert end(queue, queue.claim(3))["kind"] == "a"
    assert queue.claim(3) is None
    frame = trials("s", storage=storage_url)
    assert frame["state"].tolist() == ["COMPLETE"] * 3
    assert frame["note"].tolist()[1] == "mine"


def test_an_enqueued_trial_takes_no_reference_away(storage_url: str) -> None:
    references = {"one": {"kind": "a", "width": 1}, "two": {"kind": "b"}}
    queue = queue_of(storage_url, "random", references=references)
    theirs = optuna.load_study(study_name="s", storage=storage_url)
    theirs.enqueue_trial({"kind": "a", "width": 3})
    found = [end(queue, queue.claim(4)) for _ in range(4)]
    assert found[:3] == [{"kind": "a", "width": 3}, *references.values()]
    assert trials("s", storage=storage_url)["reference"].tolist()[1:3] == ["one", "two"]


BRANCHES = {
    "def suggest(trial):": 'def suggest(trial):\n        if trial.suggest_categorical("rare", '
    'list(range(200))) == 3:\n            trial.suggest_float("extra", 0, 1)',
}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"rare": 3, "extra": 0.5}, ""),
        ({"rare": 3, "extra": 2.0}, r"reference 'r': extra=2.0 is outside FloatDistribution"),
        ({"rare": 3}, r"reference 'r': .*extra"),
        ({"rare": 4, "extra": 0.5}, r"reference 'r': unknown parameter 'extra'"),
    ],
)
def test_a_reference_may_lead_where_no_random_trial_was(
    study_file: WriteStudy, reference: dict[str, Any], message: str
) -> None:
    full = {"channels": 1, "latent": 2, "lr": 0.001, **reference}
    replaced = {"epochs=2, retrain": f"epochs=2, references={{'r': {full}}}, retrain", **BRANCHES}
    name = str(study_file(replace=replaced))
    if not message:
        load_study(name)
        return
    with pytest.raises(StudyFileError, match=message):
        load_study(name)


PRUNED = (
    'def suggest(trial):\n        import optuna\n        raise_it = trial.suggest_int("n", 0, 1)'
)
TURNED_DOWN = {
    "def suggest(trial):": f"{PRUNED}\n        if raise_it:\n"
    '            raise optuna.TrialPruned("n is 1")'
}


def test_a_combination_that_suggest_turns_down_is_pruned(
    study_file: WriteStudy, make_context: MakeContext
) -> None:
    spec = load_study(str(study_file("picky", replace=TURNED_DOWN))).spec
    assert {"n", "channels"} <= set(probe(spec)[0])
    context = make_context()
    context.spec = replace(context.spec, suggest=spec.suggest)
    context.queue.study.enqueue_trial({"n": 1})
    row = run_one(context)
    assert (row["state"], row["outcome"], row["epochs"]) == ("PRUNED", "pruned", 0)
    assert row["reason"] == "TrialPruned: n is 1"


def test_what_suggest_turns_down_stands_for_no_study(study_file: WriteStudy) -> None:
    found = sample_configurations(load_study(str(study_file("picky", replace=TURNED_DOWN))))
    assert len(found) == 32
    assert all(isinstance(config, CAEConfig) for config in found)


def test_a_suggest_that_turns_everything_down_is_one_line(study_file: WriteStudy) -> None:
    always = {"def suggest(trial):": f"{PRUNED}\n        raise optuna.TrialPruned()"}
    with pytest.raises(StudyFileError, match="raised TrialPruned in each of 64 random trials"):
        load_study(str(study_file("never", replace=always)))


class Doubting(CAE):
    """Prunes its own trial in the second epoch."""

    def train_step(self, batch: Batch) -> Metrics:
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 6:
            raise optuna.TrialPruned
        return super().train_step(batch)


def test_a_model_may_prune_its_own_trial(make_context: MakeContext) -> None:
    context = make_context(model=Doubting)
    row = run_one(context)
    assert (row["state"], row["epochs"]) == ("PRUNED", 1)
    assert row["reason"] == "the study's code raised TrialPruned"
    (trial,) = context.queue.study.get_trials(states=(TrialState.PRUNED,))
    assert trial.value == trial.intermediate_values[0]


def test_a_study_ends_where_its_sampler_has_nothing_left(
    user: User, study_file: WriteStudy
) -> None:
    small = {
        '"channels", 1, 3': '"channels", 1, 2',
        'trial.suggest_int("latent", 2, 8)': "2",
        'trial.suggest_float("lr", 1e-4, 1e-2, log=True)': "0.001",
    }
    name = study_file("few", replace=small)
    variables: dict[str, Any] = {"NAME": name, "WORKERS": 2, "TOP": 0, "EPOCHS": 1}
    code, out, error = user.run(**variables, TRIALS=9, SAMPLER="BruteForceSampler()")
    assert (code, error) == (0, "")
    assert "the sampler has nothing left to try: 2 trials, not 9" in out
    assert sorted(trials("few", storage=user.url)["channels"]) == [1, 2]
    code, out, error = user.run(**variables, TRIALS=9, SAMPLER="brute_force")
    assert (code, error) == (0, "")
    assert "the sampler has nothing left to try: 2 trials, not 9" in out
    assert "study few is done: 2 of 2 trials have ended" in out
    assert len(trials("few", storage=user.url)) == 2
