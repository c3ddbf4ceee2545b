"""The model of a retraining: of which configuration, with which seed, and as it was kept.

config, parameters = read_configuration(context, 7)
seed = retraining_seed(context.run.seed, 7, repeat=2)
model = load_retrained(context, record)      # at its best epoch
"""

from __future__ import annotations

from typing import Any

from optuna.trial import FixedTrial, FrozenTrial

from models.base import Model, ModelConfig, evaluating
from models.data.images import ImageSplits
from models.errors import CheckpointError
from models.seeds import derive_seed
from search.trials.retraining_record import RetrainingRecord
from search.worker.checkpoints import Checkpoints
from search.worker.context import WorkerContext


def load_retrained(context: WorkerContext, record: RetrainingRecord) -> Model:
    """Return the model of a record's best epoch, with all that follows from that epoch alone: a GAN
    is measured with its instance noise of then.

    Raises `CheckpointError` where its weights cannot be used any more. They are set aside then,
    with a line, and the supervisor has them made again.
    """
    config, _ = read_configuration(context, record.trial)
    model = context.make_model(config, record.seed)
    kept = Checkpoints(
        path=context.retraining_paths(record.trial, record.repeat).best,
        of=record.identity(),
        tell=context.tell,
    )
    for found in kept.read():
        if found.epoch != record.best_epoch:
            kept.refuse(found.path, CheckpointError(f"the best epoch is {record.best_epoch}"))
        elif kept.load(found, model):
            model.begin_epoch(record.best_epoch, record.most_epochs)
            return model
    raise CheckpointError(f"trial {record.trial} has no weights of its best epoch any more")


def retraining_seed(study_seed: int, number: int, repeat: int) -> int:
    """Return the seed of a retraining; the first is that which older versions took."""
    more = () if repeat == 1 else (repeat,)
    return derive_seed(study_seed, "retrain", number, *more)


def read_trial(context: WorkerContext, number: int) -> FrozenTrial:
    """Return trial ``number`` as it is stored, once the database answers."""
    queue = context.queue
    return queue.retry.wait_for(lambda: queue.storage.get_trial(queue.id_of(number)))


def read_configuration(context: WorkerContext, number: int) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the configuration that trial ``number`` trained, and its parameters."""
    trial = read_trial(context, number)
    return context.spec.suggest(FixedTrial(trial.params, number=number)), trial.params


def measure_baseline(
    model: Model, images: ImageSplits, metric: str, part: str
) -> dict[str, Any] | None:
    """Return what the model has to beat on ``part``, as the record keeps it; None: nothing is."""
    with evaluating(model):
        found = model.baseline(images, part)
    if found is None or metric not in found.values:
        return None
    return {"what": found.what, part: found.values[metric]}
