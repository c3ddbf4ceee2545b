"""Fused trials: whether they are right, and how many trial-epochs a second they give.

Right: each of them has the weights of its single run (`models.cae.CAE.train_step`), from the same
weights, batches and rates, up to 1e-5 a step. Fast: whole epochs of K trials in one recorded step
(`models.training.fused_steps`), beside the single recorded step of the product, and what
`search.worker.fusing_choice` makes of these times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from statistics import median

import torch
from torch import Tensor

from models.base import Model
from models.cae import CAE, CAEConfig
from models.data.images import Batch, Images, ImageSplits
from models.training.epoch_task import EpochTask
from models.training.fused_epochs import FusedEpochs
from models.training.fused_steps import FusedSteps, fusing_key
from models.training.loop import Training
from search.worker.device import use_device
from search.worker.fusing_choice import FusingChoice
from tests.benchmarks.sizes import WIDTHS
from tests.gpu.clock import build, contain, load_set, seconds_each, tensor_cores
from tests.gpu.part import Row, Settings, relative_error

BATCH = 256
TOLERANCE = 1e-5  # a step, relative
CHECKED = 5  # steps
FLIPPED = 1e-3  # what a few units of a batch may change
ROUNDING = 1e-5  # of the largest gradient: a smaller one may be nothing but rounding
COUNTS = (16, 4, 8, 2, 1, 64, 32)  # trials at once, the most telling first
SECONDS = 45.0  # of the whole part; what is left then is left out


def measure(settings: Settings) -> Iterator[Row]:
    began = time.monotonic()
    use_device(settings.device, fuses=True)
    images = load_set("fashion_mnist", settings, None)
    yield from contain("equal to single runs", check(images, settings))
    for width in WIDTHS[: 1 if settings.tiny else None]:
        if time.monotonic() - began > SECONDS and not settings.tiny:
            yield Row(name="left out, since time was over", found=f"n {width[0]}, Z {width[1]}")
            continue
        what = f"n {width[0]}, Z {width[1]}: trial-epochs a second"
        yield from contain(what, time_width(width, images, settings))


# ---- right ----


def check(images: ImageSplits, settings: Settings) -> Iterator[Row]:
    """Compare fused trials with their single runs on this device."""
    with tensor_cores(False):
        few = Images(pixels=images.train.pixels[:4096])
        checks = [Check(width=w, settings=settings) for w in WIDTHS[: 1 if settings.tiny else 2]]
        for each in checks:
            yield from each.each_step(few)
        for each in checks:
            yield from each.five_steps(few)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Fused trials of one width, beside their single runs."""

    width: tuple[int, int]
    settings: Settings

    @property
    def called(self) -> str:
        return f"n {self.width[0]}, Z {self.width[1]}"

    @property
    def batch(self) -> int:
        return 64 if self.settings.tiny else BATCH

    def each_step(self, images: Images) -> Iterator[Row]:
        """Every one of 5 steps, in float32 and from the state of the single runs.

        Adam divides a gradient by its own size: where it is all rounding, its sign decides a whole
        step of the rate, and the single run in float32 differs as much from itself in float64.
        Rounding also takes a ReLU to the other side of zero now and then, which the median forgets.
        Weights are compared where the exact gradient is more than `ROUNDING` of its largest.
        """
        fused, singles, steps = self._begin(images, torch.float32)
        exact = self._models("cpu", torch.float64)
        found, of_rounding = [], []
        share = 1.0
        for number in range(CHECKED):
            for source, *twins in zip(singles, fused, exact, strict=True):
                for twin in twins:
                    _copy(source, twin)
            orders = self._orders(len(images), number)
            steps.train(fused, [order.to(self.settings.device) for order in orders])
            self._step_alone(singles, orders, images)
            self._step_alone(exact, orders, images)
            for model, single, twin in zip(fused, singles, exact, strict=True):
                slopes, exactly = _slopes(single), _slopes(twin)
                of_rounding.append(relative_error([slopes], [exactly]))
                clear = (exactly.abs() > ROUNDING * exactly.abs().max()).to(slopes.device)
                share = min(share, float(clear.double().mean()))
                found.append(relative_error([_row(model)[clear]], [_row(single)[clear]]))
        yield Row(
            name=f"{self.called}: weights after a step",
            found=median(found),
            limit=TOLERANCE,
            about=f"the median of {CHECKED} steps of {len(singles)} trials in float32, "
            f"{max(found):.1e} at most; where gradients are clear, {share:.0%} of the weights or "
            f"more; gradients of single runs differ from float64 by {median(of_rounding):.1e}",
        )
        yield Row(
            name=f"{self.called}: the worst of these",
            found=max(found),
            limit=max(FLIPPED, 3 * max(of_rounding)),
            about="where rounding takes a ReLU to the other side of zero",
        )
        yield from self._check_replaced(steps, fused, images)

    def five_steps(self, images: Images) -> Iterator[Row]:
        """Five steps without a look at the single runs, in float64, where rounding is no excuse."""
        fused, singles, steps = self._begin(images, torch.float64)
        for number in range(CHECKED):
            orders = self._orders(len(images), number)
            steps.train(fused, [order.to(self.settings.device) for order in orders])
            self._step_alone(singles, orders, images)
        yield Row(
            name=f"{self.called}: weights after {CHECKED} steps in float64",
            found=max(
                relative_error([_row(model)], [_row(single)])
                for model, single in zip(fused, singles, strict=True)
            ),
            limit=1e-9,
        )

    def _begin(self, images: Images, dtype: torch.dtype) -> tuple[list[CAE], list[CAE], FusedSteps]:
        """Return trials that are fused, the same trials alone, and the program of the first."""
        fused, singles = (self._models(self.settings.device, dtype) for _ in range(2))
        if len({fusing_key(model) for model in fused}) != 1 or fusing_key(fused[0]) is None:
            raise RuntimeError("trials that differ in rates alone are not fused")
        return fused, singles, FusedSteps(fused[0], images, count=len(fused))

    def _models(self, device: str, dtype: torch.dtype) -> list[CAE]:
        """Return four trials with weights and rates of their own."""
        found = []
        for seed, lr in enumerate((4e-3, 1e-3, 1e-2, 2e-4)):
            chosen = config(self.width, lr=lr, weight_decay=seed * 1e-5)
            chosen = replace(chosen, batch_size=self.batch)
            model = build(CAE, chosen, (1, 28, 28), seed=seed, device=device)
            assert isinstance(model, CAE)
            found.append(model.to(dtype))
        return found

    def _orders(self, count: int, number: int) -> list[Tensor]:
        """Return the images of a step: other ones for each trial."""
        generators = [torch.Generator().manual_seed(10 * number + k) for k in range(4)]
        return [torch.randperm(count, generator=each)[: self.batch] for each in generators]

    def _step_alone(self, models: list[CAE], orders: list[Tensor], images: Images) -> None:
        """Let each model take the product's own step with its own images."""
        for model, order in zip(models, orders, strict=True):
            weight = next(model.parameters())
            batch = images.batch(order).images.to(weight.device, weight.dtype)
            model.train_step(Batch(images=batch))

    def _check_replaced(self, steps: FusedSteps, fused: list[CAE], images: Images) -> Iterator[Row]:
        """A trial leaves and another takes its row: the others do what they would have done."""
        others = [0, 2, 3]
        orders = [each.to(self.settings.device) for each in self._orders(len(images), CHECKED)]
        twins = self._models(self.settings.device, torch.float32)
        for model, twin in zip(fused, twins, strict=True):
            _copy(model, twin)
        steps.train(twins, orders)
        left, taken = _row(fused[1]), self._models(self.settings.device, torch.float32)[0]
        steps.train([fused[0], taken, *fused[2:]], orders)
        apart = relative_error([_row(fused[k]) for k in others], [_row(twins[k]) for k in others])
        gone = relative_error([_row(fused[1])], [left])
        yield Row(name=f"{self.called}: a trial is replaced", found=apart + gone, limit=0.0)


