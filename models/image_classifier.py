"""What all classifiers share: images -> scores of classes, trained by cross-entropy.

A family fills ``optimizers["all"]`` and gives scores as its ``forward``.

Shape legend: N batch, C channels, H/W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Metrics, Model, ModelConfig
from models.data.images import Batch, ImageSplits
from models.errors import ConfigError, format_count, require
from models.needs import Needs
from models.programs import CLASS_SCORES, IMAGES, Program
from models.results import Baseline


@dataclass(frozen=True, kw_only=True)
class ImageClassifierConfig(ModelConfig):
    """dropout: share of units left out of a training step, below 1
    lr: learning rate
    classes: K; set from the images
    """

    dropout: float = 0.0
    lr: float = 1e-3
    classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require("dropout", self.dropout, 0.0, 0.95)
        require("lr", self.lr, 0.0, 10.0)
        require("classes", self.classes, 2, 65536)


class ImageClassifier(Model):
    """Images (N, C, H, W) in [0, 1] -> scores (N, K); their softmax is the class probabilities."""

    metrics = ("accuracy", "loss")
    usage = "classes = model(images).argmax(1)  # (N,), the number of each image's class"
    too_few: ClassVar[str]  # the end of the message for images of fewer than two classes

    @classmethod
    def needs(cls, config: ModelConfig) -> Needs:
        return Needs(what="a classifier", classes=2, each_class=True)

    @classmethod
    def fitted(cls, config: ModelConfig, images: ImageSplits) -> ModelConfig:
        count = len(images.classes)
        if count < 2:
            raise ConfigError(f"{images.name} has {format_count(count, 'class')}{cls.too_few}")
        assert isinstance(config, ImageClassifierConfig)
        return replace(config, classes=count)

    def train_step(self, batch: Batch) -> Metrics:
        return self.descend(self.loss, batch)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return what training minimises on ``batch``, and what it measures on the way."""
        measured = self.evaluate(batch)
        return measured["loss"], measured

    def evaluate(self, batch: Batch) -> Metrics:
        assert batch.labels is not None, "checked by `fitted`"
        scores = self(batch.images)
        return {
            "accuracy": (scores.argmax(1) == batch.labels).float().mean(),
            "loss": F.cross_entropy(scores, batch.labels),
        }

    def baseline(self, images: ImageSplits, part: str) -> Baseline:
        """Return the metrics of the training images' class shares, whatever the image is."""
        seen, labels = images.train.labels, getattr(images, part).labels
        assert seen is not None, "checked by `fitted`"
        counts = torch.bincount(seen, minlength=len(images.classes)).double()
        shares = ((counts + 1) / (counts.sum() + len(counts))).log()  # no class is impossible
        values = {
            "accuracy": float((labels == counts.argmax()).double().mean()),
            "loss": float(-shares[labels].mean()),
        }
        return Baseline(what="always the commonest class", values=values)

    def programs(self) -> dict[str, Program]:
        images = torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))
        return {
            "classifier": Program(
                module=self.network(),
                example=images.to(self.device),
                inputs=(IMAGES,),
                outputs=(CLASS_SCORES,),
            )
        }

    def network(self) -> nn.Module:
        """Return the module that is exported: images -> scores."""
        return self
