"""A trial that has ended is trained again from its record, in this process, and writes nothing.

    for epoch in train_again(context, recorded):
        print(epoch.number, epoch.value)

The parameters come from the record and not from the sampler; the seed, the number of epochs and the
images are those of the stored study. No pruner is asked: it is trained as far as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optuna.exceptions import TrialPruned
from optuna.trial import FixedTrial

from models.base import Model
from models.errors import DivergedError
from models.seeds import derive_seed
from models.training.loop import fit
from search.errors import SearchError
from search.setup.mistakes import describe_mistake, find_place
from search.trials.recorded_trial import RecordedTrial
from search.worker.context import WorkerContext


class NotTrainable(SearchError):
    """The study's file, as it is now, makes no model of the recorded parameters."""


@dataclass(frozen=True, kw_only=True)
class ReplayedEpoch:
    """number: from 1; value: of the study's metric, None where it is not finite; wall seconds"""

    number: int
    value: float | None
    seconds: float


def train_again(context: WorkerContext, recorded: RecordedTrial) -> Iterator[ReplayedEpoch]:
    """Yield every epoch that the recorded trial has; one that is not finite is the last.

    Raises `NotTrainable` with the place for an error of the study's code.
    """
    model = _make_model(context, recorded)
    epochs = fit(
        model,
        context.images,
        epochs=context.run.epochs,
        seed=_seed_of(context, recorded),
        judge=context.evaluator,
    )
    reached = 0
    while reached < min(recorded.epochs, context.run.epochs):
        try:
            result = next(epochs)
        except DivergedError as error:
            yield ReplayedEpoch(number=error.epoch, value=None, seconds=0.0)
            return
        except Exception as error:
            raise _not_trainable(context, recorded, error) from error
        reached = result.number
        value = result.valid[context.spec.quality]
        yield ReplayedEpoch(number=reached, value=value, seconds=result.seconds)


def _make_model(context: WorkerContext, recorded: RecordedTrial) -> Model:
    """Return the untrained model of the recorded parameters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a value outside a range that was edited
            trial = FixedTrial(dict(recorded.parameters), number=recorded.number)
            config = context.spec.suggest(trial)
        return context.make_model(config, _seed_of(context, recorded))
    except (Exception, TrialPruned) as error:
        raise _not_trainable(context, recorded, error) from error


def _seed_of(context: WorkerContext, recorded: RecordedTrial) -> int:
    """Return the recorded seed; older versions kept none, and it follows from the study's."""
    kept = recorded.attributes.get("seed")
    if isinstance(kept, int) and not isinstance(kept, bool):
        return kept
    return derive_seed(context.run.seed, "trial", recorded.number)


def _not_trainable(
    context: WorkerContext, recorded: RecordedTrial, error: Exception
) -> NotTrainable:
    place = find_place(error, Path(context.run.name))
    return NotTrainable(
        f"{recorded.title} cannot be trained again with the files of now: {place}: "
        f"{describe_mistake(error)}; put back the files with which it was trained"
    )