def _copy(model: CAE, twin: CAE) -> None:
    """Bring ``twin`` to where ``model`` is, on its own device and in its own precision."""
    twin.load_state_dict(model.state_dict())
    state = deepcopy(model.optimizers["all"].state_dict())  # it shares its counters
    twin.optimizers["all"].load_state_dict(state)


def _row(model: Model) -> Tensor:
    """Return all weights as a row (P,)."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _slopes(model: CAE) -> Tensor:
    """Return the gradients of the model's last step as a row (P,)."""
    found = [part.grad for part in model.parameters()]
    return torch.cat([each.flatten() for each in found if each is not None])


def config(width: tuple[int, int], *, lr: float, weight_decay: float = 3.96e-6) -> CAEConfig:
    return CAEConfig(
        channels=width[0], latent=width[1], lr=lr, weight_decay=weight_decay, batch_size=BATCH
    )


# ---- fast ----


def time_width(width: tuple[int, int], images: ImageSplits, settings: Settings) -> Iterator[Row]:
    """Time an epoch's training alone and of K trials together, then let FUSE=auto choose."""
    called = f"n {width[0]}, Z {width[1]}"
    with tensor_cores(False):
        alone = _time_alone(width, images, settings)
        yield Row(
            name=f"{called}: an epoch alone",
            found=1 / alone,
            unit="trial-epochs/s",
            about="of training; what follows an epoch is not in it",
        )
        torch.backends.cudnn.allow_tf32 = True
        yield Row(
            name=f"{called}: an epoch alone, as FUSE=none trains it",
            found=1 / _time_alone(width, images, settings),
            unit="trial-epochs/s",
            about="convolutions may round to TF32",
        )
        torch.backends.cudnn.allow_tf32 = False
        found: dict[int, float] = {}
        for count in (2,) if settings.tiny else COUNTS:
            yield from contain(
                f"{called}, K {count}", _time_together(width, images, count, alone, found, settings)
            )
        if not settings.tiny:
            yield Row(name=f"{called}: trials that FUSE=auto holds", found=chosen(alone, found))


