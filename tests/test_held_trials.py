"""A worker that holds several trials: each is its own trial, and as it would be alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from optuna.trial import BaseTrial
from torch import Tensor
from torch.nn import functional as F

from models.base import Metrics
from models.cae import CAE, CAEConfig
from models.data.images import Batch
from models.training.fused_epochs import FusedEpochs
from search.events import Ended, EpochEnded, Paused, Released, Started
from search.trials.recorded_trial import FUSED_EPOCHS
from search.worker.context import WorkerContext
from search.worker.device_trouble import DEVICE_ERROR, SHARED, BrokenDevice, SpentProcess
from search.worker.fusing_choice import FIRST, FusingChoice
from search.worker.held_trials import HeldTrials
from search.worker.trial import run_trial
from search.worker.trial_epochs import GivenBack
from storage import trials
from storage.database import leases, schema
from storage.database.retry import DatabaseLost
from tests.trials import MakeContext

FEW_DIGITS = True


def suggest(trial: BaseTrial) -> CAEConfig:
    """Shapes that agree: only rates differ."""
    return CAEConfig(
        channels=1, latent=3, batch_size=64,
        lr=trial.suggest_float("lr", 1e-3, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-7, 1e-4, log=True),
    )  # fmt: skip


class OwnCAE(CAE):
    """Says of itself that it may be fused."""

    fuses = True


@pytest.fixture
def make_held(make_context: MakeContext) -> MakeContext:
    def make(*, fuse: int | None = 3, trials: int = 4, **options: Any) -> WorkerContext:
        context = make_context(suggest=suggest, **options)
        context.run = replace(context.run, fuse=fuse, trials=trials)
        return context

    return make


def rows_of(context: WorkerContext) -> dict[int, dict[str, Any]]:
    """The study's trials as rows of its table, by number."""
    frame = trials("small", storage=context.run.storage)
    return {int(row["number"]): row for row in frame.to_dict("records")}  # type: ignore[misc]


def heard(context: WorkerContext, kind: type[Any]) -> list[Any]:
    return [event for event in context.heard if isinstance(event, kind)]  # type: ignore[attr-defined]


def most_at_once(context: WorkerContext) -> int:
    """How many trials were held at once, as a supervisor hears it."""
    now, most = 0, 0
    for event in context.heard:  # type: ignore[attr-defined]
        now += isinstance(event, Started)
        now -= isinstance(event, Ended | Paused | Released)
        most = max(most, now)
    return most


def reports(context: WorkerContext) -> dict[int, list[float]]:
    found = context.queue.study.get_trials(deepcopy=False)
    return {t.number: list(t.intermediate_values.values()) for t in found}


def test_fused_trials_are_the_trials_of_a_worker_that_trains_one_at_a_time(
    make_held: MakeContext,
) -> None:
    alone, fused = make_held(fuse=1, runs="alone"), make_held(fuse=3, runs="fused")
    for context in (alone, fused):
        HeldTrials(context).run()
    assert (most_at_once(alone), most_at_once(fused)) == (1, 3)
    singles, several = rows_of(alone), rows_of(fused)
    assert len(several) == 4
    for number, row in several.items():
        single = singles[number]
        assert row["outcome"] == single["outcome"] == "complete"
        assert (row["lr"], row["weight_decay"]) == (single["lr"], single["weight_decay"])
        assert row["value"] == pytest.approx(single["value"], rel=1e-4)
        assert row["seed"] == single["seed"]
        assert row["seconds"] > 0
    for number, values in reports(fused).items():
        assert values == pytest.approx(reports(alone)[number], rel=1e-4)
    attributes = [t.user_attrs.get(FUSED_EPOCHS) for t in fused.queue.study.get_trials()]
    assert attributes == [3, 3, 3, None], "the fourth began when the others had ended"


