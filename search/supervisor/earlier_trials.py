"""What a display shows at first: how the trials of earlier runs ended, and the best of them.

show_earlier(supervisor)
end_of(trial)                  # how a stored trial ended
"""

from __future__ import annotations

from collections import Counter

from optuna.trial import FrozenTrial, TrialState

from search.supervisor.loop import Supervisor
from search.trials.tally import EndedTrial
from storage.database.trial_states import outcome_of
from storage.database.vectors import VIOLATION


def show_earlier(supervisor: Supervisor) -> None:
    """Show how the trials of earlier runs ended, and the best; not where a person decides."""
    display = supervisor.display
    found = supervisor.queue.study.get_trials(deepcopy=False)
    display.progress.states = supervisor.queue.count()
    display.set_ends(Counter(end_of(trial).outcome for trial in found))
    for trial in found if display.leader.marks_best else ():
        if trial.state == TrialState.COMPLETE and trial.values:
            violates = VIOLATION in trial.user_attrs
            display.leader.mark(trial.number, trial.values, trial.params, violates=violates)


def end_of(trial: FrozenTrial) -> EndedTrial:
    """Return how a stored trial ended, without what the database knows beyond that."""
    about = trial.user_attrs
    done = about.get("epochs")
    return EndedTrial(
        outcome=outcome_of(trial.state.name, about.get("outcome")),
        epoch=done + 1 if isinstance(done, int) else None,
        parameters=trial.params,
    )
