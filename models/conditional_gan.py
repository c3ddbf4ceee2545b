"""What GANs share whose generator is given labels: the labels, losses on them, and their picture.

    config = fit_config_to_labels(config, images)
    Labels(config)(batch)              # (N, L) in [0, 1]

Labels are numbers that say what an image shows. Images with attributes (`attributes.csv` beside a
folder) have one number for each, brought from the training images' range to [0, 1]; attributes
may be all 0 and 1, -1 and 1, or anything between. Images with classes alone have a 1 in their
class's place and 0 elsewhere.

Shape legend: N batch, C channels, H/W pixels, L labels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.adversarial import Adversarial
from models.base import Metrics, ModelConfig, added_field
from models.data.images import Batch, Images, ImageSplits, Shape
from models.data.mixed_rows import mixed_rows
from models.errors import ConfigError, require
from models.needs import Needs
from models.networks.pixel_range import to_signed
from models.programs import LABELS, Program, TensorSpec
from models.results import Picture
from models.training.gan_balance import BalanceConfig

ROWS, LETTERS = 16, 24  # labels that a picture shows, and letters of a name in it

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class LabelledConfig(BalanceConfig):
    """The labels of a GAN, beside the balance of its networks.

    labels: L; set from the images
    exclusive: True for classes, of which an image has one; set from the images
    ranges: (lowest, highest) of each attribute; set from the images, empty for classes
    label_weight: weight of the losses on labels beside those on real or fake
    projection: weight with which the discriminator's scores of an image's labels join its score for
        real or fake (Miyato and Koyama 2018); 0: they do not. The discriminator is then asked
        whether an image is a real one *with these labels*.
    """

    labels: int = 1
    exclusive: bool = False
    ranges: tuple[Range, ...] = ()
    label_weight: float = 1.0
    projection: float = added_field(0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("labels", self.labels, 1, 65536)
        require("label_weight", self.label_weight, 0.0, 1e6)
        require("projection", self.projection, 0.0, 1e6)
        pairs = tuple((float(low), float(high)) for low, high in self.ranges)
        object.__setattr__(self, "ranges", pairs)  # JSON makes lists of them
        if pairs and len(pairs) != self.labels:
            raise ConfigError(f"ranges={pairs} are not as many as labels={self.labels}")


Config = TypeVar("Config", bound=LabelledConfig)


def fit_config_to_labels(config: Config, images: ImageSplits) -> Config:
    """Return ``config`` for the attributes of ``images``, or else their classes.

    Raises `ConfigError` for images that have neither.
    """
    values = images.train.attributes
    if values is None:
        if len(images.classes) < 2:
            raise ConfigError(
                f"{images.name} has neither attributes nor two classes: add an attributes.csv or "
                "put the images in a folder a class"
            )
        return replace(config, labels=len(images.classes), exclusive=True, ranges=())
    low, high = values.amin(0).tolist(), values.amax(0).tolist()
    for name, least, most in zip(images.attribute_names, low, high, strict=True):
        if not least < most:
            raise ConfigError(
                f"the attribute {name!r} of {images.name} is {least:g} for all training images: "
                "there is nothing to learn of it; remove its column"
            )
    ranges = tuple(zip(low, high, strict=True))
    return replace(config, labels=len(ranges), exclusive=False, ranges=ranges)


class Labels(nn.Module):
    """Batch -> (N, L) float32 in [0, 1]; an attribute beyond its range counts as the nearer end."""

    low: Tensor
    extent: Tensor

    def __init__(self, config: LabelledConfig) -> None:
        super().__init__()
        self.count, self.exclusive = config.labels, config.exclusive
        ranges = config.ranges or ((0.0, 1.0),) * config.labels
        for name, values in (
            ("low", [low for low, _ in ranges]),
            ("extent", [high - low for low, high in ranges]),
        ):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        if self.exclusive:
            assert batch.labels is not None, "checked by `fit_config_to_labels`"
            places = torch.arange(self.count, device=batch.labels.device)
            return (batch.labels[:, None] == places).float()
        assert batch.attributes is not None, "checked by `fit_config_to_labels`"
        return ((batch.attributes - self.low) / self.extent).clamp(0, 1)


def label_accuracy(scores: Tensor, given: Tensor, *, exclusive: bool) -> Tensor:
    """Return the share of labels (N, L) that scores (N, L) get right.

    The largest score decides a class. The sign of its score decides an attribute: it says on which
    side of the middle of its range the attribute lies.
    """
    if exclusive:
        return (scores.argmax(1) == given.argmax(1)).float().mean()
    return ((scores > 0) == (given > 0.5)).float().mean()


def label_names(images: ImageSplits) -> tuple[str, ...]:
    """Return the names of the labels, in the order of `fit_config_to_labels`."""
    return images.classes if images.train.attributes is None else images.attribute_names


def flip_label(given: Tensor, label: int, *, exclusive: bool) -> Tensor:
    """Return labels (N, L) with one changed: to that class, or that attribute the other way."""
    other = torch.zeros_like(given) if exclusive else given.clone()
    other[:, label] = 1 if exclusive else 1 - (given[:, label] > 0.5).float()
    return other


def short_label_names(names: tuple[str, ...]) -> list[tuple[int, str]]:
    """Return the first `ROWS` labels with their names, cut to fit beside a picture."""
    return [
        (i, name if len(name) <= LETTERS else f"{name[: LETTERS - 4]}… {i}")
        for i, name in enumerate(names[:ROWS])
    ]


class ExportedJudge(nn.Module):
    """The discriminator as it is exported: (N, C, H, W) in [0, 1] -> scores (N, P), labels (N, L).

    scores: P; exclusive: whether an image has one class, or several attributes
    """

    def __init__(self, network: nn.Module, scores: int, *, exclusive: bool) -> None:
        super().__init__()
        self.network, self.scores, self.exclusive = network, scores, exclusive

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        made = self.network(to_signed(images))
        told = made[:, self.scores :]
        return made[:, : self.scores], told.softmax(1) if self.exclusive else told.sigmoid()


class LabelledGAN(Adversarial):
    """A GAN whose discriminator also tells the labels of images, and whose generator is given some.

    Classes are compared by cross-entropy; how attributes are, `attribute_loss` says.
    """

    metrics = (*Adversarial.metrics, "labels_real", "labels_fake")
    labelled = True
    config: LabelledConfig

    def __init__(self, config: LabelledConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.labels = Labels(config)

    @classmethod
    def needs(cls, config: ModelConfig) -> Needs:
        return replace(super().needs(config), classes=2, each_class=True, or_attributes=True)

    @classmethod
    def fitted(cls, config: ModelConfig, images: ImageSplits) -> ModelConfig:
        assert isinstance(config, LabelledConfig)
        return fit_config_to_labels(config, images)

    @property
    def label_spec(self) -> TensorSpec:
        """What the labels of an exported program hold."""
        if self.config.exclusive:
            return replace(LABELS, holds="1 for the class of an image and 0 for all others")
        return replace(
            LABELS,
            holds="each attribute, from its lowest value in training to its highest",
        )

    @property
    def told_spec(self) -> TensorSpec:
        """What the labels of the exported discriminator hold."""
        spec = self.label_spec
        if not self.config.projection:
            return spec
        also = "not its probability, since the same scores tell real images from fakes"
        return replace(spec, holds=f"{spec.holds}; {also}")

    def judging_program(self) -> Program:
        """Return the discriminator; it tells labels as the generator is given them."""
        program = super().judging_program()
        return replace(
            program,
            module=ExportedJudge(
                self.discriminator, self.scores_per_image, exclusive=self.config.exclusive
            ),
            outputs=(self.score_spec, self.told_spec),
        )

    def usual_labels(self, count: int, *, seed: int) -> Tensor | None:
        """Return labels (count, L) in [0, 1] that training images have; None: none are kept."""
        return None

    def real_labels(self, count: int, images: ImageSplits, part: str) -> Tensor:
        """Return labels (count, L) of the images of ``part``, beside which samples are measured:
        with another balance of labels, samples as good as real ones would be far from them."""
        real: Images = getattr(images, part)
        nothing = real.pixels[:0].float()  # labels need no pixels
        labels: Tensor = self.labels(
            Batch(images=nothing, labels=real.labels, attributes=real.attributes)
        )
        rows = mixed_rows(images, part, count)
        return labels[rows[torch.arange(count, device=rows.device) % len(rows)]]

    @abstractmethod
    def made_with(self, labels: Tensor, images: ImageSplits, rows: Tensor) -> Tensor:
        """Return images that are to have labels (N, L) in [0, 1]: (N, C, H, W) in [0, 1].

        rows: training images (N,) that a translation begins with
        """

    @abstractmethod
    def attribute_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the error of scores (N, L) before the sigmoid from attributes (N, L)."""

    @abstractmethod
    def labels_in(self, given: Tensor) -> Tensor:
        """Return the labels (N, L) in the conditions that the generator was given."""

    def label_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the error of scores (N, L) from labels (N, L)."""
        if self.config.exclusive:
            return F.cross_entropy(scores, labels)
        return self.attribute_loss(scores, labels)

    def real_scores(self, batch: Batch, scores: Tensor, of_labels: Tensor) -> Tensor:
        return self._add_projection(scores, of_labels, self.labels(batch))

    def fake_scores(self, given: Tensor, scores: Tensor, of_labels: Tensor) -> Tensor:
        return self._add_projection(scores, of_labels, self.labels_in(given))

    def _add_projection(self, scores: Tensor, of_labels: Tensor, labels: Tensor) -> Tensor:
        """Return scores (N, P) that count by how much images show their labels (N, L).

        A class counts by its own score, an attribute by its score or the negative of it.
        """
        if not self.config.projection:
            return scores
        sides = labels if self.config.exclusive else 2 * labels - 1
        return scores + self.config.projection * (sides * of_labels).sum(1, keepdim=True)

    def generator_extra_losses(
        self, batch: Batch, given: Tensor, fakes: Tensor, scores: Tensor
    ) -> Metrics:
        return {"label_g": self.label_loss(scores, self.labels_in(given))}

    def label_metrics(
        self, batch: Batch, given: Tensor, fakes: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        """Return the shares of labels that the discriminator tells right."""
        exclusive = self.config.exclusive
        return {
            "labels_real": label_accuracy(real, self.labels(batch), exclusive=exclusive),
            "labels_fake": label_accuracy(fake, self.labels_in(given), exclusive=exclusive),
        }

    def changed_labels(self, labels: Tensor, images: ImageSplits) -> dict[str, Tensor]:
        """Return ``labels`` (N, L) with one changed, for one after the other, by its name."""
        exclusive = self.config.exclusive
        return {
            name: flip_label(labels, index, exclusive=exclusive)
            for index, name in short_label_names(label_names(images))
        }

    @property
    def change(self) -> str:
        """What `changed_labels` does to the images of a row, for captions."""
        return "as each class" if self.config.exclusive else "one attribute changed in each row"

    @abstractmethod
    def preview(self, images: ImageSplits, part: str, count: int) -> Picture: ...

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        yield self.preview(images, part, 10)
