"""Encoders and decoders of the variational autoencoders of reference system A6.

    encoder, decoder = NETWORKS["latent-2"]((1, 28, 28), latent=2, width=1.0)

    latent-2   3x3 convolutions, one of them with stride 2; 28x28 -> 14x14x64 -> 32 -> Z
    faces-64   pairs of convolutions before each of three poolings; 64x64 -> 8x8x512 -> Z
    wide-64    4x4 convolutions, stride 2, padding 15; 64 -> 46 -> 37, then 175232 -> 1024 -> Z;
               ELU after all layers but the first transposed convolution, which has ReLU
    strided    3x3 convolutions, stride 2; 28x28 -> 14x14x32 -> 7x7x64 -> 256 -> Z; no report has it
    residual   the same with a residual block at 14x14 and 7x7; no report has it

``width`` multiplies channels and hidden layers; 1.0 is the reference. Images of other sizes pass
through the same layers: an odd row that a stride cut off comes back on the way up.

Shape legend: N batch, C channels, H/W pixels, Z latent width. Figures in comments are for the
reference's images at width 1.0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import nn

from models.data.images import Shape
from models.errors import ConfigError
from models.networks.layers import down_convolution, halved_size, up_convolution
from models.networks.vae_parts import Networks, join_networks, scale_sizes
from models.networks.vae_residual import residual

LEAST = {"faces-64": 8}  # pixels a side; the others take all
WIDE_DECODERS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU}

Pixels = tuple[int, int]


def latent_2(shape: Shape, *, latent: int, width: float) -> Networks:
    """Build the networks: encoder 494,244 and decoder 56,385 parameters at Z 2, 28x28x1."""
    channels, *size = shape
    n, wide, hidden = scale_sizes(width, 32, 64, 32)
    hidden = max(hidden, 32)  # fewer units all die soon for some seeds, and the code with them
    small = (halved_size(size[0], 1), halved_size(size[1], 1))  # 14x14
    grid = (wide, *small)
    body = nn.Sequential(
        nn.Conv2d(channels, n, 3, padding=1),
        nn.ReLU(),
        down_convolution(n, wide, 1),  # (N, 64, 14, 14)
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),  # (N, 12544)
        neck := nn.Linear(prod(grid), hidden),
        nn.ReLU(),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, prod(grid)),
        nn.ReLU(),
        nn.Unflatten(1, grid),
        up_convolution(wide, n, 1, (size[0], size[1])),  # (N, 32, 28, 28)
        nn.ReLU(),
        nn.Conv2d(n, channels, 3, padding=1),
    )
    heads = [nn.Linear(hidden, latent) for _ in range(2)]
    networks = join_networks(body, heads, decoder)
    nn.init.ones_(neck.bias)  # units that start below zero for all images pass on nothing
    return networks


def faces_64(shape: Shape, *, latent: int, width: float) -> Networks:
    """Build the networks: 33,470,851 parameters at Z 128, 64x64x3."""
    channels, height, across = shape
    least = LEAST["faces-64"]
    if min(height, across) < least:
        raise ConfigError(
            f"images of {height}x{across} are too small for faces-64, which halves them three "
            f"times: at least {least}x{least}; take latent-2 or a larger shape"
        )
    sizes = [(height >> level, across >> level) for level in range(4)]  # 64, 32, 16, 8
    n = scale_sizes(width, 128, 256, 512)
    layers: list[nn.Module] = []
    for before, after, kernel in zip((channels, *n), n, (3, 5, 5), strict=False):
        layers += [
            nn.Conv2d(before, after, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.Conv2d(after, after, kernel, padding=kernel // 2),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    grid = (n[-1], *sizes[-1])
    decoder = nn.Sequential(
        nn.Linear(latent, prod(grid)),
        nn.ReLU(),
        nn.Unflatten(1, grid),  # (N, 512, 8, 8)
        _up_convolution_4x4(n[-1], n[-1], 1, sizes[3], sizes[2]),
        nn.ReLU(),
        _up_convolution_4x4(n[-1], n[-1], 1, sizes[2], sizes[1]),
        nn.ReLU(),
        _up_convolution_4x4(n[-1], channels, 1, sizes[1], sizes[0]),
    )
    heads = [nn.Linear(prod(grid), latent) for _ in range(2)]
    return join_networks(nn.Sequential(*layers, nn.Flatten()), heads, decoder)


def wide_64(shape: Shape, *, latent: int, width: float, decoder: str = "elu") -> Networks:
    """Build the networks: 538,821,035 parameters at Z 20, 64x64x3.

    Each head has a hidden layer of its own.
    decoder: what follows on its two linear layers, a name in `WIDE_DECODERS`
    """
    activation = WIDE_DECODERS[decoder]
    channels, height, across = shape
    n, wide, hidden = scale_sizes(width, 64, 128, 1024)
    sizes = [(height, across)]  # 64, 46, 37
    for _ in range(2):
        sizes.append(((sizes[-1][0] + 26) // 2 + 1, (sizes[-1][1] + 26) // 2 + 1))
    grid = (wide, *sizes[-1])
    body = nn.Sequential(
        nn.Conv2d(channels, n, 4, stride=2, padding=15),
        nn.ELU(),
        nn.Conv2d(n, wide, 4, stride=2, padding=15),
        nn.ELU(),
        nn.Flatten(),  # (N, 175232)
    )
    heads = [
        nn.Sequential(nn.Linear(prod(grid), hidden), nn.ELU(), nn.Linear(hidden, latent))
        for _ in range(2)
    ]
    layers = nn.Sequential(
        nn.Linear(latent, hidden),
        activation(),
        nn.Linear(hidden, prod(grid)),
        activation(),
        nn.Unflatten(1, grid),  # (N, 128, 37, 37)
        _up_convolution_4x4(wide, n, 15, sizes[2], sizes[1]),
        nn.ReLU(),
        _up_convolution_4x4(n, channels, 15, sizes[1], sizes[0]),
    )
    return join_networks(body, heads, layers)


def strided(shape: Shape, *, latent: int, width: float) -> Networks:
    """Build the networks: encoder 838,336 and decoder 833,153 parameters at Z 32, 28x28x1.

    All convolutions have stride 2, so that a step takes a fifth of the time of ``latent-2``.
    """
    channels, *size = shape
    n, wide, hidden = scale_sizes(width, 32, 64, 256)
    middle = (halved_size(size[0], 1), halved_size(size[1], 1))  # 14x14
    small = (halved_size(middle[0], 1), halved_size(middle[1], 1))  # 7x7
    grid = (wide, *small)
    body = nn.Sequential(
        down_convolution(channels, n, 1),
        nn.ReLU(),
        down_convolution(n, wide, 1),
        nn.ReLU(),
        nn.Flatten(),  # (N, 3136)
        nn.Linear(prod(grid), hidden),
        nn.ReLU(),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, hidden),
        nn.ReLU(),
        nn.Linear(hidden, prod(grid)),
        nn.ReLU(),
        nn.Unflatten(1, grid),
        up_convolution(wide, n, 1, middle),
        nn.ReLU(),
        up_convolution(n, channels, 1, (size[0], size[1])),
    )
    return join_networks(body, [nn.Linear(hidden, latent) for _ in range(2)], decoder)


NETWORKS: dict[str, Callable[..., Networks]] = {
    "latent-2": latent_2,
    "faces-64": faces_64,
    "wide-64": wide_64,
    "strided": strided,
    "residual": residual,
}


def _up_convolution_4x4(
    channels_in: int, channels_out: int, padding: int, small: Pixels, size: Pixels
) -> nn.ConvTranspose2d:
    """Return a transposed 4x4 convolution of stride 2 from ``small`` to exactly ``size`` pixels."""
    odd = [
        after - (2 * before - 2 * padding + 2) for before, after in zip(small, size, strict=True)
    ]
    return nn.ConvTranspose2d(
        channels_in, channels_out, 4, stride=2, padding=padding, output_padding=(odd[0], odd[1])
    )
