"""A study ends when what it may still gain is less than the noise between seeds: `STOP=auto`.

    sampler = StoppingSampler(make_sampler("tpe", ...), trials=100)
    look_ahead(study.trials, 100, minimize=True)

After each trial, from the `LEAST`-th on, `search.strategies.prospect` compares the gain that the
remaining trials may bring with the noise. The noise is the standard deviation between seeds of the
best configuration, which is trained again with `REPEATS` other seeds. These repeats are trials of
the study, but always train to the end: a pruned trial says nothing about seeds.

A pruned trial counts as the worst complete one. So does a trial that pauses at a rung
(`search.strategies.promotion`), because it is not among the best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev

from optuna import Study
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.strategies.prospect import Prospect, expected_gain
from search.strategies.repeating import REPEATED, RepeatingSampler, repeats_another
from search.strategies.seeded import StudySampler

LEAST = 20  # trials that have ended before a study may stop
REPEATS = 2  # of the best configuration, with other seeds
MOST_REPEATS = 2 * REPEATS  # where some of them fail, or collapse


def with_stop(sampler: StudySampler, stop: str | None, *, trials: int) -> StudySampler:
    """Return the sampler, which stops a study of ``trials`` in all where ``stop`` is given."""
    return sampler if stop is None else StoppingSampler(sampler, trials=trials)


def describe_limit(trials: int) -> str | None:
    """Say why a study of ``trials`` in all may not stop before its end; None: it may."""
    if trials > LEAST + REPEATS:
        return None
    return (
        f"STOP=auto decides when {LEAST} trials and {REPEATS} repeats of the best have ended: "
        f"TRIALS={trials} leaves it nothing to stop"
    )


def look_ahead(trials: Sequence[FrozenTrial], total: int, *, minimize: bool) -> Prospect | None:
    """Return the prospect of a study of ``total`` trials; None: too little is known yet.

    trials: all trials of the study so far
    """
    complete = {trial.number: _value_of(trial) for trial in trials if _is_complete(trial)}
    behind = sum(trial.state == TrialState.PRUNED or _pauses(trial) for trial in trials)
    ended = len(complete) + behind
    source = _find_source(trials)
    if ended < LEAST or source is None or source not in complete:
        return None
    repeats = [complete[each.number] for each in _repeats_of(trials) if each.number in complete]
    if len(repeats) < REPEATS:
        return None
    worst = (max if minimize else min)(complete.values())
    remaining = max(total - ended, 0)
    return Prospect(
        ended=ended,
        remaining=remaining,
        gain=expected_gain([*complete.values(), *[worst] * behind], remaining, minimize=minimize),
        noise=stdev([complete[source], *repeats]),
    )


def _is_complete(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0])


def _pauses(trial: FrozenTrial) -> bool:
    """Whether a trial pauses; one that was interrupted looks alike until a worker takes it."""
    return trial.state == TrialState.WAITING and bool(trial.intermediate_values)


def _value_of(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _repeats_of(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if repeats_another(trial)]


def _find_source(trials: Sequence[FrozenTrial]) -> int | None:
    """Return the number of the trial that is repeated; None: none is yet."""
    return next((trial.system_attrs[REPEATED] for trial in _repeats_of(trials)), None)


class StoppingSampler(StudySampler):
    """Wraps another sampler, and stops the study when it no longer pays.

    When `LEAST` trials have ended, it repeats the best configuration with other seeds.
    trials: of the study in all; a grid has no more than its points
    """

    def __init__(self, inner: StudySampler, *, trials: int) -> None:
        trials = min(trials, inner.points or trials)
        super().__init__(
            f"{inner.label}, STOP=auto of {trials} trials", draws_alone=inner.draws_alone
        )
        self.inner = inner
        self.trials = trials
        self._begun: dict[int, int] = {}  # repeats of ours: Optuna goes on with the trial of before

    @property
    def points(self) -> int | None:
        return self.inner.points

    def _sampler_of(self, trial: FrozenTrial) -> BaseSampler:
        source = trial.system_attrs.get(REPEATED, self._begun.get(trial.number))
        return self.inner if source is None else RepeatingSampler(int(source))

    def any_sampler(self) -> BaseSampler:
        return self.inner.any_sampler()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide whether the trial repeats the best."""
        if "fixed_params" not in trial.system_attrs and REPEATED not in trial.system_attrs:
            source = self._due_repeat(study)
            if source is not None:
                study._storage.set_trial_system_attr(trial._trial_id, REPEATED, source)
                self._begun[trial.number] = source
                return
        super().before_trial(study, trial)

    def _due_repeat(self, study: Study) -> int | None:
        """Return which trial is to be repeated now; None: none."""
        trials = study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state.is_finished() or _pauses(trial)]
        repeats = _repeats_of(trials)
        useful = [t for t in repeats if _is_complete(t) or not t.state.is_finished()]
        if len(useful) >= REPEATS or len(repeats) >= MOST_REPEATS:
            return None
        if len(ended) < LEAST or self.trials - len(trials) < REPEATS:
            return None
        source = _find_source(trials)
        if source is not None:
            return source
        complete = [trial for trial in ended if _is_complete(trial)]
        best = min if study.direction == StudyDirection.MINIMIZE else max
        found = best(complete, key=_value_of, default=None)
        return None if found is None else found.number

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        super().after_trial(study, trial, state, values)
        if self.inner.has_stopped:
            self._note_stop()
            return
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        now = _ended(trial, state, values)
        minimize = study.direction == StudyDirection.MINIMIZE
        prospect = look_ahead([*others, now], self.trials, minimize=minimize)
        if prospect is not None and prospect.remaining and not prospect.pays:
            self.reason = prospect.words
            self._note_stop()


def _ended(trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> FrozenTrial:
    """Return the trial as it will be stored in a moment."""
    now = FrozenTrial(
        number=trial.number,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=trial.datetime_start,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs=trial.system_attrs,
        intermediate_values={},
        trial_id=trial._trial_id,
    )
    now.state = state
    now._values = None if values is None else list(values)
    return now
