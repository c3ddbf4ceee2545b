"""Generators and discriminators after DCGAN's rules (Radford et al. 2016).

    generator(codes)         (N, Z) -> images (N, C, H, W) in [-1, 1]
    discriminator(images)    (N, C, H, W) in [-1, 1] -> scores (N, 1), before the sigmoid

    generator      transposed convolutions, batch norm, ReLU; tanh after the last
    discriminator  strided convolutions, batch norm (not after the first), leaky ReLU 0.2

An architecture is a list of channels and strides. The sizes between follow from the image: the
discriminator halves (or quarters) it until a last convolution takes in all that is left. The
generator goes the same way back, and adds the row that a stride cut off.

    32           32 -> 16 -> 8 -> 4 -> 1, Fashion-MNIST
    64           64 -> 32 -> 16 -> 8 -> 4 -> 1, faces
    512          512 -> 256 -> 128 -> 32 -> 8 -> 1
    dropout-28   28 -> 14 -> 7 -> 4 by 5x5 kernels, then a linear layer; biases, dropout 0.1,
                 8 -> 7 by nearest neighbours, Xavier's first weights (Glorot and Bengio 2010)

``width`` multiplies channels; 1.0 is the reference. Shape legend: N batch, C channels, H/W
pixels, Z latent width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import TypeVar

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from models.data.images import Shape
from models.errors import ConfigError

SLOPE = 0.2  # of the leaky ReLU
SPREAD = 0.02  # standard deviation of initial weights
DROPOUT = 0.1  # for dropout-28
RESIZES = ("nearest", "bilinear")  # for dropout-28

Pixels = tuple[int, int]
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """latent: Z of the reference
    up: the generator's channels, from the smallest map on; the image's come after them
    down: the discriminator's channels, from the largest map on; the image's come before them
    strides: the discriminator's, from the image on
    least, most: pixels a side, of which one is left; and that it is made for, at most
    """

    latent: int
    up: tuple[int, ...]
    down: tuple[int, ...]
    strides: tuple[int, ...]
    least: int
    most: int


ARCHITECTURES = {
    "32": Architecture(
        latent=90, up=(384, 192, 64), down=(64, 192, 384), strides=(2, 2, 2), least=8, most=32
    ),
    "64": Architecture(
        latent=128,
        up=(512, 256, 128, 64),
        down=(64, 128, 256, 512),
        strides=(2, 2, 2, 2),
        least=16,
        most=64,
    ),
    "512": Architecture(
        latent=100,
        up=(4096, 2048, 1024, 512),
        down=(64, 128, 256, 512),
        strides=(2, 2, 4, 4),
        least=64,
        most=512,
    ),
    "dropout-28": Architecture(
        latent=100, up=(512, 256, 128), down=(64, 128, 256), strides=(2, 2, 2), least=1, most=32
    ),
}


def build_generator(
    name: str, shape: Shape, *, latent: int, width: float, resize: str = "nearest"
) -> nn.Sequential:
    """Build (N, Z) -> (N, C, H, W) in [-1, 1].

    resize: of `RESIZES`, how dropout-28 makes the size of a stage that is no double
    """
    architecture = ARCHITECTURES[name]
    channels = scale_channels(width, *architecture.up)
    if name == "dropout-28":
        return initialise_by_xavier(_dropout_generator(latent, channels, shape, resize))
    layers = upsampling_layers(latent, channels, shape, architecture.strides)
    return initialise_weights(nn.Sequential(nn.Unflatten(1, (latent, 1, 1)), *layers))


def build_discriminator(
    name: str, shape: Shape, *, normalization: str, width: float
) -> nn.Sequential:
    """Build (N, C, H, W) in [-1, 1] -> (N, 1)."""
    architecture = ARCHITECTURES[name]
    channels = scale_channels(width, *architecture.down)
    if name == "dropout-28":
        network = initialise_by_xavier(_dropout_discriminator(channels, shape, normalization))
        return normalize_spectrally(network) if normalization == "spectral" else network
    left = stage_sizes(shape, architecture.strides)[-1]
    network = nn.Sequential(
        *downsampling_layers(channels, shape, architecture.strides, normalization),
        nn.Conv2d(channels[-1], 1, left, bias=False),
        nn.Flatten(),
    )
    return as_discriminator(network, normalization)


def stage_sizes(shape: Shape, strides: Sequence[int]) -> list[Pixels]:
    """Return sizes from the image's (H, W) down, one more than there are strides."""
    sizes = [(shape[1], shape[2])]
    for stride in strides:
        sizes.append((sizes[-1][0] // stride, sizes[-1][1] // stride))
    if min(sizes[-1]) < 1:
        raise ConfigError(
            f"images of {shape[1]}x{shape[2]} are too small for {len(strides)} strides that "
            f"leave 1 pixel of {prod(strides)}: at least {prod(strides)}x{prod(strides)}"
        )
    return sizes


def upsampling_layers(
    inputs: int, channels: Sequence[int], shape: Shape, strides: Sequence[int]
) -> list[nn.Module]:
    """Return layers from (N, inputs, 1, 1) to (N, C, H, W) in [-1, 1].

    strides: the discriminator's
    """
    sizes = stage_sizes(shape, strides)[::-1]  # the 1x1 input is not among them
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(inputs, channels[0], sizes[0], bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
    ]
    ways = zip(pairwise(sizes), pairwise((*channels, shape[0])), strides[::-1], strict=True)
    for (small, large), (before, after), stride in ways:
        height, width = (large[i] - stride * small[i] for i in (0, 1))  # cut off on the way down
        layers += [
            nn.ConvTranspose2d(
                before, after, 4, stride, (4 - stride) // 2, (height, width), bias=False
            ),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    return [*layers[:-2], nn.Tanh()]


def downsampling_layers(
    channels: Sequence[int], shape: Shape, strides: Sequence[int], normalization: str
) -> list[nn.Module]:
    """Return layers from (N, C, H, W) in [-1, 1] to (N, channels[-1], last of `stage_sizes`)."""
    layers: list[nn.Module] = []
    for (before, after), stride in zip(pairwise((shape[0], *channels)), strides, strict=True):
        biased = normalization != "batch"  # batch norm has biases of its own
        layers.append(nn.Conv2d(before, after, 4, stride, (4 - stride) // 2, bias=biased))
        if layers[1:] and normalization == "batch":
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.LeakyReLU(SLOPE))
    return layers


def _dropout_generator(
    latent: int, channels: Sequence[int], shape: Shape, resize: str
) -> nn.Sequential:
    sizes = [(shape[1], shape[2])]  # 28, 14, 7, 4
    for _ in channels:
        sizes.insert(0, (-(-sizes[0][0] // 2), -(-sizes[0][1] // 2)))
    first, *_ = channels
    layers: list[nn.Module] = [
        nn.Linear(latent, first * prod(sizes[0])),
        nn.Unflatten(1, (first, *sizes[0])),
    ]
    ways = zip(pairwise(sizes), pairwise((*channels, shape[0])), strict=True)
    for (small, large), (before, after) in ways:
        layers += [
            nn.BatchNorm2d(before),
            nn.LeakyReLU(SLOPE),
            nn.Dropout(DROPOUT),
            nn.ConvTranspose2d(before, after, 5, 2, 2, 1),  # doubles
        ]
        if large != (2 * small[0], 2 * small[1]):  # 8 -> 7
            layers.append(nn.Upsample(size=large, mode=resize))
    return nn.Sequential(*layers, nn.Tanh())


def _dropout_discriminator(
    channels: Sequence[int], shape: Shape, normalization: str
) -> nn.Sequential:
    layers: list[nn.Module] = []
    height, width = shape[1:]
    for before, after in pairwise((shape[0], *channels)):
        layers.append(nn.Conv2d(before, after, 5, 2, 2))
        if layers[1:] and normalization == "batch":
            layers.append(nn.BatchNorm2d(after))
        layers += [nn.LeakyReLU(SLOPE), nn.Dropout(DROPOUT)]
        height, width = -(-height // 2), -(-width // 2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * height * width, 1))


def scale_channels(width: float, *channels: int) -> list[int]:
    """Return ``channels`` times ``width``, each at least 1."""
    return [max(1, round(width * count)) for count in channels]


def initialise_weights(network: Network) -> Network:
    """Draw DCGAN's first weights: N(0, 0.02), batch norms N(1, 0.02), biases 0."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(layer.weight, 1.0, SPREAD)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, SPREAD)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return network


def initialise_by_xavier(network: Network) -> Network:
    """Draw weights uniformly from Xavier's range, and leave the batch norms at 1 and 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def as_discriminator(network: Network, normalization: str) -> Network:
    """Give a discriminator DCGAN's first weights, and spectral norms where they are asked for."""
    initialise_weights(network)
    return normalize_spectrally(network) if normalization == "spectral" else network


def normalize_spectrally(network: Network) -> Network:
    """Divide the weights of each layer by their largest singular value (Miyato et al. 2018)."""
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            spectral_norm(layer)
    return network
