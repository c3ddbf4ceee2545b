"""What the analysis of codes asks of a model; the families that fulfil it stand above.

    LatentModel         images -> codes -> images, perhaps trained on noisy images
    VariationalModel    the same with a distribution over codes

Shape legend: N batch, C channels, H/W pixels, Z latent width.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from models.base import Model, ModelConfig
from models.data.images import Images
from models.data.noise import check_noise, corrupt


@dataclass(frozen=True, kw_only=True)
class LatentConfig(ModelConfig):
    """The noise of a denoiser.

    noise: corrupts the images that the encoder sees: ``none`` or a kind of `models.data.noise`
    strength: how much of it, in that kind's unit
    """

    noise: str = "none"
    strength: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise, self.strength)


class LatentModel(Model):
    """A model with codes.

    noise_epochs: epochs of each training for the tables of a denoiser
    (`models.analysis.denoising`); 0 means that nothing is trained for them
    """

    noise_epochs: ClassVar[int] = 0
    config: LatentConfig

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> codes (N, Z)."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(N, Z) -> images (N, C, H, W) in [0, 1]."""

    @property
    def latent(self) -> int:
        """Z, the width of a code."""
        return int(self.encode(torch.zeros(1, *self.shape, device=self.device)).shape[1])

    def seen(self, images: Tensor) -> Tensor:
        """Return ``images`` (N, C, H, W) as the encoder sees them, with this model's noise."""
        return corrupt(images, self.config.noise, self.config.strength)

    def plane(self, codes: Tensor) -> Tensor:
        """Return the corners (2, Z) of decoded grids, which hold the central 95 % of ``codes``
        (N, Z) in each dimension."""
        return codes.quantile(codes.new_tensor([0.025, 0.975]), dim=0)


@torch.no_grad()
def codes_of(model: LatentModel, images: Images) -> Tensor:
    """Return the codes of all ``images`` without noise: (N, Z) float64 on the CPU."""
    return torch.cat([model.encode(batch.images) for batch in images.batches()]).double().cpu()


class VariationalModel(LatentModel):
    """A model whose encoder gives a Gaussian over codes and whose prior is N(0, I).

    importance_samples: of an image, for log p(x); 0: as many as the device manages in minutes
    """

    importance_samples: int = 0

    @abstractmethod
    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance (N, Z) of the codes of images (N, C, H, W) with this
        model's noise."""

    @abstractmethod
    def log_likelihood(self, codes: Tensor, images: Tensor) -> Tensor:
        """Return log p(x | z) in nats: (N, Z), (N, C, H, W) -> (N,) float64."""

    @abstractmethod
    def sample(
        self, count: int, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Make new images of codes from the prior: (count, C, H, W) in [0, 1]."""
