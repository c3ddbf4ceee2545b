"""Models at the width that was reported, and images for them: what the wide parts measure.

wide = Reported.of("stargan", settings)
model = wide.build()
step = wide.step(model)
step(wide.batch())
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
from optuna.trial import FixedTrial

from models.base import Metrics, Model, ModelConfig
from models.cae import CAEConfig
from models.data.images import Batch, Images, ImageSplits
from models.training.cuda_graph import capture_step
from search.study import StudySpec
from tests.gpu.clock import build, load_set
from tests.gpu.part import Settings

REFERENCES = {"gan": "G twice D", "gan_dropout": "G twice D", "gan_faces": "G twice D"}
RANDOM = 64  # images, where no real ones of the size are at hand


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A study's family at its reference configuration, with images on the device."""

    name: str
    spec: StudySpec
    config: ModelConfig
    images: ImageSplits
    device: str

    @classmethod
    def of(cls, name: str, settings: Settings, *, data: str = "") -> Reported:
        """Return the study ``name``; data: another set than the study's."""
        spec: StudySpec = import_module(f"search.studies.{name}").STUDY
        images = _images(spec, data or spec.data, settings)
        config = spec.model.fitted(_config(name, spec, settings), images)
        return cls(name=name, spec=spec, config=config, images=images, device=settings.device)

    def build(self) -> Model:
        """Return the model on the device, in training mode."""
        model = build(self.spec.model, self.config, self.images.shape, seed=0, device=self.device)
        model.begin_epoch(1, self.spec.epochs)
        return model.train()

    def step(self, model: Model) -> Callable[[Batch], Metrics]:
        """Return its training step, recorded where it can be."""
        return capture_step(model)

    @property
    def images_per_step(self) -> int:
        return self.config.images_per_step

    def batch(self) -> Batch:
        """Return random training images for a step."""
        train = self.images.train
        rows = torch.randint(len(train), (self.images_per_step,), device=train.pixels.device)
        return train.batch(rows)


def _config(name: str, spec: StudySpec, settings: Settings) -> ModelConfig:
    if name == "cae":
        config: ModelConfig = CAEConfig()
    else:
        chosen = spec.references[REFERENCES.get(name, next(iter(spec.references)))]
        config = spec.suggest(FixedTrial(dict(chosen)))
    if not settings.tiny:
        return config
    small: dict[str, Any] = {"batch_size": 4}
    if hasattr(config, "width"):
        small["width"] = 0.05
    return replace(config, **small)


def _images(spec: StudySpec, data: str, settings: Settings) -> ImageSplits:
    """Return the study's images; emoji stand in for faces, and noise for what is larger."""
    assert spec.shape is not None
    if spec.shape[1] > 64:
        return _noise(spec.shape, RANDOM, settings)
    if data.startswith("folder:"):
        data = f"folder:{settings.emoji / 'people'}"
    elif settings.tiny:
        data = "digits"
    return load_set(data, settings, spec.shape)


def _noise(shape: tuple[int, int, int], count: int, settings: Settings) -> ImageSplits:
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, device=settings.device)
    part = Images(pixels=pixels)
    return ImageSplits(name="noise", fingerprint="noise", train=part, valid=part, test=part)
