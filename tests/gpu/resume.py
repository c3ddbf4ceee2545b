"""A training goes on from a checkpoint on the GPU, and from one that a CPU has written.

Where a step draws random numbers, a CPU and a GPU draw others. There it is only asked that values
stay finite and near.

    python -m tests.gpu --only resume ...
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from models.base import Model
from models.data.images import ImageSplits
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import EpochResult, fit
from search.worker.device import use_device
from tests.gpu.cases import Case, cases_of, draw_splits
from tests.gpu.part import Row, Settings
from tests.gpu.steps import largest_difference

STEPS_AN_EPOCH = 4
BREAK, EPOCHS = 2, 4
LIMIT = 1e-2


def measure(settings: Settings) -> Iterator[Row]:
    use_device(settings.device)  # as a worker does
    for case in cases_of(settings, every=10)[::-1]:
        try:
            yield from _resume(case, settings)
        except Exception as error:
            traceback.print_exc()
            what = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            yield Row(name=case.name, found=what, ok=False)


def _resume(case: Case, settings: Settings) -> Iterator[Row]:
    images = draw_splits(case.shape, STEPS_AN_EPOCH * case.config.images_per_step)
    there = images.to(settings.device)
    whole = list(fit(case.build(settings.device), there, epochs=EPOCHS, seed=4))
    again = list(fit(case.build(settings.device), there, epochs=EPOCHS, seed=4))
    noise = largest_difference(again, whole)
    found = _broken_training(case, settings, there, settings.device)
    yield Row(
        name=f"{case.name}, from a checkpoint of the GPU",
        found=largest_difference(found, whole[BREAK:]),
        limit=max(LIMIT, 10 * noise),
        about=f"the same training twice differs by {noise:.1e}",
    )
    found = _broken_training(case, settings, images, "cpu")
    if case.draws:  # `fit` has checked that all values are finite
        yield Row(
            name=f"{case.name}, from a checkpoint of the CPU",
            found=f"{len(found)} epochs",
            ok=len(found) == EPOCHS - BREAK,
        )
        return
    on_cpu = list(fit(case.build("cpu"), images, epochs=EPOCHS, seed=4))
    yield Row(
        name=f"{case.name}, from a checkpoint of the CPU",
        found=largest_difference(found, on_cpu[BREAK:]),
        limit=0.05,
    )


def _broken_training(
    case: Case, settings: Settings, images: ImageSplits, device: str
) -> list[EpochResult]:
    """Train on ``device``, write a checkpoint, and go on with it on the GPU."""
    path = settings.work / "checkpoint.safetensors"
    first = _train_first(case, images, device)
    save_checkpoint(path, first, epoch=BREAK, note={})
    second = case.build(settings.device, seed=9)
    epoch, _ = load_checkpoint(path, second)
    there = images.to(settings.device)
    return list(fit(second, there, epochs=EPOCHS, seed=4, start=epoch))


def _train_first(case: Case, images: ImageSplits, device: str) -> Model:
    """Train for `BREAK` of `EPOCHS` epochs."""
    model = case.build(device)
    for result in fit(model, images, epochs=EPOCHS, seed=4):
        if result.number == BREAK:
            break
    return model
