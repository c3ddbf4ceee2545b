"""A model that was trained on the GPU is drawn there, exported, and equal on the CPU.

python -m tests.gpu --only exports ...
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from models.base import AskedSamples, Model, evaluating
from models.data.images import ImageSplits
from models.export import check_export, load_export, write_export
from models.training.loop import evaluate, fit
from search.worker.device import use_device
from tests.gpu.cases import Case, cases_of, draw_splits
from tests.gpu.part import Row, Settings, relative_error

STEPS = 6
LIMIT = 1e-3


def measure(settings: Settings) -> Iterator[Row]:
    use_device(settings.device)  # as a worker does
    for case in cases_of(settings, every=10)[::-1]:
        for check in (_draw, _show_tables, _export):
            try:
                yield from check(case, settings)
            except Exception as error:
                traceback.print_exc()
                what = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
                yield Row(name=f"{case.name}, {check.__name__[1:]}", found=what, ok=False)


def _train(case: Case, settings: Settings) -> tuple[Model, ImageSplits]:
    images = draw_splits(case.shape, STEPS * case.config.images_per_step).to(settings.device)
    model = case.build(settings.device)
    for _ in fit(model, images, epochs=1, seed=0):
        pass
    return model, images


def _export(case: Case, settings: Settings) -> Iterator[Row]:
    model, images = _train(case, settings)
    model.prepare_export(images)
    with tempfile.TemporaryDirectory(dir=settings.work) as place:
        folder = Path(place)
        write_export(model, folder)
        largest = max(check_export(model, folder).values())
        loaded = load_export(folder)
    same = relative_error(
        [value.float() for value in loaded.state_dict().values()],
        [value.float() for value in model.state_dict().values()],
    )
    yield Row(
        name=f"{case.name}, export",
        found=largest,
        limit=1e-4,
        about=f"largest difference of a program; weights differ by {same:.0e}",
    )
    ours, theirs = evaluate(model, images.valid), evaluate(loaded, images.to("cpu").valid)
    drawn = {"spread"} | set(model.metrics if case.draws else ())
    known = [name for name in ours if name not in drawn]
    if known:
        found = max(abs(ours[n] - theirs[n]) / max(1e-3, abs(theirs[n])) for n in known)
        yield Row(name=f"{case.name}, evaluation on both", found=found, limit=LIMIT)


def _draw(case: Case, settings: Settings) -> Iterator[Row]:
    model, images = _train(case, settings)
    done: list[str] = []
    with tempfile.TemporaryDirectory(dir=settings.work) as place, evaluating(model):
        for part in ("valid", "test"):
            for picture in (model.preview(images, part, 5), *model.pictures(images, part)):
                if picture is not None:
                    picture.draw(Path(place) / f"{len(done)}-{picture.file}", "a trial")
                    done.append(picture.file)
        shown = model.fixed_samples(images, "valid", 8)
        made = _make(model, images)
        model.baseline(images, "test")
        if case.family.judged:
            samples = model.samples(16, images, "valid")
            assert bool(samples.isfinite().all())
    yield Row(
        name=f"{case.name}, pictures",
        found=f"{len(done)} pictures, {len(shown) if shown is not None else 0} samples, {made}",
        ok=True,
    )


def _show_tables(case: Case, settings: Settings) -> Iterator[Row]:
    if settings.tiny:
        return  # a CPU takes long for some
    model, images = _train(case, settings)
    with evaluating(model):
        titles = [table.title for table in model.tables(images, lambda line: None)]
    yield Row(name=f"{case.name}, tables", found="; ".join(titles) or "none", ok=True)


def _make(model: Model, images: ImageSplits) -> str:
    """Make images as `make sample` does, where the family can."""
    labels = torch.zeros(4, len(images.classes), device=model.device)
    labels[:, 1] = 1
    try:
        asked = AskedSamples(
            count=4,
            seed=0,
            labels=labels if model.labelled else None,
            images=images.valid.batch(slice(0, 4)).images if model.makes_from_images else None,
        )
        return f"{len(model.make(asked))} made"
    except NotImplementedError:
        return "none made"