def test_an_epoch_costs_each_of_its_trials_a_share(
    make_held: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = FusedEpochs.train

    def train_slowly(self: FusedEpochs, tasks: Any) -> Any:
        time.sleep(0.3)
        trained = train(self, tasks)
        return [replace(each, seconds=each.seconds + 0.1) for each in trained if each is not None]

    monkeypatch.setattr(FusedEpochs, "train", train_slowly)
    context = make_held(trials=3, epochs=2)
    began = time.perf_counter()
    HeldTrials(context).run()
    wall = time.perf_counter() - began
    costs = [row["seconds"] for row in rows_of(context).values()]
    assert all(cost >= 0.2 for cost in costs)
    assert sum(costs) <= wall + 0.1


def test_a_pruned_trial_makes_room_while_the_others_go_on(
    make_held: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_held(trials=5)
    monkeypatch.setattr(
        context.queue,
        "try_should_prune",
        lambda trial: trial.number == 1,  # after its first epoch
    )
    HeldTrials(context).run()
    outcomes = {number: row["outcome"] for number, row in rows_of(context).items()}
    assert outcomes == {0: "complete", 1: "pruned", 2: "complete", 3: "complete", 4: "complete"}
    ended = [event.number for event in heard(context, Ended)]
    assert ended[0] == 1
    began = [event.number for event in context.heard if isinstance(event, Started | Ended)]  # type: ignore[attr-defined]
    assert began[:5] == [0, 1, 2, 1, 3], "trial 3 takes the place of trial 1"
    assert most_at_once(context) == 3


class DivergesOnce(OwnCAE):
    """A trial with a large rate leaves the finite numbers, by itself."""

    def begin_epoch(self, number: int, epochs: int) -> None:
        super().begin_epoch(number, epochs)
        if number == 2 and self.config.lr == LARGE:
            with torch.no_grad():
                next(self.parameters()).fill_(float("nan"))


LARGE = 0.005


class RaisesOnce(OwnCAE):
    """Evaluating one trial is a mistake."""

    def evaluate(self, batch: Batch) -> Metrics:
        if self.config.lr == LARGE:
            raise KeyError("a mistake in the model")
        return super().evaluate(batch)


DivergesOnce.fuses = RaisesOnce.fuses = True


@pytest.mark.parametrize(("model", "outcome"), [(DivergesOnce, "diverged"), (RaisesOnce, "failed")])
def test_a_trial_that_fails_ends_alone(
    model: type[CAE], outcome: str, make_held: MakeContext
) -> None:
    context = make_held(model=model, trials=3)
    context.queue.study.enqueue_trial({"lr": 0.002})
    context.queue.study.enqueue_trial({"lr": LARGE})
    HeldTrials(context).run()
    outcomes = {number: row["outcome"] for number, row in rows_of(context).items()}
    assert outcomes == {0: "complete", 1: outcome, 2: "complete"}


def test_where_an_epoch_together_fails_its_trials_are_trained_alone(
    make_held: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def fail(self: FusedEpochs, tasks: Any) -> Any:
        calls.append(len(tasks))
        raise RuntimeError("CUDA out of memory. Tried to allocate 8 GiB")

    monkeypatch.setattr(FusedEpochs, "train", fail)
    context = make_held(trials=3)
    HeldTrials(context).run()
    assert calls == [3], "it is tried once"
    assert [row["outcome"] for row in rows_of(context).values()] == ["complete"] * 3
    assert all(FUSED_EPOCHS not in t.user_attrs for t in context.queue.study.get_trials())


def test_a_device_error_of_several_is_looked_for_in_each_alone(
    make_held: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: FusedEpochs, tasks: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(FusedEpochs, "train", fail)
    context = make_held(trials=3)
    with pytest.raises(BrokenDevice, match="trials 0, 1, 2 go on alone in a new process"):
        HeldTrials(context).run()
    assert context.queue.count() == {"WAITING": 3}
    assert [SHARED in t.user_attrs for t in context.queue.study.get_trials()] == [True] * 3
    assert not context.held
    context.heard.clear()  # type: ignore[attr-defined]
    HeldTrials(context).run()  # the new process
    assert most_at_once(context) == 1
    assert context.queue.count() == {"COMPLETE": 3}


class Forgetful(OwnCAE):
    """Says that memory ran out when it is measured, while others are held beside it."""

    fuses = True
    beside: Callable[[], int]

    def evaluate(self, batch: Batch) -> Metrics:
        if self.config.lr == LARGE and Forgetful.beside() > 1:
            raise MemoryError
        return super().evaluate(batch)


def test_memory_that_runs_out_beside_others_is_tried_alone(make_held: MakeContext) -> None:
    context = make_held(model=Forgetful, trials=3)
    Forgetful.beside = lambda: len(context.held)
    context.queue.study.enqueue_trial({"lr": LARGE})
    with pytest.raises(SpentProcess):
        HeldTrials(context).run()
    assert context.queue.count() == {"WAITING": 3}
    HeldTrials(context).run()  # the new process
    assert context.queue.count() == {"COMPLETE": 3}


class OutInEpoch(OwnCAE):
    """Memory runs out where one trial is measured after its second epoch, beside others."""

    fuses = True
    is_out = True
    epoch = 0

    def begin_epoch(self, number: int, epochs: int) -> None:
        super().begin_epoch(number, epochs)
        self.epoch = number

    def evaluate(self, batch: Batch) -> Metrics:
        if OutInEpoch.is_out and self.config.lr == LARGE and self.epoch == 2:
            OutInEpoch.is_out = False
            raise MemoryError
        return super().evaluate(batch)


def test_an_epoch_that_is_not_taken_in_is_not_trained_twice(make_held: MakeContext) -> None:
    """Its program has trained all; one trial then ends the process before the others go on."""
    alone, fused = make_held(fuse=1, runs="a"), make_held(model=OutInEpoch, runs="b")
    for context in (alone, fused):
        context.run = replace(context.run, trials=3)
        context.queue.study.enqueue_trial({"lr": LARGE, "weight_decay": 1e-6})
    HeldTrials(alone).run()
    with pytest.raises(SpentProcess):
        HeldTrials(fused).run()
    HeldTrials(fused).run()  # the new process
    assert fused.queue.count() == {"COMPLETE": 3}
    for number, values in reports(fused).items():
        assert values == pytest.approx(reports(alone)[number], rel=1e-4)


class BreaksDevice(OwnCAE):
    """A GPU reports an error in one trial's epoch alone."""

    fuses = False

    def begin_epoch(self, number: int, epochs: int) -> None:
        if self.config.lr == LARGE:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        super().begin_epoch(number, epochs)


def test_a_device_error_of_one_is_not_blamed_on_those_that_wait(
    make_held: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.worker.held_trials.may_fuse", lambda family: True)
    monkeypatch.setattr("search.worker.interruptions._is_context_broken", lambda: True)
    context = make_held(model=BreaksDevice, trials=3)
    context.queue.study.enqueue_trial({"lr": LARGE})
    with pytest.raises(BrokenDevice):
        HeldTrials(context).run()
    assert context.queue.count() == {"WAITING": 3}
    found = [DEVICE_ERROR in t.user_attrs for t in context.queue.study.get_trials()]
    assert found == [True, False, False]


def test_a_database_that_is_lost_costs_no_epoch_of_those_that_wait(
    make_held: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_held(trials=4)
    monkeypatch.setattr(context.queue, "try_should_prune", lambda trial: trial.number == 1)
    claim = context.queue.claim

    def claim_three(total: int) -> Any:
        if heard(context, Ended):
            raise DatabaseLost("the trial database is away")
        return claim(total)

    monkeypatch.setattr(context.queue, "claim", claim_three)
    with pytest.raises(DatabaseLost):
        HeldTrials(context).run()
    saved = [context.run.paths.trial_checkpoint(context.run.study, n).exists() for n in (0, 2)]
    assert saved == [True, True]


def test_a_worker_that_is_told_to_stop_gives_all_back_behind_their_last_epochs(
    make_held: MakeContext,
) -> None:
    told: list[bool] = []
    context = make_held(trials=3, interrupted=lambda: bool(told))
    send = context.send

    def stop_after_two(event: Any) -> None:
        send(event)
        if len(heard(context, EpochEnded)) == 2:
            told.append(True)

    context.send = stop_after_two
    HeldTrials(context).run()
    assert sorted(event.number for event in heard(context, Released)) == [0, 1, 2]
    assert context.queue.count() == {"WAITING": 3}
    done = {number: len(values) for number, values in reports(context).items()}
    told.clear()
    context.send = send
    context.heard.clear()  # type: ignore[attr-defined]
    HeldTrials(context).run()
    assert [row["outcome"] for row in rows_of(context).values()] == ["complete"] * 3
    again = {n: [e.epoch for e in heard(context, EpochEnded) if e.number == n] for n in done}
    assert again == {number: list(range(done[number] + 1, 4)) for number in done}
    assert sum(done.values()) >= 2


def test_trials_pause_at_rungs_and_the_promoted_go_on(make_held: MakeContext) -> None:
    context = make_held(trials=6, epochs=4, pruner="asha")
    HeldTrials(context).run()
    assert most_at_once(context) == 3
    assert heard(context, Paused)
    counts = context.queue.count()
    assert counts["COMPLETE"] >= 1
    assert counts["COMPLETE"] + counts["PRUNED"] == 6
    for number, values in reports(context).items():
        assert len(values) in (1, 3, 4), number


def abandon(context: WorkerContext, number: int) -> None:
    """Have a trial lose the worker that is at it."""
    trial_id = context.queue.id_of(number)
    leases.clear_owner(context.queue.engine, trial_id)


def count_death(context: WorkerContext, number: int) -> None:
    """Have an earlier worker have died at a trial that waits."""
    row = schema.leases.c.trial_id == context.queue.id_of(number)
    with context.queue.engine.begin() as connection:
        connection.execute(schema.leases.update().where(row).values(attempts=1))


def test_a_trial_at_which_a_worker_has_died_is_trained_with_nothing_beside_it(
    make_held: MakeContext,
) -> None:
    context = make_held(trials=4)
    lost = context.queue.claim(4)
    assert lost is not None
    other = make_held(trials=4)
    other.queue.owner = "another:1:1:1"
    abandon(context, lost.number)
    HeldTrials(other).run()
    assert other.queue.count() == {"COMPLETE": 4}
    starts = [e for e in other.heard if isinstance(e, Started | Ended)]  # type: ignore[attr-defined]
    place = next(i for i, e in enumerate(starts) if e.number == lost.number)
    assert isinstance(starts[place + 1], Ended)
    assert starts[place + 1].number == lost.number


def test_such_a_trial_waits_until_the_worker_holds_no_other(make_held: MakeContext) -> None:
    context = make_held(trials=3, epochs=2)
    held = HeldTrials(context)
    context.queue.study.enqueue_trial({"lr": 0.002})
    assert held._take_more()
    assert len(held.held) == 3
    del held.held[2]  # as if there were room, and trial 2 came back
    context.queue.release(2)
    count_death(context, 2)
    held.run()
    ends = [e.number for e in heard(context, Ended)]
    assert ends == [0, 1, 2]
    assert context.queue.count() == {"COMPLETE": 3}


class Lossy(OwnCAE):
    """It draws at random in its loss, though it says that it does not."""

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        mse = F.mse_loss(self(batch.images + torch.rand_like(batch.images)), batch.images)
        return mse, {"mse": mse}


Lossy.fuses = True


@pytest.mark.parametrize("model", [Lossy, type("Plain", (CAE,), {})])
def test_a_family_that_cannot_be_fused_has_its_own_values_bit_for_bit(
    model: type[CAE], make_held: MakeContext
) -> None:
    alone, asked = make_held(fuse=1, model=model, runs="a"), make_held(model=model, runs="b")
    for context in (alone, asked):
        HeldTrials(context).run()
    assert reports(asked) == reports(alone)


def test_two_workers_with_several_trials_each_end_exactly_all(make_held: MakeContext) -> None:
    first, second = make_held(trials=7, epochs=2), make_held(trials=7, epochs=2)
    second.queue.owner = "another:1:1:1"
    one, two = HeldTrials(first), HeldTrials(second)
    while one.held or two.held or one.may_take or two.may_take:
        for worker in (one, two):
            worker._take_more()
            if worker.held:
                worker._train_round()
    assert first.queue.count() == {"COMPLETE": 7}
    ended = [e.number for context in (first, second) for e in heard(context, Ended)]
    assert sorted(ended) == list(range(7))
    assert min(most_at_once(first), most_at_once(second)) == 3


def test_a_trial_alone_is_run_as_ever(make_held: MakeContext) -> None:
    context = make_held(trials=1)
    trial = context.queue.claim(1)
    assert trial is not None
    run_trial(context, trial)
    assert rows_of(context)[0]["outcome"] == "complete"


def test_time_that_is_over_ends_each_trial_of_a_shared_epoch(make_held: MakeContext) -> None:
    context = make_held(trials=3)
    context.run = replace(context.run, trial_minutes=1e-6)
    HeldTrials(context).run()
    rows = rows_of(context).values()
    assert [row["outcome"] for row in rows] == ["interrupted"] * 3
    assert {row["reason"] for row in rows} == {"TRIAL_MINUTES=1e-06 were over after 0 epochs"}


def test_a_claim_that_was_cut_off_costs_no_trial_that_is_held(make_held: MakeContext) -> None:
    """The trial that it took is put back; those that are trained are not."""
    context = make_held(trials=4, epochs=2)
    held = HeldTrials(context)
    assert held._take_more()
    held._go_on(held.held[0], GivenBack(saves=True))  # there is room again
    lost = context.queue.claim(4)
    assert lost is not None
    context.queue._taken.discard(lost._trial_id)  # as where the database was away before it knew
    context.queue._is_claiming = True
    held.run()
    assert context.queue.count() == {"COMPLETE": 4}
    assert sorted(event.number for event in heard(context, Ended)) == [0, 1, 2, 3]
    released = [event.number for event in heard(context, Released)]
    assert released == [0], "those that are trained stay its own"


@pytest.mark.parametrize(("factor", "pays"), [(1e3, False), (1e-3, True)])
def test_where_it_is_measured_only_what_pays_is_fused(
    factor: float, pays: bool, make_held: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, whose times an epoch together is given here."""
    train = FusedEpochs.train

    def train_in_other_time(self: FusedEpochs, tasks: Any) -> Any:
        trained = train(self, tasks)
        return [replace(each, seconds=each.seconds * factor) for each in trained if each]

    monkeypatch.setattr(FusedEpochs, "train", train_in_other_time)
    for name, less in (("ROUNDS", 2), ("ENOUGH", 1)):
        monkeypatch.setattr(f"search.worker.fusing_choice.{name}", less)
    context = make_held(trials=5, epochs=7)
    held = HeldTrials(context)
    held.choice = FusingChoice(asked=None, on_gpu=True)
    context.is_steady = False
    held.run()
    assert context.queue.count() == {"COMPLETE": 5}
    assert most_at_once(context) == (5 if pays else FIRST)
    assert held.choice.most == (2 * FIRST if pays else 1)
    assert context.is_steady is not pays, "eight are still to be measured"
    last = context.queue.study.get_trials(deepcopy=False)[-1]
    assert (FUSED_EPOCHS in last.user_attrs) is pays
    steady = [event.steady for event in heard(context, EpochEnded)]
    assert not any(steady[:FIRST])
