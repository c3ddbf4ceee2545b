"""Fused trials: whether they are right, and how many trial-steps a second they give.

Right: each of the trials has the weights of its single run (`models.cae.CAE.train_step`), from the
same weights, batches and rates, up to 1e-5 a step. Fast: trial-steps a second of K trials in one
recorded step, beside the single recorded step of the product, for each way of
`tests.gpu.fusing` and with and without TF32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from models.cae import CAE, CAEConfig
from models.data.images import Batch, Images, ImageSplits
from models.training.cuda_graph import capture_step
from search.worker.device import use_device
from tests.benchmarks.sizes import WIDTHS
from tests.gpu.clock import build, contain, load_set, seconds_each, tensor_cores, wait
from tests.gpu.fusing import (
    Branched,
    FusedTrials,
    Grouped,
    Multiplied,
    Vmapped,
    Way,
    record,
    row_of,
)
from tests.gpu.part import Row, Settings, relative_error

BATCH = 256
STEPS = 187  # of an epoch
TOLERANCE = 1e-5  # a step, relative
CHECKED = 5  # steps
FLIPPED = 1e-3  # what a few units of a batch may change
ROUNDING = 1e-5  # of the largest gradient: a smaller one may be nothing but rounding
WAYS: dict[str, type[Way]] = {
    "vmap": Vmapped,
    "groups": Grouped,
    "products": Multiplied,
    "branches": Branched,
}
MOST_BRANCHES = 32  # a recording of more takes too long
SECONDS = 45.0  # of the whole part; what is left then is left out


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration that is timed; several: steps in one recording; tuned: cuDNN chooses its
    algorithms by trying them."""

    width: tuple[int, int]
    way: str
    count: int
    tf32: bool = False
    several: int = 1
    tuned: bool = False

    @property
    def name(self) -> str:
        more = [f"{self.several} steps a recording"] if self.several > 1 else []
        more += ["cuDNN tuned"] if self.tuned else []
        n, z = self.width
        end = "".join(f", {each}" for each in more)
        return f"n {n}, Z {z}, {self.way}, K {self.count}, {precision(self.tf32)}{end}"


def precision(tf32: bool) -> str:
    return "TF32" if tf32 else "float32"


def measure(settings: Settings) -> Iterator[Row]:
    began = time.monotonic()
    use_device(settings.device)
    images = load_set("fashion_mnist", settings, None)
    for name in WAYS:
        yield from contain(f"{name}: equal to single runs", check(name, images, settings))
    singles: dict[tuple[tuple[int, int], bool], float] = {}
    for case in plan(settings):
        if time.monotonic() - began > SECONDS and not settings.tiny:
            yield Row(name="left out, since time was over", found=f"{case.name} and what follows")
            return
        if (case.width, case.tf32) not in singles:
            yield from contain("single step", time_single(case, images, singles, settings))
        yield from contain(case.name, time_case(case, images, singles, settings))


def plan(settings: Settings) -> Iterator[Case]:
    """Yield what is timed, the most telling first."""
    main = WIDTHS[0]
    if settings.tiny:
        for way in WAYS:
            yield Case(width=main, way=way, count=2)
        return
    for count in (1, 16, 64, 4, 32, 8, 2):
        for way in WAYS:
            if way != "branches" or count <= MOST_BRANCHES:
                yield Case(width=main, way=way, count=count)
    for count in (16, 64):
        for way in ("groups", "products", "vmap"):
            yield Case(width=main, way=way, count=count, tf32=True)
        yield Case(width=main, way="groups", count=count, tuned=True)
    yield Case(width=main, way="groups", count=16, several=11)
    for count in (16, 64, 1, 32, 8, 4, 2):
        for width in WIDTHS[1:]:
            for way in ("groups", "products", "vmap"):
                yield Case(width=width, way=way, count=count)
            if count == 16:
                yield Case(width=width, way="branches", count=16)
                yield Case(width=width, way="products", count=16, tf32=True)


# ---- right ----


