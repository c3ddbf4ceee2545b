"""Which parameters mattered, how sure that is, and what chance alone gives.

    found = measure_importance(trials, minimize=True, repeats=REPEATS)
    found[0].share, found[0].low, found[0].high    # 0.71, 0.52, 0.80
    found[0].chance, found[0].is_told              # 0.18, True

PED-ANOVA (Watanabe et al. 2023) compares what the best quarter of the trials chose with what all
chose. It asks only which trials are among the best. So it bears values of any scale, pruned trials
however early they ended, and parameters that few trials have.

Some parameter always has the largest share, also where values are noise. So two things stand beside
each share:

    low, high    of nine tenths of the shares in trials that are drawn again with replacement
                 (bootstrap, bias-corrected: Efron 1987): another search of as many trials may find
                 that
    chance       the share that a parameter without any effect exceeds in one of twenty searches:
                 values are dealt out anew among the trials (permutation)

A parameter can be told from chance where its share exceeds ``chance``. The shares are those of the
dashboard, too. All is drawn from a fixed seed: the same trials give the same numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

LEAST_TRIALS = 8  # with a value, to say what mattered: the best quarter are then two trials
BEST_SHARE = 0.25  # of the trials, which are compared with the others
REPEATS = (
    99  # of each kind, in a report: 3 s for six parameters and 200 trials, 5 s for `MOST_TRIALS`
)
MOST_TRIALS = 500  # of more trials, as many evenly spaced ones are compared
LEVEL = 0.05  # of searches in which a parameter without effect exceeds ``chance``
INSIDE = 0.9  # of the repeats between low and high


@dataclass(frozen=True, kw_only=True)
class Importance:
    """One parameter's importance: see above.

    share: of all parameters' differences, at most 1; 0 where the best chose it as all others did
    low, high, chance: None where they were not asked for
    """

    name: str
    share: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None

    @property
    def is_told(self) -> bool:
        """Whether the parameter can be told from chance."""
        return self.chance is not None and self.share > self.chance


def quality_of(trial: FrozenTrial) -> float | None:
    """Return a trial's value, the first of several; None: it has none."""
    return trial.values[0] if trial.values else None


def valued_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials that importance is measured of: with parameters and a finite value."""
    return [
        trial
        for trial in trials
        if trial.params and (value := quality_of(trial)) is not None and math.isfinite(value)
    ]


def measure_importance(
    trials: Sequence[FrozenTrial], *, minimize: bool, repeats: int
) -> list[Importance]:
    """Return the importance of each parameter, the largest first.

    It is empty for fewer than `LEAST_TRIALS` valued trials, and where the best quarter chose all
    parameters as all others did.

    repeats: of each kind; 0 leaves out low, high and chance, which take nearly all the time
    """
    valued = sorted(valued_trials(trials), key=lambda trial: trial.number)
    if len(valued) < LEAST_TRIALS:
        return []
    compared = _Compared(_spread(valued), minimize=minimize)
    measured = compared.measure()
    total = sum(measured.values())
    if not total:
        return []
    if not repeats:
        return [Importance(name=name, share=value / total) for name, value in measured.items()]
    random = np.random.default_rng(0)
    drawn = [compared.measure_drawn_again(random) for _ in range(repeats)]
    dealt = [compared.measure_dealt_anew(random) for _ in range(repeats)]
    found = []
    for name, value in measured.items():
        share = value / total
        low, high = _interval(share, [shares.get(name, 0.0) for shares in drawn])
        chance = _exceeded_by_chance([values[name] for values in dealt]) / total
        found.append(Importance(name=name, share=share, low=low, high=high, chance=chance))
    return found


def _spread(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return at most `MOST_TRIALS`, evenly spaced."""
    count = min(len(trials), MOST_TRIALS)
    return [trials[place * len(trials) // count] for place in range(count)]


def _interval(share: float, drawn: Sequence[float]) -> tuple[float, float]:
    """Return the ends of the interval around ``share``, from those of trials drawn again.

    Among trials drawn again some stand twice, which makes the best ones look more alike than they
    are. Where therefore more than half of ``drawn`` lie on one side of ``share``, the interval is
    moved to the other.
    """
    normal = NormalDist()
    below = (sum(each < share for each in drawn) + 0.5) / (len(drawn) + 1)
    moved = 2 * normal.inv_cdf(below)
    ends = (normal.cdf(moved + normal.inv_cdf(end)) for end in ((1 - INSIDE) / 2, (1 + INSIDE) / 2))
    low, high = (float(np.quantile(drawn, end)) for end in ends)
    return min(low, share), max(high, share)


def _exceeded_by_chance(values: Sequence[float]) -> float:
    """Return the smallest value that at most `LEVEL` of draws exceed, these and one more."""
    kept = math.ceil((1 - LEVEL) * (len(values) + 1))
    return sorted(values)[min(kept, len(values)) - 1]


class _Compared(optuna.Study):
    """A study in memory of some trials, or of the same trials drawn again."""

    def __init__(self, trials: Sequence[FrozenTrial], *, minimize: bool) -> None:
        made = optuna.create_study(storage=optuna.storages.InMemoryStorage())
        super().__init__(made.study_name, made._storage)
        sign = 1 if minimize else -1
        self.add_trials(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=sign * value
            )
            for trial in trials
            if (value := quality_of(trial)) is not None
        )
        self.whole = super().get_trials(deepcopy=False)
        self.chosen = self.whole
        self.values = [trial.value or 0.0 for trial in self.whole]

    def get_trials(self, *_: object, **__: object) -> list[FrozenTrial]:
        """Return the trials that are compared now: all of them are complete."""
        return self.chosen

    def measure(self) -> dict[str, float]:
        """Return how differently the best chose each parameter, the largest first."""
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        values = self.values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a target, and of parameters that few trials have
            return get_param_importances(
                self,
                evaluator=evaluator,
                target=lambda trial: values[trial.number],
                normalize=False,
            )

    def measure_drawn_again(self, random: np.random.Generator) -> dict[str, float]:
        """Return the shares in as many trials, drawn with replacement."""
        places = random.integers(len(self.whole), size=len(self.whole))
        self.chosen = [self.whole[place] for place in places]
        measured = self.measure()
        self.chosen = self.whole
        total = sum(measured.values()) or 1.0
        return {name: value / total for name, value in measured.items()}

    def measure_dealt_anew(self, random: np.random.Generator) -> dict[str, float]:
        """Return what is measured where no parameter has to do with the values."""
        kept, self.values = self.values, random.permutation(self.values).tolist()
        measured = self.measure()
        self.values = kept
        return measured
