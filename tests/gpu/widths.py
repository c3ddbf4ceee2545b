"""Families at the width that was reported: memory, seconds of an epoch, and what they soon learn.

An epoch is 60,000 images, whatever set is at hand: its seconds follow from those of a step. Emoji
stand in for faces.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from models.base import evaluating, parameter_count
from models.figures.grids import draw_rows
from search.worker.device import use_device
from tests.gpu.clock import contain, seconds_each, wait
from tests.gpu.part import Row, Settings
from tests.gpu.reported import Reported
from tests.gpu.steps import is_recorded

NAMES = ("gan", "stargan", "gan_faces", "acgan", "gan_dropout", "vae_faces")
LARGE = ("vae_wide", "gan_wide")  # making their weights takes a CPU seconds
EPOCH = 60_000  # images
SECONDS = 1.0  # of a measurement
LEARNING = 7.0  # seconds
DRAWN = {"gan": "mnist", "gan_faces": "", "stargan": ""}  # family -> another set
COLUMNS, SIDE = 16, 64


def measure(settings: Settings) -> Iterator[Row]:
    use_device(settings.device)
    for name in NAMES:
        yield from contain(name, measure_width(name, settings))
    rows: dict[str, Tensor] = {}
    for name, data in DRAWN.items():
        yield from contain(f"{name} learns", learn(name, data, rows, settings))
    if rows:
        draw_rows(settings.out / "widths.png", rows, title=f"after {LEARNING:.0f} s of training")
    for name in LARGE:
        yield from contain(name, measure_width(name, settings))


def measure_width(name: str, settings: Settings) -> Iterator[Row]:
    """Measure the step of one family."""
    if settings.on_gpu:
        torch.cuda.reset_peak_memory_stats(settings.device)
    wide = Reported.of(name, settings)
    model = wide.build()
    step = wide.step(model)
    each = seconds_each(lambda: step(wide.batch()), settings, calls=100, warm=7, most=SECONDS)
    memory = torch.cuda.max_memory_allocated(settings.device) / 2**20 if settings.on_gpu else 0.0
    images = wide.images
    parts = (images.train, images.valid, images.test)
    resident = sum(part.pixels.nbytes for part in parts) / 2**20
    how = "recorded" if is_recorded(step) else "step by step"
    yield Row(
        name=f"{name}: an epoch of 60,000 images",
        found=each * EPOCH / wide.images_per_step,
        unit="s",
        about=(
            f"{1e3 * each:.2f} ms a step of {wide.images_per_step} images, {how}; "
            f"{parameter_count(model):,} parameters; peak {memory:.0f} MiB, of which images "
            f"{resident:.0f}; {'x'.join(map(str, images.shape))} of {images.name}"
        ),
    )


def learn(name: str, data: str, rows: dict[str, Tensor], settings: Settings) -> Iterator[Row]:
    """Train one family for some seconds, and add what it makes to the picture."""
    wide = Reported.of(name, settings, data=data)
    model = wide.build()
    step = wide.step(model)
    steps, began = 0, time.perf_counter()
    measured = step(wide.batch())
    while time.perf_counter() - began < (0.5 if settings.tiny else LEARNING):
        for _ in range(1 if settings.tiny else 20):
            measured = step(wide.batch())
            steps += 1
        wait(settings)
    values = {name: float(value) for name, value in measured.items()}
    with evaluating(model):
        model.end_epoch(wide.images.train)  # an averaged generator needs statistics of its own
        made = model.fixed_samples(wide.images, "valid", 2 * COLUMNS)
    assert made is not None
    spread = float(made.std(0).mean())
    if name == "stargan":
        rows["stargan: emoji"] = as_tiles(wide.images.valid.batch(slice(0, COLUMNS)).images)
        made = made[:COLUMNS]
    for number, part in enumerate(torch.split(as_tiles(made), COLUMNS)):
        rows[f"{name}: {steps} steps{', more' * number}"] = part
    yield Row(
        name=f"{name}: steps in {LEARNING:.0f} s",
        found=float(steps),
        ok=bool(made.isfinite().all()) and (spread > 0.01 or settings.tiny),
        about=", ".join(f"{key} {value:.3g}" for key, value in values.items()),
    )


def as_tiles(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 3, SIDE, SIDE) on the CPU, so that rows of all families fit together."""
    images = images.detach().float().cpu().expand(-1, 3, -1, -1)
    return F.interpolate(images, (SIDE, SIDE), mode="nearest").clamp(0, 1)
