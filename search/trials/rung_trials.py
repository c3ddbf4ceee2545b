"""The trials of a study at rungs: where one pauses, whether it was promoted, what it keeps.

    trials.rung_epochs(27, trial)                        # (1, 3, 9)
    trials.reach_rung(trial, rung=1, value=0.05)         # False: it pauses
    trials.select_kept([3, 4], all_of_them=False)        # keep their checkpoint after their end

`search.trials.paused` has the rules.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property

from optuna.trial import FrozenTrial, Trial, TrialState

from search.strategies.repeating import repeats_another
from search.trials.paused import PausedTrials
from search.trials.rung_work import RungWork
from search.trials.stored_trials import StoredTrials, waits_out_outages
from storage.database.returns import read_reached
from storage.database.transactions import read


class RungTrials(StoredTrials):
    """The stored trials of one study, which may pause at rungs (`PRUNER=asha`)."""

    @cached_property
    def _paused(self) -> PausedTrials:
        return PausedTrials(self.study, self.storage)

    @waits_out_outages
    def trains_to_the_end(self, trial: Trial | FrozenTrial) -> bool:
        """Whether ``trial`` neither pauses nor is pruned: it measures how far seeds differ."""
        if not isinstance(trial, FrozenTrial):
            trial = self.storage.get_trial(trial._trial_id)
        return repeats_another(trial)

    def rung_epochs(self, epochs: int, trial: Trial | FrozenTrial) -> tuple[int, ...]:
        """Return the epochs after which ``trial`` may pause, in order.

        A rung is named by its epoch. epochs: of a whole trial
        """
        pruner = self._paused.pruner
        if pruner is None or self.trains_to_the_end(trial):
            return ()
        return pruner.rung_epochs(epochs, trial.number)

    @waits_out_outages
    def reach_rung(self, trial: Trial, *, rung: int, value: float) -> bool:
        """Note that our trial has reached a rung with its best value so far. False: it pauses."""
        return self._paused.reach(trial._trial_id, rung=rung, value=value)

    @waits_out_outages
    def pauses(self, trial: Trial) -> bool:
        """Whether our trial pauses at a rung and was not promoted: then it is to end."""
        return self._paused.pauses_at(trial._trial_id) is not None

    @waits_out_outages
    def work_left(
        self, counts: Mapping[str, int], *, epochs: int, total: int, running: Collection[int]
    ) -> RungWork | None:
        """Return what is left between rungs (`PausedTrials.work_left`); None: no trial pauses."""
        return self._paused.work_left(counts, epochs=epochs, total=total, running=running)

    @property
    def lets_trials_pause(self) -> bool:
        """Whether trials pause, and the best go on from their checkpoints."""
        return self._paused.pruner is not None

    @waits_out_outages
    def select_kept(self, numbers: Iterable[int], *, all_of_them: bool) -> set[int]:
        """Return those of the ended trials that keep their last checkpoint.

        They may go on when the study gets more epochs or trials.
        all_of_them: whether also trials keep it that only a much larger study would promote
            (KEEP=checkpoints)
        """
        if not (all_of_them or self.lets_trials_pause):
            return set()
        return {each for each in numbers if self._keeps_checkpoint(each, all_of_them)}

    def _keeps_checkpoint(self, number: int, all_of_them: bool) -> bool:
        trial_id = self.id_of(number)
        state = self.storage.get_trial(trial_id).state
        if state != TrialState.PRUNED:
            return bool(state == TrialState.COMPLETE)
        if all_of_them:
            return self._paused.pauses_at(trial_id) is not None
        return self._paused.may_return(trial_id)

    @waits_out_outages
    def values_that_go_on(self, *, minimize: bool) -> dict[int, float]:
        """Return the best values of complete trials that go on with more epochs, by their numbers.

        They will end with these values or better ones.
        """
        with read(self.engine) as connection:
            reached = read_reached(connection, self.study_id, minimize=minimize)
        returning = self._paused.look().returning if reached else frozenset()
        return {
            each.number: each.best
            for trial_id, each in reached.items()
            if each.state != "PRUNED" or trial_id in returning
        }
