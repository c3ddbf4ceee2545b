"""The fully connected denoising autoencoder of reference system A4.

Shape legend: N batch, C channels, H/W pixels, Z latent width. Figures in comments are for
64x64x1 and the default widths.

    encoder  4096 -> 256 -> 64 -> 12 -> 3, ReLU between
    decoder  the mirror, ReLU between, a tanh at the end
    loss     mean squared error of the tanh from clean pixels in [0, 1]; values of the tanh below
             0 mean black, so that images are clipped to [0, 1]

    make study NAME=dense_denoise
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.base import Metrics
from models.data.images import Batch, Shape
from models.errors import ConfigError, require
from models.networks.layers import initialise_for_relu
from models.optimizers import make_optimizer

# The last layer's first weights have a tenth of the usual deviation, so that images begin nearly
# black: that is a third of the first epoch's error.
NEARLY_BLACK = 0.1


@dataclass(frozen=True, kw_only=True)
class DenseAEConfig(AutoencoderConfig):
    """Defaults are reference system A4's.

    widths: outputs of the layers from the pixels to the code, whose width Z is the last; each >= 1
    """

    widths: tuple[int, ...] = (256, 64, 12, 3)
    noise: str = "salt_pepper"
    lr: float = 1e-3
    weight_decay: float = 1e-5
    batch_size: int = 4068

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))  # JSON gives a list back
        super().__post_init__()
        if not self.widths:
            raise ConfigError("widths=() has no layer; give at least the code's, such as (3,)")
        for width in self.widths:
            require("widths", width, 1, 65536)


class DenseAE(Autoencoder):
    """Pixels to a handful of numbers and back: 2,136,291 parameters at 64x64x1."""

    config_type = DenseAEConfig
    fuses = True
    config: DenseAEConfig
    decoder: nn.Sequential

    def __init__(self, config: DenseAEConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        sizes = (math.prod(shape), *config.widths)  # 4096, 256, 64, 12, 3
        self.encoder = nn.Sequential(nn.Flatten(), *_dense_layers(sizes))
        upwards = _dense_layers(sizes[::-1])
        self.decoder = nn.Sequential(
            *upwards,
            nn.Unflatten(1, shape),  # (N, C, H, W)
            nn.Tanh(),
            nn.Hardtanh(0.0, 1.0),  # clips; the loss is taken before, where there is a gradient
        )
        initialise_for_relu(self)
        pixels = upwards[-1]
        assert isinstance(pixels, nn.Linear)
        nn.init.normal_(pixels.weight, std=NEARLY_BLACK / math.sqrt(pixels.in_features))
        self.optimizers["all"] = make_optimizer(
            config.optimizer, self.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        unclipped = self.decoder[:-1](self.encode(self.seen(batch.images)))  # (N, C, H, W)
        mse = F.mse_loss(unclipped, batch.images)
        return mse, {"mse": mse}


def _dense_layers(sizes: Sequence[int]) -> list[nn.Module]:
    """Return linear layers through ``sizes``, with a ReLU between any two of them."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(sizes):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return layers[:-1]
