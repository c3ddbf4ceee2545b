"""Reads and writes of our own on Optuna's tables: the same as Optuna's, over both databases."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Container
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, PercentilePruner
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search.strategies.pruners import QuickMedianPruner, QuickPercentilePruner, make_pruner
from search.trials.epoch_report import EpochReport
from search.trials.queue import TrialQueue, open_queue
from storage.database import rows
from storage.database.connection import open_engine, open_storage
from storage.database.optuna_storage import TrialStorage
from storage.database.trial_cache import TrialCache
from storage.database.trial_states import ENDED, TrialStates

optuna.logging.set_verbosity(optuna.logging.WARNING)

ODD = [1.0, 0.5, -2.5, 1e-300, math.nan, math.inf, -math.inf]


def make_queue(url: str, name: str = "s", direction: str = "minimize") -> TrialQueue:
    optuna.create_study(study_name=name, storage=open_storage(url), direction=direction)  # type: ignore[arg-type]
    queue = open_queue(name, url, owner="tests:1:1")
    queue.study.sampler = optuna.samplers.RandomSampler(seed=0)
    queue.study.pruner = optuna.pruners.NopPruner()
    return queue


def end_some(queue: TrialQueue, count: int, seed: int = 0) -> None:
    """Trials with everything that Optuna's tables can hold, in every state."""
    draw = random.Random(seed)
    waiting = []
    for index in range(count):
        trial = queue.study.ask()
        trial.suggest_float("lr", 1e-5, 1e-1, log=True)
        trial.suggest_float("stepped", 0.0, 1.0, step=0.25)
        trial.suggest_int("latent", 2, 64, step=2)
        if trial.suggest_categorical("kind", ["adam", None, True, 3, 1.5]) == "adam":
            trial.suggest_float("momentum", 0.0, 1.0 + trial.number)  # its range changes
        for step in draw.sample(range(6), draw.randrange(5)):
            trial.report(draw.choice(ODD), step)
        trial.set_user_attr("list", [1, {"a": None, "ü": "\n"}])
        queue.storage.set_trial_system_attr(trial._trial_id, "fixed", {"x": index})
        state = draw.choice([*TrialState])
        if state == TrialState.COMPLETE:
            queue.study.tell(trial, draw.choice([0.25, -math.inf, math.inf]))
        elif state == TrialState.WAITING:
            waiting.append(trial._trial_id)
        elif state != TrialState.RUNNING:
            queue.storage.set_trial_state_values(trial._trial_id, state)
    for trial_id in waiting:  # now, or the next trial would be one of them
        queue.storage.set_trial_state_values(trial_id, TrialState.WAITING)


def shown(trials: list[FrozenTrial]) -> list[str]:
    """With NaN equal to itself; reports and attributes have no order, parameters have."""
    written = []
    for trial in copy.deepcopy(trials):
        trial.intermediate_values = dict(sorted(trial.intermediate_values.items()))
        trial._user_attrs = dict(sorted(trial.user_attrs.items()))
        written.append(repr(trial))
    return written


def optunas_own(storage: TrialStorage, study_id: int, **chosen: Any) -> list[FrozenTrial]:
    arguments: dict[str, Any] = {
        "states": None,
        "included_trial_ids": set(),
        "trial_id_greater_than": -1,
    }
    return RDBStorage._get_trials(storage, study_id, **{**arguments, **chosen})