def _time_alone(width: tuple[int, int], images: ImageSplits, settings: Settings) -> float:
    """Return the seconds of an epoch's training."""
    (task,) = tasks_of(width, images, 1, settings)
    return seconds_each(task.train, settings, calls=3, warm=2)


def _time_together(
    width: tuple[int, int],
    images: ImageSplits,
    count: int,
    alone: float,
    found: dict[int, float],
    settings: Settings,
) -> Iterator[Row]:
    """Time an epoch of ``count`` trials together, with all copies to and from single models."""
    if settings.on_gpu:
        torch.cuda.reset_peak_memory_stats(settings.device)
    tasks, together = tasks_of(width, images, count, settings), FusedEpochs()
    began = time.perf_counter()
    together.train(tasks)
    first = time.perf_counter() - began
    each = seconds_each(lambda: together.train(tasks), settings, calls=3, warm=1)
    found[count] = each
    memory = torch.cuda.max_memory_allocated(settings.device) / 2**20 if settings.on_gpu else 0.0
    yield Row(
        name=f"n {width[0]}, Z {width[1]}, K {count}",
        found=count / each,
        unit="trial-epochs/s",
        about=f"{count * alone / each:.2f}x one alone; the first epoch, with its recording, takes "
        f"{first:.2f} s, another {each:.2f} s; {memory:.0f} MiB",
    )


def tasks_of(
    width: tuple[int, int], images: ImageSplits, count: int, settings: Settings
) -> list[EpochTask]:
    """Return the first epochs of ``count`` trials."""
    rows = torch.arange(2 * BATCH)
    few = replace(images, train=images.train.take(rows)) if settings.tiny else images
    found: list[EpochTask] = []
    for seed in range(count):
        chosen = config(width, lr=4e-3 / (1 + seed))
        model = build(CAE, chosen, (1, 28, 28), seed=seed, device=settings.device)
        task = Training(model, few, epochs=1, seed=seed).begin_epoch()
        assert task is not None
        found.append(replace(task, images=found[0].images) if found else task)
    return found


def chosen(alone: float, found: dict[int, float]) -> float:
    """Return how many trials a worker with these times would come to hold."""
    choice = FusingChoice(asked=None, on_gpu=True)
    for _ in range(100):
        keys = dict.fromkeys(range(choice.most), "same")
        for group in choice.group(keys):
            if len(group) == 1:
                choice.note_alone(group[0], "same", alone)
            else:
                known = max(count for count in found if count <= len(group))
                choice.note_together("same", len(group), found[known] * len(group) / known)
        choice.end_round(choice.most)
    return float(choice.most)
