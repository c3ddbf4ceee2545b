"""The convolutional autoencoder of reference system A1 (search/studies/README.md).

Shape legend: N batch, C channels, H/W pixels, n first-layer channels, Z latent
width. Figures in comments are for 28x28x1.

    encoder  C -> n -> 2n -> 4n (3x3, stride 2), flatten, 36n -> 64 -> Z, ReLU after each
    decoder  the mirror, its last layer a sigmoid
    loss     mean squared error, pixels in [0, 1]

    make study NAME=cae
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from models.autoencoder import Autoencoder, AutoencoderConfig
from models.base import ModelConfig
from models.data.images import Shape
from models.errors import ConfigError, require
from models.needs import Sides
from models.networks.layers import (
    down_convolution,
    halved_size,
    initialise_for_relu,
    up_convolution,
)
from models.optimizers import make_optimizer

HIDDEN = 64  # width between the convolutions and the latent code
SMALLEST = 9  # pixels a side, of which one is left
PADDINGS = (1, 1, 0)  # one for each strided convolution: 28 -> 14 -> 7 -> 3


@dataclass(frozen=True, kw_only=True)
class CAEConfig(AutoencoderConfig):
    """Defaults are the reported best configuration (reference system A1).

    channels: n, channels after the first convolution, >= 1
    latent: Z, >= 1
    """

    channels: int = 9
    latent: int = 27
    lr: float = 0.004295
    weight_decay: float = 3.96e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        require("channels", self.channels, 1, 1024)
        require("latent", self.latent, 1, 65536)


class CAE(Autoencoder):
    """Convolutions to a code of Z numbers, and back: 60,240 parameters at n 9, Z 27, 28x28x1."""

    config_type = CAEConfig
    fuses = True
    noise_epochs = 20  # as a trial of the study `denoise`, which has chosen the configuration
    config: CAEConfig

    @classmethod
    def sides(cls, config: ModelConfig) -> Sides:
        return Sides(least=SMALLEST)

    def __init__(self, config: CAEConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        n, z = config.channels, config.latent
        channels, *pixels = shape
        sizes = [(pixels[0], pixels[1])]  # 28, 14, 7, 3
        for padding in PADDINGS:
            sizes.append((halved_size(sizes[-1][0], padding), halved_size(sizes[-1][1], padding)))
        height, width = sizes[-1]
        if min(height, width) < 1:
            raise ConfigError(
                f"images of {pixels[0]}x{pixels[1]} are too small for a CAE: at least "
                f"{SMALLEST}x{SMALLEST}"
            )
        flat = 4 * n * height * width  # 36n
        self.encoder = nn.Sequential(
            down_convolution(channels, n, PADDINGS[0]),  # (N, n, 14, 14)
            nn.ReLU(),
            down_convolution(n, 2 * n, PADDINGS[1]),  # (N, 2n, 7, 7)
            nn.ReLU(),
            down_convolution(2 * n, 4 * n, PADDINGS[2]),  # (N, 4n, 3, 3)
            nn.ReLU(),
            nn.Flatten(),  # (N, 36n)
            nn.Linear(flat, HIDDEN),
            nn.ReLU(),
            code := nn.Linear(HIDDEN, z),  # (N, Z)
            nn.ReLU(),
        )
        self.decoder = nn.Sequential(
            nn.Linear(z, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, flat),  # (N, 36n)
            nn.ReLU(),
            nn.Unflatten(1, (4 * n, height, width)),  # (N, 4n, 3, 3)
            up_convolution(4 * n, 2 * n, PADDINGS[2], sizes[2]),  # (N, 2n, 7, 7)
            nn.ReLU(),
            up_convolution(2 * n, n, PADDINGS[1], sizes[1]),  # (N, n, 14, 14)
            nn.ReLU(),
            up_convolution(n, channels, PADDINGS[0], sizes[0]),  # (N, C, 28, 28)
            nn.Sigmoid(),
        )
        initialise_for_relu(self)
        nn.init.ones_(code.bias)  # a latent unit that starts below zero may never wake up
        self.optimizers["all"] = make_optimizer(
            config.optimizer, self.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
