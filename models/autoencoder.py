"""What all autoencoders share: images -> codes -> images, trained on clean or noisy images.

Shape legend: N batch, C channels, H/W pixels, Z latent width.

    encoder  (N, C, H, W) -> (N, Z)
    decoder  (N, Z) -> (N, C, H, W)
    noise    corrupts what the encoder sees; the target is always the clean image
             (Vincent et al. 2008)

A family fills ``encoder`` and ``decoder``, whose outputs are codes and images as above, and
``optimizers["all"]``; where its loss is not the mean squared error, its own ``loss`` and
``evaluate`` too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.analysis.code_usage import code_table
from models.analysis.gaussian import draw_gaussian
from models.analysis.latent_models import LatentConfig, LatentModel
from models.analysis.mean_image import MEAN_IMAGE, mean_image_errors
from models.base import AskedSamples, Metrics, Note
from models.data.images import PARTS, Batch, ImageSplits
from models.data.mixed_rows import shown_images
from models.data.noise import NONE
from models.errors import require
from models.figures.grids import draw_rows
from models.programs import CODES, IMAGES, Program
from models.results import Baseline, Picture, Table
from models.seeds import same_draws

SHOWN = 10  # images in an export's picture
ENCODED = 500  # images at once


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(LatentConfig):
    """The optimiser of an autoencoder, beside the fields of `LatentConfig`.

    optimizer: its name (`models.optimizers.make_optimizer`)
    lr, weight_decay: learning rate and L2 of the optimiser
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("lr", self.lr, 0.0, 10.0)
        require("weight_decay", self.weight_decay, 0.0, 10.0)


class Autoencoder(LatentModel):
    """An encoder to codes and a decoder back; ``mse`` compares its images with the clean ones."""

    metrics: ClassVar[tuple[str, ...]] = ("mse",)
    usage = "reconstructed = model(images)  # (N, C, H, W) in [0, 1]; model.encode(images): codes"
    makes_from_images = True
    config: AutoencoderConfig
    encoder: nn.Module
    decoder: nn.Module

    def encode(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> codes (N, Z)."""
        codes: Tensor = self.encoder(images)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """(N, Z) -> images (N, C, H, W) in [0, 1]."""
        images: Tensor = self.decoder(codes)
        return images

    def make(self, asked: AskedSamples) -> Tensor:
        """Decode draws from the Gaussian that fits the codes of the images.

        An autoencoder knows no distribution of its codes; this is the simplest that has their mean
        and covariance.
        """
        assert asked.images is not None, "asked for by `makes_from_images`"
        codes = torch.cat([self.encode(some) for some in torch.split(asked.images, ENCODED)])
        draws = draw_gaussian(codes, asked.count, seed=asked.seed).to(self.device)
        return torch.cat([self.decode(some) for some in torch.split(draws, ENCODED)])

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W), both in [0, 1]."""
        return self.decode(self.encode(images))

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return what training minimises on ``batch``, and what it measures on the way."""
        mse = F.mse_loss(self(self.seen(batch.images)), batch.images)
        return mse, {"mse": mse}

    def train_step(self, batch: Batch) -> Metrics:
        return self.descend(self.loss, batch)

    def evaluate(self, batch: Batch) -> Metrics:
        return {"mse": F.mse_loss(self(self.seen(batch.images)), batch.images)}

    def baseline(self, images: ImageSplits, part: str) -> Baseline:
        return Baseline(what=MEAN_IMAGE, values=mean_image_errors(images, part))

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture:
        clean = shown_images(images, part, count).images
        with same_draws(self.device):
            noisy = self.seen(clean)
        rows = {"original": clean, "reconstruction": self(noisy).clamp(0, 1)}
        if self.config.noise != NONE:
            rows = {"noisy": noisy, "clean": clean, "made of noisy": rows["reconstruction"]}

        def draw(path: Path, title: str) -> None:
            draw_rows(path, rows, title=f"{title}: {PARTS[part]} images")

        return Picture(name="reconstructions", caption=" | ".join(rows), draw=draw)

    def programs(self) -> dict[str, Program]:
        images = torch.rand(2, *self.shape, generator=torch.Generator().manual_seed(0))
        images = images.to(self.device)
        with torch.no_grad():
            codes = self.encode(images)  # (2, Z)
        return {
            "encoder": Program(
                module=self.encoder, example=images, inputs=(IMAGES,), outputs=(CODES,)
            ),
            "decoder": Program(
                module=self.decoder, example=codes, inputs=(CODES,), outputs=(IMAGES,)
            ),
        }

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        yield self.preview(images, part, SHOWN)
        if self.config.noise != NONE:
            from models.analysis.denoising import noise_picture

            yield noise_picture(self, images, part)
        from models.analysis.latent_space import latent_pictures  # scikit-learn: only for pictures

        yield from latent_pictures(self, images, part)

    def tables(self, images: ImageSplits, progress: Note) -> Iterator[Table]:
        yield code_table(self, images.test)
        if self.config.noise != NONE:
            from models.analysis.denoising import noise_tables

            yield from noise_tables(self, images, progress)
