"""Variational autoencoders (Kingma and Welling 2014): the three of reference system A6.

    encoder   (N, C, H, W) -> q(z | x) = N(mean, variance), (N, Z) each
    decoder   (N, Z) -> p(x | z), (N, C, H, W) in [0, 1]
    loss      reconstruction + beta * KL(q(z | x) || N(0, I)), both in nats per image

The reconstruction term is a sum over all C * H * W values of an image:

    bce       cross-entropy: -log p(x | z) of a Bernoulli; beta 1 is the evidence lower bound. Of
              grey values it bounds no density (Loaiza-Ganem and Cunningham 2019): such numbers
              compare among themselves, and not with published ones
    mse       squared error: -log p(x | z) of a Gaussian of variance 1/2, up to a constant

so that beta weighs the same KL, in nats per image, against either. A publication that takes the
mean squared error over values and 1e-3 KL means beta = 1e-3 * C * H * W: 12.288 at 64x64x3. The
optimiser follows the loss divided by C * H * W, so that learning rates and L2 mean the same for
all sizes.

Whatever the loss was, ``nelbo`` = ``bce`` + ``kl`` is measured, the negative evidence lower bound
in nats per image at beta 1. A small beta does not make it better.

    make study NAME=vae
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.analysis.elbo import active_dimensions
from models.analysis.latent_models import VariationalModel
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.base import AskedSamples, Metrics, ModelConfig, Note, added_field, evaluating
from models.data.images import Batch, ImageSplits, Shape
from models.errors import require, require_one_of
from models.needs import Sides
from models.networks.vae import LEAST, NETWORKS, WIDE_DECODERS
from models.networks.vae_parts import BernoulliDecoder, GaussianEncoder
from models.optimizers import make_optimizer
from models.programs import IMAGES, LOG_VARIANCE, MEAN, PRIOR_CODES, Program
from models.results import Baseline, Picture, Table
from models.seeds import derive_seed, seeded

RECONSTRUCTIONS = ("bce", "mse")
SAMPLED = 256  # images decoded at once


@dataclass(frozen=True, kw_only=True)
class VAEConfig(AutoencoderConfig):
    """Defaults are the reference configuration ``latent-2``.

    architecture: a name in `models.networks.vae`: latent-2, faces-64, wide-64,
        strided or residual
    latent: Z, >= 1; width: factor of all channels and hidden layers, 1.0 is the reference
    beta: weight of the KL, >= 0; the module's first lines say in which units
    warm_up: epochs in which beta rises to that value in equal steps; 0: none
    reconstruction: bce or mse
    wide_decoder: what follows on the linear layers of wide-64's decoder, elu or relu; the other
        architectures know no choice
    redraw: training images are drawn anew in black and white for each batch, each value white with
        the probability that it says (Burda et al. 2016); black and white ones stay what they are
    importance_samples: of each image for log p(x) in the card; 0: by the device
    """

    architecture: str = "latent-2"
    latent: int = 2
    width: float = 1.0
    beta: float = 1.0
    warm_up: int = 0
    reconstruction: str = "bce"
    wide_decoder: str = "elu"
    batch_size: int = 128
    redraw: bool = added_field(False)
    importance_samples: int = added_field(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("architecture", self.architecture, NETWORKS)
        require("latent", self.latent, 1, 65536)
        require("width", self.width, 0.01, 16)
        require("beta", self.beta, 0.0, 1e6)
        require("warm_up", self.warm_up, 0, 100_000)
        require_one_of("reconstruction", self.reconstruction, RECONSTRUCTIONS)
        require_one_of("wide_decoder", self.wide_decoder, WIDE_DECODERS)
        require("importance_samples", self.importance_samples, 0, 1_000_000)

    def settled_in(self, epochs: int) -> int:
        return max(super().settled_in(epochs), min(self.warm_up + 1, epochs))

    def to_plain(self) -> dict[str, Any]:
        values = super().to_plain()
        if self.architecture != "wide-64":
            del values["wide_decoder"]  # which decides nothing
        return values

    @classmethod
    def from_export(cls, values: Mapping[str, Any]) -> Self:
        older = {"wide_decoder": "relu"} if values.get("architecture") == "wide-64" else {}
        return cls(**{**older, **values})

    def beta_in(self, epoch: int) -> float:
        """Return beta in epoch 1, 2, ...; it is never 0, since codes would then grow without
        bounds."""
        return self.beta * min(1.0, epoch / (self.warm_up + 1))


class VAE(Autoencoder, VariationalModel):
    """Encoder to a Gaussian over Z numbers, decoder from a draw of it."""

    metrics = ("nelbo", "bce", "mse", "kl", "active")
    config_type = VAEConfig
    judged = True
    makes_from_images = False  # its prior is N(0, I)
    usage = (
        "samples = model.sample(16, seed=0)  # new images (16, C, H, W) in [0, 1]\n"
        "mean, log_variance = model.encoder.posterior(images)  # (N, Z) each"
    )
    config: VAEConfig
    encoder: GaussianEncoder
    decoder: BernoulliDecoder
    beta: Tensor  # in this epoch; a tensor, so that a recorded step sees it change

    @classmethod
    def sides(cls, config: ModelConfig) -> Sides:
        assert isinstance(config, VAEConfig)
        return Sides(least=LEAST.get(config.architecture, 1))

    def __init__(self, config: VAEConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        networks = NETWORKS[config.architecture]
        chosen = {"decoder": config.wide_decoder} if config.architecture == "wide-64" else {}
        self.encoder, self.decoder = networks(
            shape, latent=config.latent, width=config.width, **chosen
        )
        self.importance_samples = config.importance_samples
        self.register_buffer("beta", torch.tensor(float(config.beta)), persistent=False)
        self.optimizers["all"] = make_optimizer(
            config.optimizer, self.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )

    def begin_epoch(self, number: int, epochs: int) -> None:
        super().begin_epoch(number, epochs)
        self.beta.fill_(self.config.beta_in(number))

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        images = batch.images
        if self.config.redraw:
            images = (torch.rand_like(images) < images).to(images.dtype)
        mean, log_variance = self.posterior(images)
        measured = self._measure_draw(mean, log_variance, images)
        values = prod(self.shape)
        bce = self.config.reconstruction == "bce"
        error = measured["bce"] / values if bce else measured["mse"]
        return error + self.beta * measured["kl"] / values, measured

    def evaluate(self, batch: Batch) -> Metrics:
        """Return the metrics of one draw of z: ``mse`` is a mean over values, the others are nats
        per image. ``active`` counts dimensions on this batch alone, `tables` on the whole set."""
        mean, log_variance = self.posterior(batch.images)
        measured = self._measure_draw(mean, log_variance, batch.images)
        return measured | {"active": active_dimensions(mean).sum().float()}

    def _measure_draw(self, mean: Tensor, log_variance: Tensor, images: Tensor) -> Metrics:
        """Return the metrics of one draw of z from N(mean, exp(log_variance)), (N, Z) each."""
        codes = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
        logits = self.decoder.logits(codes)
        bce = F.binary_cross_entropy_with_logits(logits, images, reduction="sum") / len(images)
        kl = gaussian_kl(mean, log_variance).sum(1).mean()
        mse = F.mse_loss(torch.sigmoid(logits), images)
        return {"nelbo": bce + kl, "bce": bce, "mse": mse, "kl": kl}

    def baseline(self, images: ImageSplits, part: str) -> Baseline:
        """Return the errors of a decoder that ignores its codes, whose KL is then 0."""
        found = super().baseline(images, part)
        bce = found.values["bce"] * prod(self.shape)  # nats per image
        values = {"mse": found.values["mse"], "bce": bce, "nelbo": bce}
        return replace(found, values=values)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of q(z | x), (N, Z) each, for images (N, C, H, W)."""
        mean, log_variance = self.encoder.posterior(self.seen(images))
        return mean, log_variance

    def log_likelihood(self, codes: Tensor, images: Tensor) -> Tensor:
        """Return log p(x | z) of a Bernoulli in nats: (N, Z), (N, C, H, W) -> (N,) float64."""
        logits = self.decoder.logits(codes)
        losses = F.binary_cross_entropy_with_logits(logits, images, reduction="none")
        return -losses.flatten(1).sum(1, dtype=torch.float64)

    def sample(
        self, count: int, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Make new images without gradients, of codes from the prior N(0, I).

        Returns (count, C, H, W) in [0, 1].
        seed: of the codes, which are the same for all devices; None: other ones in each call
        generator: instead of a seed, one of the CPU
        """
        codes = torch.randn(count, self.config.latent, generator=seeded(seed, generator))
        with evaluating(self):
            parts = [self.decode(part.to(self.device)) for part in torch.split(codes, SAMPLED)]
        return torch.cat(parts)

    def make(self, asked: AskedSamples) -> Tensor:
        return self.sample(asked.count, seed=asked.seed)

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        """Draw samples in parts: values that were measured before stay what they are."""
        generator = torch.Generator().manual_seed(derive_seed(0, "judged"))
        parts = [min(SAMPLED, count - first) for first in range(0, count, SAMPLED)]
        return torch.cat([self.sample(part, generator=generator) for part in parts])

    def programs(self) -> dict[str, Program]:
        """Return the encoder, which gives mean and log-variance, and the decoder, which makes new
        images of codes from the prior."""
        programs = super().programs()
        encoder = replace(
            programs["encoder"],
            module=_ExportedEncoder(self.encoder),
            outputs=(MEAN, LOG_VARIANCE),
        )
        decoder = replace(programs["decoder"], inputs=(PRIOR_CODES,), outputs=(IMAGES,))
        return {"encoder": encoder, "decoder": decoder}

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        from models.analysis.elbo import prior_pictures

        yield from super().pictures(images, part)
        yield from prior_pictures(self)

    def tables(self, images: ImageSplits, progress: Note) -> Iterator[Table]:
        from models.analysis.elbo import bound_table, latent_table

        yield latent_table(self, images.test)
        yield bound_table(self, images.test, progress)


class _ExportedEncoder(nn.Module):
    """The encoder as it is exported: images -> mean and log-variance (N, Z)."""

    def __init__(self, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.posterior(images)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, exp(log_variance)) || N(0, 1)) of each number in nats; shapes stay."""
    return (mean.square() + log_variance.exp() - 1 - log_variance) / 2
