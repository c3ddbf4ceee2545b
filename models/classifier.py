"""Classes from the codes of an autoencoder: reference system A2.

Shape legend: N batch, C channels, H/W pixels, Z latent width, K classes.

    encoder  of an exported autoencoder, frozen (or trained along at the end): -> Z
    head     Z -> hidden (ReLU, dropout) -> K, cross entropy, Adam

A table shows how much the codes are worth: it sets the accuracy beside those of logistic
regressions on pixels and on principal components, and of a frozen encoder with random weights
(`models/analysis/baselines.py`).

    make study NAME=classifier FIRST=1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from models.analysis.confusion import class_table, confusion_matrix, draw_confusion
from models.autoencoder import Autoencoder
from models.base import Model, ModelConfig, Note
from models.data.images import PARTS, ImageSplits, Shape
from models.data.mixed_rows import shown_images
from models.errors import ConfigError, require
from models.export import describe, family_named
from models.figures.grids import draw_labelled
from models.image_classifier import ImageClassifier, ImageClassifierConfig
from models.networks.layers import initialise_for_relu
from models.optimizers import make_optimizer
from models.results import Picture, Table
from models.seeds import drawing


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(ImageClassifierConfig):
    """Defaults are the reported best configuration (reference system A2).

    hidden: N_h, >= 1; dropout: share of hidden units, below 1
    frozen: True if the encoder stays as it was exported
    encoder: describes the autoencoder (`models.export.describe`); set when a study starts from one
    """

    hidden: int = 276
    dropout: float = 0.06
    lr: float = 0.0031332
    weight_decay: float = 1.014e-5
    frozen: bool = True
    encoder: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("hidden", self.hidden, 1, 65536)
        require("weight_decay", self.weight_decay, 0.0, 10.0)


class Classifier(ImageClassifier):
    """Classes from the codes of an autoencoder, whose encoder may stay as it was exported.

    Two linear layers on the codes: 10,498 parameters at Z 27, hidden 276, 10 classes.
    """

    config_type = ClassifierConfig
    config: ClassifierConfig
    too_few = ", a classifier needs 2 or more: put the images in a folder a class"

    def __init__(self, config: ClassifierConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        if not config.encoder:
            raise ConfigError('a Classifier needs an encoder: set starts_from="cae" in the study')
        autoencoder = _build_autoencoder(config.encoder, shape)
        self.encoder = autoencoder.encoder
        with torch.no_grad():
            self.width = autoencoder.latent  # Z
        self.head = nn.Sequential(
            nn.Linear(self.width, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.classes),
        )
        initialise_for_relu(self.head)
        self.encoder.requires_grad_(not config.frozen)
        trained = self.head if config.frozen else self
        self.optimizers["all"] = make_optimizer(
            "adam", trained.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )

    @classmethod
    def based_on(cls, config: ModelConfig, base: Model) -> ModelConfig:
        """Take the encoder of an autoencoder; of a classifier take the head's width as well."""
        assert isinstance(config, ClassifierConfig)
        if isinstance(base, Classifier):
            return replace(config, hidden=base.config.hidden, encoder=base.config.encoder)
        if not isinstance(base, Autoencoder):
            raise ConfigError(
                f"a Classifier starts from an autoencoder or a classifier, not from "
                f"{type(base).__name__}"
            )
        return replace(config, encoder=describe(base))

    def start_from(self, base: Model) -> None:
        if isinstance(base, Classifier):
            self.load_state_dict(base.state_dict())
        else:
            assert isinstance(base, Autoencoder)
            self.encoder.load_state_dict(base.encoder.state_dict())

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.config.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> scores (N, K); their softmax is the class probabilities."""
        scores: Tensor = self.head(self.encoder(images))
        return scores

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture:
        batch = shown_images(images, part, count)
        found = self(batch.images).argmax(1).tolist()
        assert batch.labels is not None
        right = [a == b for a, b in zip(found, batch.labels.tolist(), strict=True)]
        words = [images.classes[index] for index in found]

        def draw(path: Path, title: str) -> None:
            draw_labelled(path, batch.images, words, right, title=f"{title}: {PARTS[part]} images")

        return Picture(name="predictions", caption="predicted classes, wrong ones red", draw=draw)

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        yield self.preview(images, part, 10)
        matrix = confusion_matrix(self, getattr(images, part), len(images.classes))

        def draw(path: Path, title: str) -> None:
            draw_confusion(path, matrix, images.classes, title=f"{title}: {PARTS[part]} images")

        yield Picture(name="confusion", caption="true against predicted class", draw=draw)

    def tables(self, images: ImageSplits, progress: Note) -> Iterator[Table]:
        from models.analysis.baselines import compare_with_baselines  # scikit-learn

        matrix = confusion_matrix(self, images.test, len(images.classes))
        yield class_table(matrix, images.classes)
        whole = "" if self.config.frozen else ", all weights trained"
        yield compare_with_baselines(
            matrix,
            images,
            progress,
            name=f"this classifier{whole}",
            width=self.width,
            random_encoder=self.with_random_encoder,
        )

    def network(self) -> nn.Module:
        return _EncoderAndHead(self)

    def with_random_encoder(self, seed: int) -> Classifier:
        """Return a classifier of the same widths whose frozen encoder was never trained."""
        with drawing("cpu", seed):
            return Classifier(replace(self.config, frozen=True), self.shape).to(self.device)


class _EncoderAndHead(nn.Module):
    """The classifier's forward pass alone, which is what is exported."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.encoder(images))
        return scores


def _build_autoencoder(described: Mapping[str, Any], shape: Shape) -> Autoencoder:
    """Build the described autoencoder with fresh weights, for images of ``shape``."""
    family = family_named(described["model"])
    if tuple(described["shape"]) != shape:
        raise ConfigError(
            f"the encoder was made for images of {tuple(described['shape'])}, not of {shape}; "
            "set the study's shape to the encoder's"
        )
    model = family(family.config_type.from_export(described["config"]), shape)
    if not isinstance(model, Autoencoder):
        raise ConfigError(f"{described['model']} is not an autoencoder")
    return model
