"""A step on the GPU computes what a step computes: recorded, by itself, and in float64.

For each case of `tests.gpu.cases`:

    recorded     weights after 10 steps, of which the last 6 replay a CUDA graph, against 10 usual
                 ones with the same random numbers
    float64      weights after 5 usual steps against the same on a CPU in float64, with the same
                 draws (`tests.gpu.draws`), TF32 off; the error in float32 on a CPU stands beside it
    draws        replays on one batch draw other numbers each time, and the same for the same seed
    epochs       three epochs of `fit`, in which rates and noise change, recorded and usual

    python -m tests.gpu --only steps ...
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from models.base import Model
from models.data.images import Batch
from models.training.cuda_graph import USUAL_STEPS, CapturedChoices, CapturedStep, capture_step
from models.training.loop import EpochResult, fit
from models.training.precision import training_precision
from search.worker.device import use_device
from tests.gpu.cases import BATCH, Case, batches_of, cases_of, draw_splits, keep_usual
from tests.gpu.draws import SameDraws
from tests.gpu.part import Row, Settings, relative_error

REPLAYED = 6
EXACT_STEPS = 5
EPOCHS, STEPS_AN_EPOCH = 3, 8
RECORDED_LIMIT, FLOAT_LIMIT, EPOCH_LIMIT = 1e-3, 1e-3, 1e-2
ROUNDED_LIMIT = 0.1  # of weights after a few steps in bfloat16; on a CPU up to 0.004


def measure(settings: Settings) -> Iterator[Row]:
    use_device(settings.device)  # as a worker does
    for case in cases_of(settings, every=12):
        for check in (_compare_with_float64, _compare_recorded, _look_at_draws, _compare_epochs):
            try:
                yield from check(case, settings.device)
            except Exception as error:
                traceback.print_exc()
                what = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                yield Row(name=f"{case.name}, {check.__name__[1:]}", found=what, ok=False)


def _compare_recorded(case: Case, device: str) -> Iterator[Row]:
    usual, again, recorded = (case.build(device) for _ in range(3))
    wanted = _weights_after(usual, usual.train_step, case, device)
    noise = relative_error(_weights_after(again, again.train_step, case, device), wanted)
    step = capture_step(recorded)
    found = _weights_after(recorded, step, case, device)
    if is_recorded(step) is False:
        yield Row(name=f"{case.name}, recorded", found="it was not recorded", ok=False)
        return
    yield Row(
        name=f"{case.name}, recorded",
        found=relative_error(found, wanted),
        limit=max(RECORDED_LIMIT, 10 * noise),
        about=f"usual steps twice differ by {noise:.1e}",
    )


def is_recorded(step: object) -> bool | None:
    """Return whether a step has become a CUDA graph; None for one that is not to be recorded."""
    if isinstance(step, CapturedChoices):
        found = step.steps.values()
        is_made = any(each.graph is not None for each in found)
        return is_made and not any(each.refused for each in found)
    return step.graph is not None if isinstance(step, CapturedStep) else None


def _weights_after(
    model: Model, step: Callable[[Batch], object], case: Case, device: str
) -> list[Tensor]:
    """Return copies of all weights after some steps from the same seed."""
    model.train()
    torch.manual_seed(5)
    with training_precision(model):
        for batch in batches_of(case, device, USUAL_STEPS + REPLAYED):
            step(batch)
    return _floats(model)


def _floats(model: Model) -> list[Tensor]:
    """Return copies of what a model has learnt: weights, averages and statistics."""
    return [
        value.detach().clone() for value in model.state_dict().values() if value.is_floating_point()
    ]


def _compare_with_float64(case: Case, device: str) -> Iterator[Row]:
    if case.config.precision != "float32":
        yield from _compare_with_float32(case, device)
        return
    exact = _weights_of_exact_steps(case, "cpu", torch.float64)
    on_cpu = relative_error(_weights_of_exact_steps(case, "cpu", torch.float32), exact)
    errors = {}
    for name, allowed in (("float32", False), ("with TF32", True)):
        with _tf32(allowed):
            errors[name] = relative_error(
                _weights_of_exact_steps(case, device, torch.float32), exact
            )
    yield Row(
        name=f"{case.name}, float64",
        found=errors["float32"],
        limit=max(FLOAT_LIMIT, 5 * on_cpu),
        about=f"as it runs (TF32 in convolutions) {errors['with TF32']:.1e}; CPU {on_cpu:.1e}",
    )


def _compare_with_float32(case: Case, device: str) -> Iterator[Row]:
    """Compare the steps of a case in bfloat16 with its own in float32, which must be others."""
    usual = replace(case, config=replace(case.config, precision="float32"))
    rounded, exact = (
        _weights_after(model, model.train_step, each, device)
        for each in (case, usual)
        for model in (each.build(device),)
    )
    apart = relative_error(rounded, exact)
    if not apart:
        yield Row(name=f"{case.name}, float32", found="nothing was in bfloat16", ok=False)
        return
    yield Row(name=f"{case.name}, float32", found=apart, limit=ROUNDED_LIMIT)


def _weights_of_exact_steps(case: Case, device: str, dtype: torch.dtype) -> list[Tensor]:
    model = case.build("cpu").to(dtype).to(device)
    model.train()
    batches = [_cast(batch, device, dtype) for batch in batches_of(case, "cpu", EXACT_STEPS)]
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with SameDraws(seed=3):
            for batch in batches:
                model.train_step(batch)
    finally:
        torch.set_default_dtype(default)
    return _floats(model)


def _cast(batch: Batch, device: str, dtype: torch.dtype) -> Batch:
    labels, attributes = batch.labels, batch.attributes
    return Batch(
        images=batch.images.to(device, dtype),
        labels=None if labels is None else labels.to(device),
        attributes=None if attributes is None else attributes.to(device, dtype),
    )


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let convolutions round to TF32, or not; nothing else does by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _look_at_draws(case: Case, device: str) -> Iterator[Row]:
    model = case.build(device)
    step = capture_step(model)
    if not case.draws or not isinstance(step, CapturedStep):
        return
    for optimizer in model.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = 0.0  # so that nothing but draws tells two steps apart
    model.train()
    batch = next(batches_of(case, device, 1))
    with training_precision(model):
        for _ in range(USUAL_STEPS + 1):
            step(batch)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def replay(seed: int | None) -> list[Tensor]:
        model.load_state_dict(state)
        if seed is not None:
            torch.manual_seed(seed)
        return [value.clone() for value in step(batch).values()]

    first, second, third, again = replay(8), replay(None), replay(None), replay(8)
    others = relative_error(second, first), relative_error(third, second)
    same = relative_error(again, first)
    yield Row(
        name=f"{case.name}, draws",
        found=f"replays differ by {others[0]:.1e} and {others[1]:.1e}, same seed by {same:.1e}",
        ok=min(others) > 1e-5 and same < 1e-4,
    )


def _compare_epochs(case: Case, device: str) -> Iterator[Row]:
    images = draw_splits(case.shape, STEPS_AN_EPOCH * case.config.images_per_step + BATCH // 2)
    images = images.to(device)
    results = []
    for static in (False, False, True):
        model = case.build(device)
        if not static:
            keep_usual(model)
        results.append(list(fit(model, images, epochs=EPOCHS, seed=4)))
    noise = largest_difference(results[0], results[1])
    yield Row(
        name=f"{case.name}, epochs",
        found=largest_difference(results[2], results[0]),
        limit=max(EPOCH_LIMIT, 10 * noise),
        about=f"usual epochs twice differ by {noise:.1e}",
    )


def largest_difference(found: list[EpochResult], wanted: list[EpochResult]) -> float:
    """Return the largest difference of a metric of any epoch, relative where it is above 1."""
    largest = 0.0
    for ours, theirs in zip(found, wanted, strict=True):
        for mine, other in ((ours.train, theirs.train), (ours.valid, theirs.valid)):
            for name, value in other.items():
                largest = max(largest, abs(mine[name] - value) / max(1.0, abs(value)))
    return largest
