"""The small classifier whose features measure generated images.

Shape legend: N batch, C channels, H/W pixels, D features, K classes. Figures are for 28x28x1.

    body  C -> 32 -> 64 -> 128 (3x3, stride 2, ReLU) until 4x4 pixels are left, flatten,
          2048 -> D, ReLU: the features
    head  dropout, D -> K, cross entropy, Adam along a cosine

It is trained once for each labelled set and then stays as it is (`models/evaluation/features.py`).
Inception is not used because it was trained on photographs, not on digits, and takes a hundred
times as long for an image.

    python -c "from models.evaluation.feature_net import *
    print(FeatureNet(FeatureNetConfig(), (1, 28, 28)))"
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.base import ModelConfig
from models.data.images import Shape
from models.errors import require
from models.image_classifier import ImageClassifier, ImageClassifierConfig
from models.needs import Needs
from models.networks.layers import halved_size, initialise_for_relu
from models.optimizers import make_optimizer

CHANNELS = (32, 64, 128)  # the last is repeated where more layers are needed
SMALLEST = 4  # pixels a side after the convolutions, at most
LARGEST = 64  # pixels a side that the first convolution sees; larger images are averaged


@dataclass(frozen=True, kw_only=True)
class FeatureNetConfig(ImageClassifierConfig):
    """features: D; dropout: share of features left out of a training step, below 1"""

    batch_size: int = 128
    schedule: str = "cosine"
    features: int = 64
    dropout: float = 0.2
    lr: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        require("features", self.features, 1, 4096)


class FeatureNet(ImageClassifier):
    """A convolutional classifier whose last layer but one holds the features."""

    config_type = FeatureNetConfig
    config: FeatureNetConfig
    too_few = (
        ": too few to train what judges generated images; put the images in a folder a class, or "
        "export an autoencoder of them first"
    )

    @classmethod
    def needs(cls, config: ModelConfig) -> Needs:
        return Needs(what="the classifier that judges samples", classes=2)

    def __init__(self, config: FeatureNetConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.body = nn.Sequential(*_convolutions(shape), nn.Flatten())
        with torch.no_grad():
            flat = self.body(torch.zeros(1, *shape)).shape[1]
        self.body.extend([nn.Linear(flat, config.features), nn.ReLU()])
        self.head = nn.Sequential(
            nn.Dropout(config.dropout), nn.Linear(config.features, self.outputs)
        )
        initialise_for_relu(self)
        self.optimizers["all"] = make_optimizer("adam", self.parameters(), lr=config.lr)

    @property
    def outputs(self) -> int:
        """How many scores the head gives."""
        return self.config.classes

    def features_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) in [0, 1] -> features (N, D), scores (N, K)."""
        features = self.body(images)
        return features, self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> scores (N, K)."""
        return self.features_and_scores(images)[1]


def _convolutions(shape: Shape) -> list[nn.Module]:
    """Return layers that halve images until `SMALLEST` pixels a side are left."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    averaged = -(-max(height, width) // LARGEST)
    if averaged > 1:
        layers.append(nn.AvgPool2d(averaged, ceil_mode=True))
        height, width = -(-height // averaged), -(-width // averaged)
    wider = iter(CHANNELS)
    while max(height, width) > SMALLEST:
        out = next(wider, CHANNELS[-1])
        layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.ReLU()]
        channels, height, width = out, halved_size(height, 1), halved_size(width, 1)
    return layers
