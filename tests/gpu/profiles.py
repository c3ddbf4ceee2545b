"""Where the time of a training goes: launches, kernels, arithmetic, memory, waiting.

A step's least bytes are counted as: weights 10 times (read forwards and backwards, their gradients
written, Adam's seven readings and writings), outputs of layers 4 times (written and read in both
directions). Its operations are those of convolutions and products, forwards and backwards.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from models.base import Metrics, Model, parameter_count
from models.data.images import Batch
from models.errors import first_line
from models.evaluation.feature_cache import make_extractor
from models.evaluation.sample_evaluator import open_evaluator
from models.training.checkpoint import save_checkpoint
from models.training.cuda_graph import USUAL_STEPS
from models.training.loop import evaluate, fit
from search.worker.device import use_device
from tests.gpu.clock import contain, seconds_each, tensor_cores, wait
from tests.gpu.part import Row, Settings
from tests.gpu.reported import Reported
from tests.gpu.steps import is_recorded

NAMES = ("cae", "gan", "vae", "stargan")
WIDE = ("gan", "stargan")  # channels_last is tried
SHOWN = 12  # kernels
PROFILED = 5  # steps
WEIGHTS_MOVED, OUTPUTS_MOVED = 10, 4
SIZE = 8192  # of a matrix product
COPIED = 2**28  # floats
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What the device does at most: operations a second by precision, bytes a second of a copy."""

    flops: dict[str, float]
    bytes: float


def measure(settings: Settings) -> Iterator[Row]:
    use_device(settings.device)
    ceiling = measure_ceiling(settings)
    for name, value in ceiling.flops.items():
        yield Row(name=f"ceiling: matrix product, {name}", found=value / 1e12, unit="TFLOP/s")
    yield Row(name="ceiling: copy", found=ceiling.bytes / 1e9, unit="GB/s", about="read + written")
    for name in NAMES[: 2 if settings.tiny else None]:
        yield from contain(name, profile_step(name, ceiling, settings))
        yield from contain(f"{name}, waits", count_waits(name, settings))
    for name in ("cae", "gan"):
        yield from contain(f"{name}, an epoch", profile_epoch(name, settings))


