"""A study in memory before the real one: arguments that Optuna only notices later.

``tpe(n_startup_trials='a')`` or ``hyperband(max_resource=0)`` make an object
without complaint and then fail every trial. A few trials in memory show it, for
the cost of milliseconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from optuna import create_study
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.trial import Trial

from search.errors import BadVariable
from storage.errors import short

TRIALS, STEPS = 12, 3


def rehearse(suggest: Callable[[Trial], object], sampler: BaseSampler, pruner: BasePruner) -> None:
    """Raise `BadVariable` for a sampler that cannot draw or a pruner that cannot judge."""
    study = create_study(storage=InMemoryStorage(), sampler=sampler, pruner=pruner)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*out of range.*")
        warnings.simplefilter("ignore", ExperimentalWarning)
        for number in range(TRIALS):
            try:
                trial = study.ask()
                suggest(trial)
            except Exception as error:
                raise BadVariable(
                    f"the sampler cannot draw a trial: {short(str(error))}"
                ) from error
            try:
                for step in range(STEPS):
                    trial.report(float(number), step)
                    trial.should_prune()
            except Exception as error:
                raise BadVariable(
                    f"the pruner cannot judge a trial: {short(str(error))}"
                ) from error
            study.tell(trial, float(number))
