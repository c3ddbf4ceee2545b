"""StarGAN (Choi et al. 2018): one generator that gives images other labels. Reference system B3.

    images and target labels  ->  generator  ->  images  ->  discriminator  ->  real or fake, labels

Beside the adversarial loss:

    label_d          error of the labels that the discriminator tells of real images
    label_g          error of those that it tells of translated images, from the targets
    reconstruction   mean absolute difference, in [-1, 1], of images translated there and back

Errors of labels are cross-entropies: of one class among L, or the mean over L attributes. The
published code sums these, so that its weight of 1 is a ``label_weight`` of L here. The target is
the labels of another image in the batch. The adversarial loss is any of
`models.training.gan_losses`; published is ``wasserstein`` with a gradient penalty of 10, and five
updates of D for one of G.

    python -c "from models.stargan import *; print(StarGAN(StarGANConfig(labels=8), (3, 64, 64)))"

Shape legend: N batch, C channels, H/W pixels, L labels, P patches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import AskedSamples, Metrics, ModelConfig
from models.conditional_gan import LabelledConfig, LabelledGAN, flip_label
from models.data.images import PARTS, Batch, ImageSplits, Shape
from models.data.mixed_rows import mixed_rows, shown_images
from models.errors import require
from models.figures.grids import draw_rows
from models.needs import Sides
from models.networks.pixel_range import to_signed, to_unit
from models.networks.stargan import SMALLEST, PatchDiscriminator, build_translator
from models.programs import IMAGES, Program
from models.results import Picture


@dataclass(frozen=True, kw_only=True)
class StarGANConfig(LabelledConfig):
    """Defaults are those of reference system B3: one update of G after four of D, equal rates.

    blocks: residual blocks, >= 0; width: factor of all channels, 1.0 is the reference
    reconstruction_weight: weight of the reconstruction beside the adversarial loss
    """

    labels: int = 8
    blocks: int = 6
    width: float = 1.0
    reconstruction_weight: float = 10.0
    lr_g: float = 2e-4
    d_steps: int = 4
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        require("blocks", self.blocks, 0, 100)
        require("width", self.width, 0.001, 16)
        require("reconstruction_weight", self.reconstruction_weight, 0.0, 1e6)


class StarGAN(LabelledGAN):
    """A GAN whose generator gives images other labels (Choi et al. 2018).

    Generator and discriminator: 8,439,936 and 2,966,272 parameters at 8 labels, 64x64x3.
    """

    metrics = (*LabelledGAN.metrics, "reconstruction")
    config_type = StarGANConfig
    makes_from_images = True
    reuses_fakes = True  # on the way back
    config: StarGANConfig
    usage = (
        "labels = torch.eye(model.config.labels)[:1]  # the first label; (N, L) in [0, 1]\n"
        "samples = model.translate(images, labels)  # (N, C, H, W) in [0, 1]"
    )

    @classmethod
    def sides(cls, config: ModelConfig) -> Sides:
        return Sides(least=SMALLEST, most=128)

    def __init__(self, config: StarGANConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        discriminator = PatchDiscriminator(
            shape, labels=config.labels, normalization=config.normalization, width=config.width
        )
        self.scores_per_image = discriminator.count
        self.set_networks(
            build_translator(shape, labels=config.labels, blocks=config.blocks, width=config.width),
            discriminator,
            {
                "label_d": config.label_weight,
                "label_g": config.label_weight,
                "reconstruction": config.reconstruction_weight,
            },
        )

    def conditions(self, batch: Batch) -> Tensor:
        """Return each image with the labels of another one of the batch: (N, C + L, H, W).

        The other one stands a random number of places further on.
        """
        labels = self.labels(batch)
        count = len(labels)
        places = torch.arange(count, device=labels.device)
        way = torch.randint(1, max(count, 2), (1,), device=labels.device)
        return with_planes(to_signed(batch.images), labels[(places + way) % count])

    def discriminator_label_losses(
        self, batch: Batch, given: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        return {"label_d": self.label_loss(real, self.labels(batch))}

    def generator_extra_losses(
        self, batch: Batch, given: Tensor, fakes: Tensor, scores: Tensor
    ) -> Metrics:
        back = self.generator(with_planes(fakes, self.labels(batch)))
        losses = super().generator_extra_losses(batch, given, fakes, scores)
        return losses | {"reconstruction": F.l1_loss(back, to_signed(batch.images))}

    def label_metrics(
        self, batch: Batch, given: Tensor, fakes: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        """Return the shares of labels that the discriminator tells right, and the error of the
        way back."""
        back = self.generate_signed(with_planes(fakes, self.labels(batch)))
        measured = super().label_metrics(batch, given, fakes, real, fake)
        return measured | {"reconstruction": F.l1_loss(back, to_signed(batch.images))}

    def attribute_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, labels)

    def labels_in(self, given: Tensor) -> Tensor:
        return given[:, self.shape[0] :, 0, 0]

    def translate(self, images: Tensor, labels: Tensor) -> Tensor:
        """Give images (N, C, H, W) in [0, 1] other labels (N, L) in [0, 1]."""
        images, labels = images.to(self.device), labels.to(self.device)
        return self.generate(with_planes(to_signed(images), labels))

    def make(self, asked: AskedSamples) -> Tensor:
        """Translate the first N images to the labels."""
        images, labels, count = asked.images, asked.labels, asked.count
        assert images is not None, "asked for by `makes_from_images`"
        assert labels is not None, "asked for by `labelled`"
        size = self.config.batch_size
        pairs = zip(
            torch.split(images[:count], size), torch.split(labels[:count], size), strict=True
        )
        return torch.cat([self.translate(some, wanted) for some, wanted in pairs])

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        """Translate training images to the labels of those of ``part``."""
        rows = mixed_rows(images, "train", count)
        rows = rows[torch.arange(count, device=rows.device) % len(rows)]
        return self.made_with(self.real_labels(count, images, part), images, rows)

    def made_with(self, labels: Tensor, images: ImageSplits, rows: Tensor) -> Tensor:
        size = self.config.batch_size  # a few at once: labels are planes as large as an image
        pairs = zip(torch.split(rows, size), torch.split(labels, size), strict=True)
        return torch.cat(
            [self.translate(images.train.batch(some).images, wanted) for some, wanted in pairs]
        )

    def example(self) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, *self.shape, generator=generator)
        return images, torch.eye(self.config.labels)[[0, -1]]

    def generator_program(self) -> Program:
        """Return the generator of images in [0, 1] and labels as two inputs."""
        return replace(
            super().generator_program(),
            module=_ExportedTranslator(self.sampling_generator),
            inputs=(IMAGES, self.label_spec),
        )

    def fixed_samples(self, images: ImageSplits, part: str, count: int) -> Tensor:
        """Translate a few images: image i has its label number i changed."""
        batch = shown_images(images, part, count)
        own = self.labels(batch)  # (N, L)
        places = torch.arange(len(own)) % self.config.labels
        exclusive = self.config.exclusive
        wanted = [
            flip_label(own[i : i + 1], label, exclusive=exclusive)
            for i, label in enumerate(places.tolist())
        ]
        return self.translate(batch.images, torch.cat(wanted))

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture:
        """Show each image translated to every label, one row for a label."""
        batch = shown_images(images, part, count)
        rows = {"(original)": batch.images}
        for name, labels in self.changed_labels(self.labels(batch), images).items():
            rows[name] = self.translate(batch.images, labels)
        what = self.change

        def draw(path: Path, title: str) -> None:
            draw_rows(path, rows, title=f"{title}: {PARTS[part]} images translated, {what}")

        return Picture(name="translations", caption=f"images translated, {what}", draw=draw)


def with_planes(images: Tensor, labels: Tensor) -> Tensor:
    """(N, C, H, W), (N, L) -> (N, C + L, H, W): each label becomes a constant plane."""
    planes = labels[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat([images, planes], dim=1)


class _ExportedTranslator(nn.Module):
    """The generator as it is exported: images and labels (N, L), all in [0, 1], -> images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return to_unit(self.network(with_planes(to_signed(images), labels)))
