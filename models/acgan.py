"""Auxiliary-classifier GAN (Odena et al. 2017): reference system B2, images with attributes.

    codes and labels  ->  generator  ->  images  ->  discriminator  ->  real or fake, and labels

    generator      Z + L -> 256 -> 256 (linear, batch norm, ReLU) -> transposed convolutions
    discriminator  strided convolutions -> 512 -> 256 -> 1 + L scores

The discriminator also tells the labels of real images and of fakes, and both networks are trained
to get them right: attributes by the squared error of sigmoids, since more than one may be true,
classes by cross-entropy. Fakes are given the labels of the real images in their batch.

A discriminator that learns labels from fakes may agree with the generator on what shows a label,
though no person sees it. With `label_fakes=False` it learns them from real images alone.

    python -c "from models.acgan import *; print(ACGAN(ACGANConfig(labels=13), (3, 64, 64)))"

Shape legend: N batch, C channels, H/W pixels, Z latent width, L labels.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import AskedSamples, Metrics, ModelConfig, added_field
from models.conditional_gan import LabelledConfig, LabelledGAN
from models.data.images import Batch, ImageSplits, Shape
from models.data.mixed_rows import shown_images
from models.errors import require
from models.figures.grids import draw_rows
from models.needs import Sides
from models.networks.dcgan import (
    SLOPE,
    as_discriminator,
    downsampling_layers,
    initialise_weights,
    scale_channels,
    stage_sizes,
    upsampling_layers,
)
from models.networks.pixel_range import to_unit
from models.programs import NOISE, Program
from models.results import Picture
from models.seeds import derive_seed, seeded

HIDDEN = 256
UP, DOWN, STRIDES = (512, 256, 128, 64), (64, 128, 256, 512), (2, 2, 2, 2)
REMEMBERED = 256  # images whose labels are kept, to be given to samples


@dataclass(frozen=True, kw_only=True)
class ACGANConfig(LabelledConfig):
    """Defaults are those of reference system B2.

    latent: Z, >= 1; width: factor of all channels and hidden layers, 1.0 is the reference
    label_fakes: whether the discriminator learns labels from fakes too, as was published
    """

    latent: int = 128
    width: float = 1.0
    lr_g: float = 2e-4
    extra_g_steps: int = 1
    label_fakes: bool = added_field(True, unsealed=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("latent", self.latent, 1, 65536)
        require("width", self.width, 0.001, 16)


class ACGAN(LabelledGAN):
    """A GAN whose images have labels that one chooses (Odena et al. 2017).

    Generator and discriminator: 4,957,824 and 7,088,142 parameters at Z 128, 13 labels, 64x64x3.
    """

    config_type = ACGANConfig
    config: ACGANConfig
    usage = (
        "labels = torch.eye(model.config.labels)[:1].repeat(16, 1)  # the first label; (16, L)\n"
        "samples = model.sample(16, labels=labels, seed=0)  # (16, C, H, W) in [0, 1]"
    )
    remembered: Tensor  # (REMEMBERED, L): labels of real images, also in an export

    @classmethod
    def sides(cls, config: ModelConfig) -> Sides:
        return Sides(least=prod(STRIDES))

    def __init__(self, config: ACGANConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        rows = torch.arange(REMEMBERED)[:, None] % config.labels == torch.arange(config.labels)
        self.register_buffer("remembered", rows.float())
        weights = {"label_d": config.label_weight, "label_g": config.label_weight}
        self.set_networks(
            _build_generator(config, shape), _build_discriminator(config, shape), weights
        )

    def conditions(self, batch: Batch) -> Tensor:
        """Return codes and labels of the batch's images: (N, Z + L)."""
        labels = self.labels(batch)
        codes = torch.randn(len(labels), self.config.latent, device=labels.device)
        return torch.cat([codes, labels], dim=1)

    def take_step(self, batch: Batch, choice: Hashable) -> Metrics:
        rows = self.labels(batch)[:REMEMBERED]
        self.remembered.copy_(torch.cat([rows, self.remembered])[:REMEMBERED])
        return super().take_step(batch, choice)

    def discriminator_label_losses(
        self, batch: Batch, given: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        error = self.label_loss(real, self.labels(batch))
        if self.config.label_fakes:
            error = error + self.label_loss(fake, self.labels_in(given))
        return {"label_d": error}

    def attribute_loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(torch.sigmoid(scores), labels)

    def labels_in(self, given: Tensor) -> Tensor:
        return given[:, self.config.latent :]

    def sample(
        self,
        count: int,
        *,
        labels: Tensor | None = None,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Make new images without gradients: (count, C, H, W) in [0, 1].

        labels: (count, L) in [0, 1]; None draws them from those of the last training images
        seed: of all that is drawn, the same for all devices; None: other draws in each call
        generator: instead of a seed, one of the CPU
        """
        generator = seeded(seed, generator)
        codes = torch.randn(count, self.config.latent, generator=generator)
        if labels is None:
            rows = torch.randint(REMEMBERED, (count,), generator=generator)
            labels = self.remembered.cpu()[rows]
        return self.generate(torch.cat([codes, labels.cpu()], dim=1))

    def make(self, asked: AskedSamples) -> Tensor:
        return self.sample(asked.count, seed=asked.seed, labels=asked.labels)

    def usual_labels(self, count: int, *, seed: int) -> Tensor:
        """Return labels (count, L) of training images, which are kept with the weights."""
        rows = torch.randint(REMEMBERED, (count,), generator=torch.Generator().manual_seed(seed))
        return self.remembered.cpu()[rows]

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        """Make images with the labels of those of ``part``.

        Labels of `REMEMBERED` images alone had another balance: real MNIST images with such labels
        had a Fréchet distance of 0.9 to 3.8 from others, and 0.3 to 0.6 with the labels of all.
        """
        generator = torch.Generator().manual_seed(derive_seed(0, "judged"))
        return self.sample(count, labels=self.real_labels(count, images, part), generator=generator)

    def made_with(self, labels: Tensor, images: ImageSplits, rows: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(0, "judged"))
        return self.sample(len(labels), labels=labels, generator=generator)

    def example(self) -> tuple[Tensor, ...]:
        codes = torch.randn(2, self.config.latent, generator=torch.Generator().manual_seed(0))
        return codes, self.remembered[:2].cpu()

    def generator_program(self) -> Program:
        """Return the generator of codes and labels as two inputs."""
        return replace(
            super().generator_program(),
            module=_ExportedGenerator(self.sampling_generator),
            inputs=(NOISE, self.label_spec),
        )

    def fixed_samples(self, images: ImageSplits, part: str, count: int) -> Tensor:
        """Make images of fixed codes with the labels of a few images.

        Labels repeat where there are fewer images.
        """
        codes, labels = self._fixed_codes(count), self._shown_labels(images, part, count)
        rows = torch.arange(count) % len(labels)
        return self.generate(torch.cat([codes, labels[rows]], dim=1))

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture:
        """Show images of fixed codes with one label after the other changed."""
        labels = self._shown_labels(images, part, count)
        codes = self._fixed_codes(count)[: len(labels)]
        wanted = self.changed_labels(labels, images)
        if not self.config.exclusive:
            wanted = {"(unchanged)": labels} | wanted
        rows = {name: self.generate(torch.cat([codes, row], 1)) for name, row in wanted.items()}
        what = self.change

        def draw(path: Path, title: str) -> None:
            draw_rows(path, rows, title=f"{title}: the same noise, {what}")

        return Picture(name="labels", caption=f"the same noise in each column, {what}", draw=draw)

    def _fixed_codes(self, count: int) -> Tensor:
        """Return codes (count, Z) on the CPU that are the same in every epoch."""
        generator = torch.Generator().manual_seed(derive_seed(0, "samples"))
        return torch.randn(count, self.config.latent, generator=generator)

    def _shown_labels(self, images: ImageSplits, part: str, count: int) -> Tensor:
        """Return the labels (n, L) of the images that stand for ``part``, at most ``count``, on the
        CPU."""
        labels: Tensor = self.labels(shown_images(images, part, count))
        return labels.cpu()


class _ExportedGenerator(nn.Module):
    """The generator as it is exported: (N, Z), (N, L) in [0, 1] -> (N, C, H, W) in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, labels: Tensor) -> Tensor:
        return to_unit(self.network(torch.cat([codes, labels], dim=1)))


def _build_generator(config: ACGANConfig, shape: Shape) -> nn.Sequential:
    """Build (N, Z + L) -> (N, C, H, W) in [-1, 1]."""
    hidden, *channels = scale_channels(config.width, HIDDEN, *UP)
    return initialise_weights(
        nn.Sequential(
            nn.Linear(config.latent + config.labels, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Unflatten(1, (hidden, 1, 1)),
            *upsampling_layers(hidden, channels, shape, STRIDES),
        )
    )


def _build_discriminator(config: ACGANConfig, shape: Shape) -> nn.Sequential:
    """Build (N, C, H, W) in [-1, 1] -> (N, 1 + L)."""
    hidden, *channels = scale_channels(config.width, HIDDEN, *DOWN)
    batch = config.normalization == "batch"
    last = channels[-1]
    left = stage_sizes(shape, STRIDES)[-1]
    network = nn.Sequential(
        *downsampling_layers(channels, shape, STRIDES, config.normalization),
        nn.Conv2d(last, last, left, bias=not batch),
        *([nn.BatchNorm2d(last)] if batch else []),
        nn.LeakyReLU(SLOPE),
        nn.Flatten(),
        nn.Linear(last, hidden),
        *([nn.BatchNorm1d(hidden)] if batch else []),
        nn.LeakyReLU(SLOPE),
        nn.Linear(hidden, 1 + config.labels),
    )
    return as_discriminator(network, config.normalization)