def measure_ceiling(settings: Settings) -> Ceiling:
    size, count = (256, 2**16) if not settings.on_gpu else (SIZE, COPIED)
    found = {}
    for name, tf32, dtype in (
        ("float32", False, torch.float32),
        ("TF32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
    ):
        with tensor_cores(tf32):
            a = torch.rand(size, size, device=settings.device, dtype=dtype)
            seconds = seconds_each(lambda a=a: a @ a, settings, calls=5, warm=2)  # type: ignore[misc]
            found[name] = 2 * size**3 / seconds
    source = torch.rand(count, device=settings.device)
    target = torch.empty_like(source)
    seconds = seconds_each(lambda: target.copy_(source), settings, calls=10, warm=2)
    return Ceiling(flops=found, bytes=2 * source.nbytes / seconds)


# ---- a step ----


def profile_step(name: str, ceiling: Ceiling, settings: Settings) -> Iterator[Row]:
    wide = Reported.of(name, settings)
    found: list[float] = []
    yield from profile_as_it_is(wide, ceiling, found, settings)
    yield from compare_variants(wide, found[0], settings)


def profile_as_it_is(
    wide: Reported, ceiling: Ceiling, found: list[float], settings: Settings
) -> Iterator[Row]:
    """Profile a step as the product takes it; its seconds are added to ``found``."""
    name, model, batch = wide.name, wide.build(), wide.batch()
    usual = seconds_each(lambda: model.train_step(batch), settings, calls=20)
    flops, least_bytes = work_of(model, batch)
    yield from show_kernels(name, model, batch, usual, settings)
    step = wide.step(model)
    _take_usual_steps(step, batch)
    recorded = seconds_each(lambda: step(batch), settings, calls=30)
    found.append(recorded)
    yield Row(
        name=f"{name}: a step, recorded",
        found=1e6 * recorded,
        unit="us",
        about=f"{1e6 * usual:.0f} step by step; {parameter_count(model):,} parameters",
    )
    yield Row(name=f"{name}: launch-bound share of a step", found=1 - recorded / usual)
    rate = flops / recorded
    yield Row(
        name=f"{name}: share of float32 arithmetic",
        found=rate / ceiling.flops["float32"],
        about=f"{flops / 1e9:.3g} GFLOP a step, {rate / 1e12:.3g} TFLOP/s; "
        f"{rate / ceiling.flops['TF32']:.3f} of TF32, which PyTorch lets convolutions use",
    )
    yield Row(
        name=f"{name}: share of memory bandwidth",
        found=least_bytes / recorded / ceiling.bytes,
        about=f"at least {least_bytes / 2**20:.0f} MiB a step",
    )


def work_of(model: Model, batch: Batch) -> tuple[float, float]:
    """Return the operations and the least bytes of a step."""
    outputs = 0

    def count(layer: nn.Module, given: Any, made: Any) -> None:
        nonlocal outputs
        outputs += sum(each.numel() for each in _tensors(made))

    hooks = [
        layer.register_forward_hook(count)
        for layer in model.modules()
        if not list(layer.children())
    ]
    with FlopCounterMode(display=False) as counter:
        model.train_step(batch)
    for hook in hooks:
        hook.remove()
    moved = WEIGHTS_MOVED * parameter_count(model) + OUTPUTS_MOVED * outputs
    return float(counter.get_total_flops()), 4.0 * moved


def _tensors(made: Any) -> Iterator[Tensor]:
    if isinstance(made, Tensor):
        yield made
    elif isinstance(made, tuple | list):
        for each in made:
            yield from _tensors(each)


def show_kernels(
    name: str, model: Model, batch: Batch, usual: float, settings: Settings
) -> Iterator[Row]:
    """Yield how many kernels a step has, how long they take, and which are the most expensive."""
    with profile(activities=_activities(settings), record_shapes=True) as profiler:
        for _ in range(1 if settings.tiny else PROFILED):
            model.train_step(batch)
        wait(settings)
    averages = profiler.key_averages(group_by_input_shape=True)
    with (settings.out / "kernels.txt").open("a", encoding="utf-8") as out:
        shown = averages.table(
            sort_by="self_device_time_total" if settings.on_gpu else "self_cpu_time_total",
            row_limit=60,
            max_name_column_width=70,
            max_shapes_column_width=110,
        )
        out.write(f"{name}\n{shown}\n")
    seconds: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for event in _device_events(profiler):
        seconds[event.name] += event.time_range.elapsed_us() / 1e6 / PROFILED
        counts[event.name] += 1
    if not counts:
        yield Row(name=f"{name}: kernels of a step", found="none were seen", ok=not settings.on_gpu)
        return
    busy = sum(seconds.values())
    yield Row(
        name=f"{name}: kernels of a step",
        found=sum(counts.values()) / PROFILED,
        about=f"{1e6 * busy:.0f} us of {1e6 * usual:.0f} step by step",
    )
    for kernel, value in seconds.most_common(SHOWN):
        yield Row(
            name=f"{name}: {kernel[:70]}",
            found=value / busy,
            unit="of the kernels' time",
            about=f"{counts[kernel] / PROFILED:g} times a step, {1e6 * value:.0f} us",
        )


def _activities(settings: Settings) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.on_gpu else [])]


def _device_events(profiler: profile) -> list[Any]:
    """Return what ran on the GPU, without the ranges that only have a name."""
    return [
        event
        for event in profiler.events() or []
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
    ]


def compare_variants(wide: Reported, recorded: float, settings: Settings) -> Iterator[Row]:
    """Time a recorded step in other precisions and another layout of memory.

    What it is compared with is the product's own: deterministic, and TF32 in convolutions.
    """
    name = wide.name
    bf16 = torch.bfloat16
    kind = torch.device(settings.device).type

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast(kind, dtype=bf16, cache_enabled=False)

    variants: list[tuple[str, bool | None, Callable[[], AbstractContextManager[Any]], bool]] = [
        ("float32 throughout", False, nullcontext, False),
        ("TF32 throughout", True, nullcontext, False),
        ("bfloat16 autocast", None, autocast, False),
        ("cuDNN not deterministic", None, _cudnn, False),
        ("cuDNN tuned", None, lambda: _cudnn(benchmark=True), False),
        ("channels_last", None, nullcontext, True),
        (
            "channels_last, cuDNN not deterministic, tuned",
            None,
            lambda: _cudnn(benchmark=True),
            True,
        ),
    ]
    if name in WIDE:
        variants.append(("bfloat16 autocast, channels_last", None, autocast, True))
    for what, tf32, inside, last in variants:
        try:
            with nullcontext() if tf32 is None else tensor_cores(tf32):
                seconds = _time_variant(wide, inside, last, settings)
        except RuntimeError as error:
            yield Row(name=f"{name}: {what}", found=f"refused: {first_line(error)[:150]}")
            continue
        yield Row(
            name=f"{name}: {what}",
            found=recorded / seconds,
            unit="x as fast",
            about=f"{1e6 * seconds:.0f} us a step, recorded",
        )


def _take_usual_steps(step: Callable[[Batch], Metrics], batch: Batch) -> None:
    """Take as many steps as come before the recording: in tiny form no others are taken."""
    for _ in range(USUAL_STEPS):
        step(batch)


