"""Feature extractors: networks that turn images into the features in which they are measured.

    extractor = make_extractor(images, Path("runs/cache"))     # trained once, then read
    seen = extractor(samples)                                   # features, classes, confidence
    extractor.hash, extractor.accuracy

A Fréchet distance means nothing without the features it was measured in. For a labelled set they
come from a small classifier (`models/evaluation/feature_net.py`) that is trained once on the set's
training images and is then the same for every trial. Its hash is recorded with every value: values
of two hashes cannot be compared. Another ``seed`` gives another extractor, as good as the first and
independent of it. For a set without labels, the encoder of an exported autoencoder takes its place
(`encoder_extractor`).

Shape legend: N images, C channels, H/W pixels, D features, K classes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoder import Autoencoder
from models.base import Model, evaluating
from models.data.images import EVALUATION_BATCH, Batch, Shape
from models.errors import ExtractorError
from models.evaluation.feature_net import FeatureNet
from models.kernels.fast_convolution import fast_convolutions


@dataclass(frozen=True, kw_only=True)
class ExtractedFeatures:
    """features (N, D) float32; a classifier also gives classes (N,) int64 and its confidence in
    them, (N,) in [0, 1]; a classifier of attributes the side of each, (N, A) bool."""

    features: Tensor
    classes: Tensor | None = None
    confidence: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A model that no longer changes and gives the features of images.

    kind: ``classifier``, ``attributes`` or ``encoder``
    hash: SHA-256 of the weights
    accuracy: a classifier's on the validation images
    classes: K; 0 where it knows none
    by_channel: True if it was trained on single channels and sees each of them alone: the
        features then stand side by side, and the K classes are all combinations
    key: of the images, the network and the seed that a classifier was made of
    """

    model: Model
    kind: str
    hash: str
    classes: int = 0
    accuracy: float | None = None
    by_channel: bool = False
    key: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """What is stored beside every value that was measured with it, as JSON takes it."""
        return {"extractor": self.kind, "hash": self.hash, "accuracy": self.accuracy}

    def __call__(self, images: Tensor) -> ExtractedFeatures:
        """Images (N, C, H, W), floats in [0, 1] or uint8 -> features, on the images' device."""
        parts = []
        with evaluating(self.model), fast_convolutions(self.model) as laid_out:
            for part in torch.split(images, EVALUATION_BATCH):
                part = part if part.is_floating_point() else part.float().div_(255)
                parts.append(self._extract(laid_out(Batch(images=part)).images))
        features, classes, confidence = zip(*parts, strict=True)
        if self.kind == "encoder":
            return ExtractedFeatures(features=torch.cat(features))
        if self.kind == "attributes":
            return ExtractedFeatures(features=torch.cat(features), attributes=torch.cat(classes))
        return ExtractedFeatures(
            features=torch.cat(features),
            classes=torch.cat(classes),
            confidence=torch.cat(confidence),
        )

    def _extract(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, classes or sides of attributes, and confidence; what an extractor does
        not know is empty."""
        if isinstance(self.model, Autoencoder):
            codes = self.model.encode(reshape_images(images, self.model.shape)).flatten(1)
            return codes, codes.new_empty(0), codes.new_empty(0)
        assert isinstance(self.model, FeatureNet)
        if self.kind == "attributes":
            features, scores = self.model.features_and_scores(images)
            return features, scores > 0, scores.new_empty(0)
        if not self.by_channel:
            features, scores = self.model.features_and_scores(images)
            confidence, classes = scores.softmax(1).max(1)
            return features, classes, confidence
        count, channels = images.shape[:2]
        features, scores = self.model.features_and_scores(images.flatten(0, 1).unsqueeze(1))
        likely, digits = scores.softmax(1).view(count, channels, -1).max(2)  # (N, C)
        place = scores.shape[1] ** torch.arange(channels - 1, -1, -1, device=images.device)
        return features.view(count, -1), (digits * place).sum(1), likely.prod(1)


def reshape_images(images: Tensor, shape: Shape) -> Tensor:
    """Return images (N, C, H, W) as an autoencoder of other images takes them.

    They are resized, and made grey or coloured.
    """
    channels, height, width = shape
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if images.shape[2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images


def encoder_extractor(model: Model, *, expected: str | None = None) -> Extractor:
    """Return an extractor whose features are an autoencoder's codes, for sets without labels.

    model: from `models.export.load_export`, or live; its weights must not change afterwards
    expected: hash of the extractor that earlier values were measured with
    """
    if not isinstance(model, Autoencoder):
        raise ExtractorError(
            f"a {type(model).__name__} has no encoder; judge unlabelled images with the export of "
            "an autoencoder"
        )
    found = weights_hash(model)
    check_extractor_hash(found, expected, f"the export of another {type(model).__name__}")
    return Extractor(model=model, kind="encoder", hash=found)


def check_extractor_hash(found: str, expected: str | None, what: str) -> None:
    """Raise `ExtractorError` where earlier values were measured with another extractor."""
    if expected is not None and found != expected:
        raise ExtractorError(
            f"the extractor is {what} ({found[:12]}); earlier values were measured with "
            f"{expected[:12]} and cannot be compared: bring that back, or begin a new study"
        )


def weights_hash(model: Model) -> str:
    """Return the SHA-256 of names, shapes and values of all weights; the same on every device."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().data)
    return digest.hexdigest()