@pytest.mark.parametrize("few", [200, 3], ids=["one by one", "reading through"])
def test_trials_are_read_as_optuna_reads_them(
    storage_url: str, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(rows, "FEW", few)
    queue = make_queue(storage_url)
    other = make_queue(storage_url, "other")
    for seed in range(3):  # so that the ids of two studies alternate
        end_some(queue, 8, seed)
        end_some(other, 2, seed)
    for one in (queue, other):
        expected = optunas_own(one.storage, one.study_id)
        assert len(expected) > 3
        read = one.storage.get_all_trials(one.study_id, deepcopy=False)
        assert shown(read) == shown(expected)
        single = [one.storage.get_trial(trial._trial_id) for trial in expected]
        assert shown(single) == shown(expected)
        ids = [trial._trial_id for trial in expected]
        for chosen in (
            {"states": (TrialState.COMPLETE, TrialState.FAIL)},
            {"trial_id_greater_than": ids[3]},
            {"trial_id_greater_than": ids[-3], "included_trial_ids": {ids[0], ids[2], ids[-1]}},
            {"trial_id_greater_than": ids[-1]},
        ):
            arguments: dict[str, Any] = {"states": None, "included_trial_ids": set(), **chosen}
            arguments.setdefault("trial_id_greater_than", -1)
            read = one.storage._get_trials(one.study_id, **arguments)  # type: ignore[arg-type]
            assert shown(read) == shown(optunas_own(one.storage, one.study_id, **chosen))


def test_what_does_not_exist_is_a_key_error_as_at_optuna(storage_url: str) -> None:
    queue = make_queue(storage_url)
    with pytest.raises(KeyError):
        queue.storage.get_trial(999)
    with pytest.raises(KeyError):
        queue.storage.get_all_trials(999)
    assert queue.storage.get_all_trials(queue.study_id) == []


def test_asking_reads_no_trials_but_those_that_wait(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_some(make_queue(storage_url), 24, seed=1)
    queue = open_queue("s", storage_url, owner="tests:1:2")
    queue.study.sampler = optuna.samplers.RandomSampler(seed=0)
    monkeypatch.setattr(TrialStorage, "_get_trials", None)  # Optuna's way to read all
    expected = optunas_own(queue.storage, queue.study_id, states=(TrialState.WAITING,))
    assert len(expected) >= 2
    taken = [queue.study.ask() for _ in range(len(expected) + 1)]
    assert [trial.number for trial in taken[:-1]] == [trial.number for trial in expected]
    assert taken[-1].number == 24
    assert taken[0].params == expected[0].params
    taken[0].suggest_float("more", 0, 1)
    monkeypatch.undo()
    assert len(queue.study.get_trials(deepcopy=False)) == 25


def test_the_cache_in_front_shows_what_the_database_holds(storage_url: str) -> None:
    """Whatever was asked first: trials that wait, one that was taken, or all of them."""
    writer = make_queue(storage_url)
    reader = optuna.load_study(study_name="s", storage=TrialCache(open_storage(storage_url)))
    for seed in range(4):
        end_some(writer, 5, seed)
        mine = reader.ask()
        mine.report(0.5, 9)
        assert shown(reader.get_trials()) == shown(optunas_own(writer.storage, writer.study_id))
        reader.tell(mine, 1.0)
        assert shown(reader.get_trials()) == shown(optunas_own(writer.storage, writer.study_id))


def test_states_are_counted_right_at_every_moment(storage_url: str) -> None:
    queue = make_queue(storage_url)
    standing = TrialStates(queue.engine, queue.study_id)
    draw = random.Random(0)
    open_trials: list[Trial] = []
    for _ in range(40):
        if open_trials and draw.random() < 0.5:
            ended = open_trials.pop(draw.randrange(len(open_trials)))
            queue.study.tell(ended, state=draw.choice([TrialState.PRUNED, TrialState.FAIL]))
        else:
            open_trials.append(queue.study.ask())
        with queue.engine.connect() as connection:
            query = "SELECT state, count(*) FROM trials GROUP BY state"
            expected = {row[0]: row[1] for row in connection.execute(sqlalchemy.text(query))}
        assert standing.count() == expected
        behind = {t.trial_id for t in standing.read_open() if t.state not in ENDED}
        assert behind == {trial._trial_id for trial in open_trials}
    assert standing.settled > 0


def test_an_ended_trial_takes_no_reports_and_no_attributes(storage_url: str) -> None:
    queue = make_queue(storage_url)
    trial = queue.claim(1)
    assert trial is not None
    queue.report(trial, EpochReport(1, 0.5, {"loss": 1.0}))
    queue.storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [0.5])
    before = queue.storage.get_trial(trial._trial_id)
    with pytest.raises(UpdateFinishedTrialError):
        queue.report(trial, EpochReport(2, 0.4, {"loss": 1.0}))
    with pytest.raises(UpdateFinishedTrialError):
        queue.set_attributes(trial, {"device": "cpu"})
    assert repr(queue.storage.get_trial(trial._trial_id)) == repr(before)
    with queue.engine.connect() as connection:
        written = connection.scalar(sqlalchemy.text("SELECT count(*) FROM genstudy_metrics"))
    assert written == 1


@pytest.mark.parametrize("known", [True, False], ids=["our own", "by Optuna"])
def test_what_is_written_is_read_back_as_from_optuna(storage_url: str, known: bool) -> None:
    queue = make_queue(storage_url)
    queue.storage.known = known
    trial, twin = queue.study.ask(), queue.study.ask()
    attributes = {"text": "ü\n'", "list": [1, {"a": None}], "number": 1.5}
    queue.set_attributes(trial, {"text": "replaced"})
    queue.set_attributes(trial, attributes)
    for key, value in attributes.items():
        twin.set_user_attr(key, value)
    for step, value in enumerate(ODD):
        queue.report(trial, EpochReport(step + 1, value, {}))
        queue.report(trial, EpochReport(step + 1, 77.0, {}))  # comes too late
        twin.report(value, step)
    assert repr(trial.user_attrs) == repr(twin.user_attrs)
    ours, theirs = optunas_own(queue.storage, queue.study_id)
    both = [sorted(found.intermediate_values.items()) for found in (ours, theirs)]
    assert repr(both[0]) == repr(both[1])
    assert ours.user_attrs == theirs.user_attrs


def test_a_database_of_another_schema_is_left_to_optuna(storage_url: str) -> None:
    queue = make_queue(storage_url)
    end_some(queue, 6)
    with open_engine(storage_url).begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE version_info SET schema_version = 11"))
    with queue.engine.connect() as connection:
        assert not rows.known_schema(connection)
    queue.storage.known = False  # as for a storage that is opened now
    assert queue.storage.completed(queue.study_id) is None
    assert len(queue.study.get_trials()) == 6


def arguments(draw: random.Random) -> dict[str, Any]:
    return {
        "n_startup_trials": draw.choice([0, 1, 3, 8]),
        "n_warmup_steps": draw.choice([0, 0, 1, 3]),
        "interval_steps": draw.choice([1, 1, 2, 3]),
        "n_min_trials": draw.choice([1, 1, 4]),
    }


def pair(draw: random.Random) -> tuple[BasePruner, BasePruner]:
    """Optuna's pruner and ours, with the same arguments."""
    given = arguments(draw)
    if draw.random() < 0.4:
        return MedianPruner(**given), QuickMedianPruner(**given)
    percentile = draw.choice([0.0, 10.0, 33.3, 75.0, 100.0])
    return PercentilePruner(percentile, **given), QuickPercentilePruner(percentile, **given)


class Seen:
    """What Optuna's pruners see of a study, read once for all that are asked at a moment."""

    def __init__(self, study: Study) -> None:
        self.direction = study.direction
        self.trials = study.get_trials(deepcopy=False)

    def get_trials(self, deepcopy: bool, states: Container[TrialState]) -> list[FrozenTrial]:
        return [trial for trial in self.trials if trial.state in states]


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_quick_pruners_answer_as_optunas(storage_url: str, direction: str) -> None:
    """Random studies: reports in any order, steps left out, NaN, infinities, several at a time."""
    answers = []
    for seed in range(6):
        draw = random.Random(seed)
        queue = make_queue(storage_url, f"{direction}-{seed}", direction)
        pairs = [pair(draw) for _ in range(8)]
        open_trials: list[Trial] = []
        for _ in range(70):
            if len(open_trials) < 3 and draw.random() < 0.3:
                open_trials.append(queue.study.ask())
            elif open_trials and draw.random() < 0.25:
                trial = open_trials.pop(draw.randrange(len(open_trials)))
                state = draw.choice(
                    [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.FAIL]
                )
                value = 0.0 if state == TrialState.COMPLETE else None
                queue.study.tell(trial, value, state=state)
            elif open_trials:
                trial = draw.choice(open_trials)
                value = draw.choice(ODD) if draw.random() < 0.15 else draw.random()
                step = draw.choice([0, 1, 2, 3, 4, 5])
                if step not in trial._cached_frozen_trial.intermediate_values:
                    trial.report(value, step)
                frozen = copy.deepcopy(trial._cached_frozen_trial)
                seen: Any = Seen(queue.study)
                for theirs, ours in pairs:
                    expected = theirs.prune(seen, frozen)
                    assert ours.prune(queue.study, frozen) is bool(expected), (seed, vars(ours))
                    answers.append(expected)
    assert 50 < sum(answers) < len(answers) - 50  # it says yes and no


def test_a_pruner_in_its_warm_up_asks_nobody(
    storage_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(storage_url)
    queue.study.pruner = make_pruner("median(n_startup_trials=0, n_warmup_steps=2)")
    trial = queue.study.ask()
    statements: list[str] = []
    sqlalchemy.event.listen(
        queue.engine, "checkout", lambda *_: statements.append("a connection was taken")
    )
    for step in (0, 1):
        trial._cached_frozen_trial.intermediate_values[step] = 1.0
        assert not trial.should_prune()
    assert statements == []
    trial._cached_frozen_trial.intermediate_values[2] = 1.0
    assert not trial.should_prune()
    assert statements


@pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
def test_the_quick_pruners_are_optunas_over_any_other_storage() -> None:
    study = optuna.create_study(pruner=make_pruner("median(n_startup_trials=1)"))
    assert isinstance(study.pruner, MedianPruner)
    answers = []
    for value in (1.0, 0.5, 2.0):
        trial = study.ask()
        trial.report(value, 0)
        answers.append(trial.should_prune())
        study.tell(trial, value)
    assert answers == [False, False, True]


def test_pruner_objects_of_optuna_become_quick_with_their_arguments() -> None:
    given = PercentilePruner(20.0, 3, 2, 4, n_min_trials=5)
    made = make_pruner(given)
    assert isinstance(made, QuickPercentilePruner)
    assert vars(made) == vars(given)
    assert type(given) is PercentilePruner
    assert isinstance(make_pruner(MedianPruner()), QuickMedianPruner)
    hyperband = optuna.pruners.HyperbandPruner()
    assert make_pruner(hyperband) is hyperband