def check(name: str, images: ImageSplits, settings: Settings) -> Iterator[Row]:
    """Compare fused trials with their single runs on this device."""
    with tensor_cores(False):
        pixels = images.train.pixels[:4096]
        widths = WIDTHS[: 1 if settings.tiny else 2]
        checks = [Check(name=name, width=width, settings=settings) for width in widths]
        for check in checks:
            yield from check.each_step(pixels)
        for check in checks:
            yield from check.five_steps(pixels)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Fused trials of one way and width, beside their single runs."""

    name: str
    width: tuple[int, int]
    settings: Settings

    @property
    def called(self) -> str:
        return f"{self.name}, n {self.width[0]}, Z {self.width[1]}"

    @property
    def batch(self) -> int:
        return 64 if self.settings.tiny else BATCH

    def each_step(self, pixels: Tensor) -> Iterator[Row]:
        """Every one of 5 steps, in float32 and from the state of the single runs.

        Adam divides a gradient by its own size: where it is all rounding, its sign decides a whole
        step of the rate, and the single run in float32 differs as much from itself in float64.
        Rounding also takes a ReLU to the other side of zero now and then, which the median forgets.
        Weights are compared where the exact gradient is more than `ROUNDING` of its largest.
        """
        trials, singles, step = self._begin(pixels, torch.float32)
        exact = _models(self.width, "cpu", torch.float64)
        of_gradients, of_weights, of_rounding = [], [], []
        share = 1.0
        for number in range(CHECKED):
            for k, (model, twin) in enumerate(zip(singles, exact, strict=True)):
                trials.load(k, model)
                twin.load_state_dict(model.state_dict())
                state = deepcopy(model.optimizers["all"].state_dict())  # it shares its counters
                twin.optimizers["all"].load_state_dict(state)
            step()
            self._step_alone(singles, trials.orders, number, pixels)
            self._step_alone(exact, trials.orders, number, pixels)
            for k, (model, twin) in enumerate(zip(singles, exact, strict=True)):
                slopes, exactly = _slopes(model), _slopes(twin)
                of_gradients.append(relative_error([trials.gradients[k]], [slopes]))
                of_rounding.append(relative_error([slopes], [exactly]))
                clear = (exactly.abs() > ROUNDING * exactly.abs().max()).to(slopes.device)
                share = min(share, float(clear.double().mean()))
                of_weights.append(
                    relative_error([trials.weights[k][clear]], [row_of(model)[clear]])
                )
        among = f"the median of {CHECKED} steps of {len(singles)} trials in float32"
        yield Row(
            name=f"{self.called}: gradients of a step",
            found=median(of_gradients),
            limit=TOLERANCE,
            about=f"{among}, {max(of_gradients):.1e} at most; single runs differ from float64 by "
            f"{median(of_rounding):.1e}, {max(of_rounding):.1e} at most",
        )
        yield Row(
            name=f"{self.called}: weights after a step",
            found=median(of_weights),
            limit=TOLERANCE,
            about=f"{among}, {max(of_weights):.1e} at most; where gradients are clear, "
            f"{share:.0%} of the weights or more",
        )
        yield Row(
            name=f"{self.called}: the worst of these",
            found=max(*of_gradients, *of_weights),
            limit=max(FLIPPED, 3 * max(of_rounding)),
            about="where rounding takes a ReLU to the other side of zero",
        )
        yield from self._check_moved(trials, singles)

    def five_steps(self, pixels: Tensor) -> Iterator[Row]:
        """Five steps without a look at the single runs, in float64, where rounding is no excuse."""
        trials, singles, step = self._begin(pixels, torch.float64)
        for number in range(CHECKED):
            step()
            self._step_alone(singles, trials.orders, number, pixels)
        yield Row(
            name=f"{self.called}: weights after {CHECKED} steps in float64",
            found=max(
                relative_error([trials.weights[k]], [row_of(model)])
                for k, model in enumerate(singles)
            ),
            limit=1e-9,
        )

    def _begin(
        self, pixels: Tensor, dtype: torch.dtype
    ) -> tuple[FusedTrials, list[CAE], Callable[[], object]]:
        """Return fused trials in an epoch, the same trials alone, and the (recorded) step."""
        singles = _models(self.width, self.settings.device, dtype)
        trials = FusedTrials(singles, pixels, WAYS[self.name])
        orders = _orders(len(singles), CHECKED, len(pixels), self.batch)
        trials.begin_epoch(orders.to(self.settings.device))
        if not self.settings.on_gpu:
            return trials, singles, trials.step
        return trials, singles, record(trials).replay

    def _step_alone(self, models: list[CAE], orders: Tensor, number: int, pixels: Tensor) -> None:
        """Let each model take the product's own step with its own images."""
        for model, order in zip(models, orders, strict=True):
            batch = Images(pixels=pixels).batch(order[number]).images
            weight = next(model.parameters())
            model.train_step(Batch(images=batch.to(weight.device, weight.dtype)))

    def _check_moved(self, trials: FusedTrials, singles: list[CAE]) -> Iterator[Row]:
        """A trial leaves and another takes its row: both have all that is theirs, nobody else's
        changes."""
        before = [tensor.clone() for tensor in trials.adam.state]
        left, (taken,) = singles[1], _models(self.width, self.settings.device, torch.float32)[:1]
        kept = trials.weights[1].clone()
        trials.store(1, left)
        trials.load(1, taken)
        others = [0, 2, 3]
        moved = relative_error(
            [tensor[others] for tensor in trials.adam.state], [tensor[others] for tensor in before]
        )
        placed = relative_error([trials.weights[1]], [row_of(taken)])
        gone = relative_error([row_of(left)], [kept])
        yield Row(
            name=f"{self.called}: a trial is replaced", found=moved + placed + gone, limit=0.0
        )


