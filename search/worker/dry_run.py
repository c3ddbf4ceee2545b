"""A dry run: everything that a study does with its model, once, on two images.

    make_dry_run(study, images, base, device="cpu", exports=True, say=print)

It builds the model of a random configuration, takes a training step, evaluates, draws a picture
and exports. A mistake that would have cost a night is one line with file and line of the user's
code, seconds after the command. It runs in a process of its own, whose end costs nothing.

Shape legend: N batch, C channels, H/W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import optuna
from optuna.exceptions import TrialPruned
from optuna.samplers import RandomSampler

from models.base import Model
from models.data.images import ImageSplits
from models.errors import ConfigError, is_shortage
from search.errors import StudyFileError
from search.setup.mistakes import describe_mistake, find_place
from search.study import Study
from search.trials.outcomes import is_out_of_memory
from search.worker.tried_export import TriedExport
from search.worker.tried_model import NotFinite, TriedModel

CONFIGURATIONS = 3  # that are tried where one is infeasible, or does not stay finite


def make_dry_run(
    study: Study,
    images: ImageSplits,
    base: Model | None,
    *,
    device: str,
    exports: bool,
    say: Callable[[str], None],
) -> str | None:
    """Try ``study`` on two of its ``images``; raise `StudyFileError` for a mistake.

    exports: whether the export is tried, too. say: hears what is being tried

    Returns why not all was tried: memory ran out, or no configuration is feasible. None: all was.
    """
    broken: StudyFileError | None = None
    infeasible = ""
    for seed in range(CONFIGURATIONS):
        trial = optuna.create_study(sampler=RandomSampler(seed=seed)).ask()
        try:
            config = study.spec.model.fitted(study.spec.suggest(trial), images)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the trials will say it
                _try_all(TriedModel(study, config, images, base, device, say), exports=exports)
            return None
        except (TrialPruned, ConfigError) as error:
            infeasible = describe_mistake(error)
        except NotFinite as error:
            broken = StudyFileError(str(error))
        except StudyFileError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return "memory ran out"
            if is_shortage(error):
                return describe_mistake(error)
            place = find_place(error, study.path)
            raise StudyFileError(f"{place}: {describe_mistake(error)}") from error
    if broken is not None:
        raise broken
    return f"none of {CONFIGURATIONS} configurations is feasible, {infeasible}"


def _try_all(tried: TriedModel, *, exports: bool) -> None:
    tried.build()
    tried.train()
    tried.evaluate()
    tried.draw()
    if exports:
        exported = TriedExport(tried)
        exported.export()
        exported.show()
