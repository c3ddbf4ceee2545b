"""The small classifier that tells the attributes of generated images.

    body  as that of `models.evaluation.feature_net.FeatureNet`: the features
    head  dropout, D -> A scores before the sigmoid, one for each attribute

An attribute is told by the side of its range's middle on which it lies. Both sides count alike
however rare one is, so that the classifier does not learn to always say the commoner one.

    python -c "from models.evaluation.attribute_net import *
    print(AttributeNet(AttributeNetConfig(ranges=((0, 1),)), (3, 64, 64)))"

Shape legend: N batch, C channels, H/W pixels, D features, A attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.base import Metrics, ModelConfig
from models.conditional_gan import LabelledConfig, Labels, Range, fit_config_to_labels
from models.data.images import Batch, ImageSplits, Shape
from models.evaluation.feature_net import FeatureNet, FeatureNetConfig
from models.needs import Needs

RAREST = 0.02  # share of images on one side that is made up for; fewer count less


@dataclass(frozen=True, kw_only=True)
class AttributeNetConfig(FeatureNetConfig):
    """ranges: (lowest, highest) of each attribute; high: share of training images on its upper
    side; both are set from the images"""

    ranges: tuple[Range, ...] = ((0.0, 1.0),)
    high: tuple[float, ...] = (0.5,)


class AttributeNet(FeatureNet):
    """A convolutional network that tells each attribute of an image."""

    config_type = AttributeNetConfig
    config: AttributeNetConfig
    weights: Tensor  # (2, A): of an image on the lower and on the upper side

    @classmethod
    def needs(cls, config: ModelConfig) -> Needs:
        return Needs(what="the classifier that tells attributes of samples")

    @classmethod
    def fitted(cls, config: ModelConfig, images: ImageSplits) -> ModelConfig:
        assert isinstance(config, AttributeNetConfig)
        labels = fit_config_to_labels(LabelledConfig(), images)
        tell = Labels(labels).to(images.train.pixels.device)
        upper = (tell(_labels_alone(images)) > 0.5).float().mean(0)
        return replace(config, ranges=labels.ranges, high=tuple(upper.tolist()))

    def __init__(self, config: AttributeNetConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.labels = Labels(LabelledConfig(labels=len(config.ranges), ranges=config.ranges))
        high = torch.tensor(config.high)
        sides = torch.stack([1 - high, high]).clamp(min=RAREST)
        self.register_buffer("weights", 0.5 / sides, persistent=False)

    @property
    def outputs(self) -> int:
        return len(self.config.ranges)

    def upper_sides(self, batch: Batch) -> Tensor:
        """Return the side of the middle on which each attribute lies: (N, A) bool."""
        found: Tensor = self.labels(batch) > 0.5
        return found

    def evaluate(self, batch: Batch) -> Metrics:
        upper = self.upper_sides(batch)
        scores = self(batch.images)
        weights = torch.where(upper, self.weights[1], self.weights[0])
        return {
            "accuracy": ((scores > 0) == upper).float().mean(),
            "loss": F.binary_cross_entropy_with_logits(scores, upper.float(), weights),
        }


def _labels_alone(images: ImageSplits) -> Batch:
    """Return the attributes of the training images, and none of their pixels."""
    return Batch(images=images.train.pixels[:0].float(), attributes=images.train.attributes)