def _time_variant(
    wide: Reported,
    inside: Callable[[], AbstractContextManager[Any]],
    last: bool,
    settings: Settings,
) -> float:
    model = wide.build()
    batch = wide.batch()
    if last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = batch.images.contiguous(memory_format=torch.channels_last)
        batch = Batch(images=images, labels=batch.labels, attributes=batch.attributes)
    usual = model.train_step

    def train_step(batch: Batch) -> Metrics:
        with inside():
            return usual(batch)

    vars(model)["train_step"] = train_step
    step = wide.step(model)
    _take_usual_steps(step, batch)
    seconds = seconds_each(lambda: step(batch), settings, calls=30)
    if is_recorded(step) is False:
        raise RuntimeError("the step cannot be recorded: see log.txt")
    return seconds


@contextmanager
def _cudnn(*, benchmark: bool = False) -> Iterator[None]:
    """Let cuDNN take algorithms that do not repeat bit for bit; benchmark: the fastest of all."""
    settings = torch.backends.cudnn
    before = settings.benchmark, settings.deterministic
    settings.benchmark, settings.deterministic = benchmark, False
    try:
        yield
    finally:
        settings.benchmark, settings.deterministic = before


# ---- an epoch ----


def count_waits(name: str, settings: Settings) -> Iterator[Row]:
    """Count how often `fit` waits for the GPU, or copies from it, in each further step."""
    wide = Reported.of(name, settings)
    few, many = (2, 3) if settings.tiny else (8, 24)
    found = []
    for steps in (few, many):
        count = min(steps * wide.images_per_step, 60_000)
        rows = torch.arange(count, device=settings.device) % len(wide.images.train)
        some = torch.arange(min(len(wide.images.valid), 64), device=settings.device)
        images = type(wide.images)(
            name="few",
            fingerprint="few",
            train=wide.images.train.take(rows),
            valid=wide.images.valid.take(some),
            test=wide.images.test.take(some[: len(wide.images.test)]),
            classes=wide.images.classes,
            attribute_names=wide.images.attribute_names,
        )
        epochs = fit(wide.build(), images, epochs=3, seed=0)
        next(epochs)
        with profile(activities=_activities(settings)) as profiler:
            next(epochs)
            wait(settings)
        del epochs  # and what its recorded step holds
        events = profiler.events() or []
        waits = sum(event.name in WAITS for event in events)
        copies = sum("DtoH" in event.name for event in _device_events(profiler))
        launches = sum(event.name.startswith("cudaGraphLaunch") for event in events)
        found.append((count // wide.images_per_step, waits, copies, launches))
    (s0, w0, c0, l0), (s1, w1, c1, l1) = found
    more = max(s1 - s0, 1)
    yield Row(
        name=f"{name}: fit waits for the GPU",
        found=(w1 - w0) / more,
        limit=0.1,
        unit="times a step",
        about=f"epochs of {s0} and {s1} steps wait {w0} and {w1} times",
    )
    yield Row(
        name=f"{name}: fit copies to the host",
        found=(c1 - c0) / more,
        limit=0.1,
        unit="times a step",
        about=f"{c0} and {c1} times an epoch; recorded steps launched: {l0} and {l1}",
    )


def profile_epoch(name: str, settings: Settings) -> Iterator[Row]:
    """Say how an epoch's time divides among steps, evaluation, judging and a checkpoint."""
    wide = Reported.of(name, settings)
    images, model = wide.images, wide.build()
    judge = None
    if wide.spec.model.judged:
        began = time.perf_counter()
        judge = open_evaluator(make_extractor(images, settings.work / "evaluators"), images)
        yield Row(
            name=f"{name}: the judge is made", found=time.perf_counter() - began, unit="s, once"
        )
    *_, last = fit(model, images, epochs=1 if settings.tiny else 3, seed=0, judge=judge)
    began = time.perf_counter()
    evaluate(model, images.valid)
    evaluating = time.perf_counter() - began
    began = time.perf_counter()
    save_checkpoint(settings.work / "checkpoint", model, epoch=1, note={})
    saving = time.perf_counter() - began
    parts = {
        "training steps": last.seconds - last.judging - evaluating,
        "evaluation": evaluating,
        "judging": last.judging,
        "checkpoint": saving,
    }
    whole = sum(parts.values())
    shares = ", ".join(f"{part} {1e3 * value:.0f} ms" for part, value in parts.items())
    largest = max(parts, key=lambda part: parts[part])
    yield Row(
        name=f"{name}: the largest part of an epoch",
        found=largest,
        about=f"{parts[largest] / whole:.0%} of it: {shares}",
    )
