"""The evaluator of samples measures the same on a GPU and on a CPU.

python -m tests.gpu --only judging ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import copy
from pathlib import Path

import torch

from models.data.images import ImageSplits
from models.data.loading import load_images
from models.evaluation.feature_cache import make_extractor
from models.evaluation.sample_evaluator import SampleEvaluator, open_evaluator
from models.training.loop import fit
from search.worker.device import use_device
from tests.gpu.cases import CASES
from tests.gpu.part import Row, Settings

COUNT = 1000
LIMIT = 0.01  # relative: TF32 rounds the features of a convolution to three digits
COUNTED = {"precision", "recall", "coverage", "modes", "label_accuracy", "label_worst"}


def measure(settings: Settings) -> Iterator[Row]:
    use_device(settings.device)  # as a worker does
    cache = settings.work / "cache"
    images = load_images("digits", root=settings.data, cache=cache, shape=(1, 28, 28))
    there = images.to(settings.device)
    on_cpu, on_gpu = (_open_judge(each, cache) for each in (images, there))
    yield from _compare(on_cpu, on_gpu, images)
    if settings.tiny:
        return
    yield from _judge_training(on_gpu, there)
    cache = settings.work / "cache of a gpu"
    began = time.perf_counter()
    own = open_evaluator(make_extractor(there, cache), there, count=COUNT)
    yield Row(
        name="an extractor trained on the GPU",
        found=float(own.extractor.accuracy or 0.0),
        ok=(own.extractor.accuracy or 0.0) > 0.9,
        about=f"its accuracy; {time.perf_counter() - began:.1f} s",
    )


def _open_judge(images: ImageSplits, cache: Path) -> SampleEvaluator:
    """Return an evaluator that also tells labels."""
    extractor = make_extractor(images, cache)
    return open_evaluator(extractor, images, count=COUNT, telling=extractor)


def _compare(
    on_cpu: SampleEvaluator, on_gpu: SampleEvaluator, images: ImageSplits
) -> Iterator[Row]:
    count = on_cpu.count
    generator = torch.Generator().manual_seed(3)
    real = images.train.batch(torch.arange(len(images.train) - count, len(images.train))).images
    samples = (real + 0.2 * torch.rand(real.shape, generator=generator)).clamp(0, 1)
    wanted, found = on_cpu(samples), on_gpu(samples.to(on_gpu.extractor.model.device))
    for name, value in wanted.items():
        difference = abs(found[name] - value)
        relative = difference if name in COUNTED else difference / max(abs(value), 1e-3)
        about = f"{value:.5g} on the CPU, {found[name]:.5g} on the GPU"
        yield Row(name=f"the judge's {name}", found=relative, limit=LIMIT, about=about)
    began = time.perf_counter()
    for _ in range(3):
        on_gpu(samples.to(on_gpu.extractor.model.device))
    seconds = (time.perf_counter() - began) / 3
    yield Row(name=f"judging {count} samples", found=seconds, unit="s")


def _judge_training(judge: SampleEvaluator, images: ImageSplits) -> Iterator[Row]:
    """Train GANs of each kind with the evaluator, as a trial does."""
    for name in ("gan 32", "acgan", "stargan"):
        case = next(each for each in CASES if each.name == name)
        model = case.build(judge.extractor.model.device.type)
        own = judge if case.family.labelled else _without_labels(judge)
        values = [
            epoch.valid["frechet"] for epoch in fit(model, images, epochs=2, seed=0, judge=own)
        ]
        yield Row(
            name=f"{name} is judged while it trains",
            found=", ".join(f"{value:.1f}" for value in values),
            ok=all(value == value for value in values),
            about="Fréchet distances",
        )


def _without_labels(judge: SampleEvaluator) -> SampleEvaluator:
    """Return the evaluator without that of labels."""
    plain = copy(judge)
    plain.labels = None
    return plain
