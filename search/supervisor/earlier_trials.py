"""What a display shows at first: how the trials of earlier runs ended, and the best of them.

show_earlier(display, queue)
end_of(trial)                  # how a stored trial ended
"""

from __future__ import annotations

from collections import Counter

from optuna.trial import FrozenTrial, TrialState

from search.supervisor.display import Display
from search.supervisor.leader import RunningLeader
from search.trials.queue import TrialQueue
from search.trials.tally import EndedTrial
from storage.database.trial_states import outcome_of
from storage.database.vectors import VIOLATION


def show_earlier(display: Display, queue: TrialQueue) -> None:
    """Show how the trials of earlier runs ended, and the best; not where a person decides."""
    found = queue.study.get_trials(deepcopy=False)
    display.progress.states = queue.count()
    display.set_ends(Counter(end_of(trial).outcome for trial in found))
    if display.leader.marks_best:
        _find_leader(display.leader, found, queue)


def _find_leader(leader: RunningLeader, found: list[FrozenTrial], queue: TrialQueue) -> None:
    """Tell the leader of the complete trials, and of those that were and go on with more epochs:
    until something beats it, the best of these stays the best."""
    reached: dict[int, float] = {}
    if not leader.spec.has_several_goals:
        reached = queue.values_that_go_on(minimize=leader.spec.minimizes)
    for trial in found:
        values = trial.values if trial.state == TrialState.COMPLETE else None
        if values is None and trial.number in reached:
            values = [reached[trial.number]]
        violates = VIOLATION in trial.user_attrs
        leader.mark(trial.number, values or [], trial.params, violates=violates)


def end_of(trial: FrozenTrial) -> EndedTrial:
    """Return how a stored trial ended, without what the database knows beyond that."""
    about = trial.user_attrs
    done = about.get("epochs")
    return EndedTrial(
        outcome=outcome_of(trial.state.name, about.get("outcome")),
        epoch=done + 1 if isinstance(done, int) else None,
        parameters=trial.params,
    )