def _slopes(model: CAE) -> Tensor:
    """Return the gradients of the model's last step as a row (P,)."""
    found = [part.grad for part in model.parameters()]
    return torch.cat([each.flatten() for each in found if each is not None])


def config(width: tuple[int, int], *, lr: float, weight_decay: float = 3.96e-6) -> CAEConfig:
    return CAEConfig(
        channels=width[0], latent=width[1], lr=lr, weight_decay=weight_decay, batch_size=BATCH
    )


def _models(width: tuple[int, int], device: str, dtype: torch.dtype) -> list[CAE]:
    """Return four trials with weights and rates of their own."""
    found = []
    for seed, lr in enumerate((4e-3, 1e-3, 1e-2, 2e-4)):
        chosen = config(width, lr=lr, weight_decay=seed * 1e-5)
        model = build(CAE, chosen, (1, 28, 28), seed=seed, device=device)
        assert isinstance(model, CAE)
        found.append(model.to(dtype))
    return found


def _orders(count: int, steps: int, images: int, batch: int = BATCH) -> Tensor:
    """Return (count, steps, batch): an order of its own for each trial."""
    rows = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        turns = -(-steps * batch // images)
        order = torch.cat([torch.randperm(images, generator=generator) for _ in range(turns)])
        rows.append(order[: steps * batch].view(steps, batch))
    return torch.stack(rows)


# ---- fast ----


def time_single(
    case: Case,
    images: ImageSplits,
    found: dict[tuple[tuple[int, int], bool], float],
    settings: Settings,
) -> Iterator[Row]:
    """Time the product's own step: images are chosen, and the recorded step is replayed."""
    with tensor_cores(case.tf32):
        model = build(CAE, config(case.width, lr=4e-3), (1, 28, 28), seed=0, device=settings.device)
        step = capture_step(model)
        order = _orders(1, STEPS, len(images.train))[0].to(settings.device)
        model.train()
        each = seconds_each(
            _in_turn(lambda number: step(images.train.batch(order[number]))),
            settings,
            calls=100,
        )
    found[case.width, case.tf32] = each
    yield Row(
        name=f"n {case.width[0]}, Z {case.width[1]}, the product's step, {precision(case.tf32)}",
        found=1 / each,
        unit="trial-steps/s",
        about=f"{1e6 * each:.0f} us; {1 / (each * STEPS):.2f} trial-epochs/s of steps alone",
    )


def time_case(
    case: Case,
    images: ImageSplits,
    singles: dict[tuple[tuple[int, int], bool], float],
    settings: Settings,
) -> Iterator[Row]:
    """Time fused steps, and a whole epoch with its orders, its evaluation and its one copy."""
    if settings.on_gpu:
        torch.cuda.reset_peak_memory_stats(settings.device)
    torch.backends.cudnn.benchmark = case.tuned
    try:
        with tensor_cores(case.tf32):
            model = build(
                CAE, config(case.width, lr=4e-3), (1, 28, 28), seed=0, device=settings.device
            )
            assert isinstance(model, CAE)
            trials = FusedTrials([model] * case.count, images.train.pixels, WAYS[case.way])
            orders = _orders(1, STEPS, len(images.train)).to(settings.device)
            trials.begin_epoch(orders.expand(case.count, -1, -1))
            began = time.perf_counter()
            graph = record(trials, case.several) if settings.on_gpu else None
            wait(settings)
            recording = time.perf_counter() - began
            step = trials.step if graph is None else graph.replay
            calls = _in_turn(_from_start(trials, step, case.several), STEPS // case.several)
            each = seconds_each(calls, settings, calls=20, warm=3) / case.several
            epoch = _time_epoch(case, trials, step, images, settings)
    finally:
        torch.backends.cudnn.benchmark = False
    memory = torch.cuda.max_memory_allocated(settings.device) / 2**20 if settings.on_gpu else 0.0
    alone = singles.get((case.width, case.tf32))
    over = f"{case.count * alone / each:.2f}x the product's step; " if alone else ""
    yield Row(
        name=case.name,
        found=case.count / each,
        unit="trial-steps/s",
        about=(
            f"{over}{1e6 * each:.0f} us a step; {case.count / epoch:.2f} trial-epochs/s with "
            f"evaluation; {memory:.0f} MiB; recording {recording:.2f} s"
        ),
    )


def _time_epoch(
    case: Case,
    trials: FusedTrials,
    step: Callable[[], object],
    images: ImageSplits,
    settings: Settings,
) -> float:
    """Return the seconds of a whole epoch: orders drawn on the CPU as the product draws them, the
    steps, the evaluation of 12,000 images, the losses on the host."""
    steps = 1 if settings.tiny else STEPS // case.several
    valid = images.valid.pixels[: 256 if settings.tiny else None]
    trials.evaluate(valid)
    wait(settings)
    began = time.perf_counter()
    count = len(images.train)
    drawn = torch.stack([torch.randperm(count)[: STEPS * BATCH] for _ in range(case.count)])
    trials.begin_epoch(drawn.view(case.count, STEPS, BATCH).to(settings.device))
    for _ in range(steps):
        step()
    values = trials.evaluate(valid)
    losses = trials.losses.tolist()
    seconds = time.perf_counter() - began
    if not all(0 < value < 1 for value in values) or not all(loss > 0 for loss in losses):
        raise RuntimeError(f"an epoch gave the errors {values[:3]} and losses {losses[:3]}")
    return seconds


def _in_turn(call: Callable[[int], object], count: int = STEPS) -> Callable[[], None]:
    """Return a function that calls ``call`` with 0, 1, ..., count - 1, 0, ..."""
    number = -1

    def go_on() -> None:
        nonlocal number
        number = (number + 1) % count
        call(number)

    return go_on


def _from_start(
    trials: FusedTrials, step: Callable[[], object], several: int
) -> Callable[[int], None]:
    """Return a step that begins the epoch again where it is over: its images are counted."""

    def go_on(number: int) -> None:
        if number == 0:
            trials.number.zero_()
        step()

    return go_on
