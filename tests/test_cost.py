"""What a study has cost, and what it saved by trials that stopped early."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.trials.study_cost import StudyCost, describe_cost, describe_savings, measure_cost

EPOCHS = 10


def ended(epochs: int, state: TrialState = TrialState.COMPLETE, **about: Any) -> FrozenTrial:
    """A trial that has trained so many epochs, two seconds each."""
    is_complete = state == TrialState.COMPLETE
    return create_trial(
        state=state,
        value=0.5 if is_complete else None,
        intermediate_values=dict.fromkeys(range(epochs), 0.5),
        user_attrs={"seconds": 2.0 * epochs, **about},
    )


def test_a_trial_that_stopped_early_saved_its_other_epochs_at_its_own_pace() -> None:
    trials = [
        ended(10),
        ended(1, TrialState.PRUNED, outcome="pruned"),
        ended(4, TrialState.PRUNED, outcome="pruned", seconds=40.0),
    ]
    cost = measure_cost(trials, EPOCHS)
    assert cost == StudyCost(
        trials=3, epochs=15, seconds=62.0, stopped=2, saved_epochs=15, saved_seconds=78.0
    )
    assert (cost.all_epochs, cost.share) == (30, 0.5)
    assert describe_cost(cost, 120.0) == (
        "machine time: 62 s in 3 trials, 2 min to train the best again; stopping 2 trials early "
        "saved 15 of 30 trial-epochs (50 %), about 78 s"
    )


@pytest.mark.parametrize(
    "trial",
    [
        ended(3, TrialState.FAIL, outcome="failed"),
        ended(3, TrialState.PRUNED, outcome="diverged"),
        ended(0, TrialState.PRUNED, outcome="pruned"),
        ended(10, TrialState.PRUNED, outcome="pruned"),
        ended(12),
    ],
)
def test_what_would_not_have_come_to_its_end_saved_nothing(trial: FrozenTrial) -> None:
    cost = measure_cost([trial], EPOCHS)
    assert (cost.saved_epochs, cost.share, describe_savings(cost)) == (0, 0.0, "")
    assert cost.seconds == trial.user_attrs["seconds"]
    assert describe_cost(cost).endswith(" in 1 trial")


def test_what_runs_or_pauses_is_not_counted_and_foreign_values_do_no_harm() -> None:
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    study.ask()
    study.enqueue_trial({})
    assert measure_cost(study.get_trials(), EPOCHS) == StudyCost()
    strange = ended(2, TrialState.PRUNED, seconds="long")
    strange.datetime_complete = strange.datetime_start
    cost = measure_cost([strange], EPOCHS)
    assert (cost.seconds, cost.saved_epochs, cost.saved_seconds) == (0.0, 8, 0.0)
