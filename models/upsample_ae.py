"""The autoencoder of reference system A5: pooling down, nearest neighbours and convolutions up.

Shape legend: N batch, C channels, H/W pixels, Z latent width. Figures in comments are for
28x28x1 and channels (16, 8, 8).

    encoder  three times a 3x3 convolution (16, 8, 8), ReLU, 2x2 max-pooling: 28 -> 14 -> 7 -> 4
    decoder  three times resize (7, 14, 28), 3x3 convolution (8, 8, 16), ReLU; a last one to logits
    loss     binary cross entropy on the logits, pixels in [0, 1]

Transposed convolutions of stride 2 reach some pixels with more weights than others, and may leave
a checkerboard (Odena et al. 2016). Resizing first treats all pixels alike.
`models.analysis.checkerboard` measures how much of a checkerboard either leaves.

    make study NAME=cae_upsample
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from models.analysis.checkerboard import SEED, checkerboard_pictures, checkerboard_tables
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.base import Metrics, ModelConfig, Note, build
from models.cae import CAE, CAEConfig
from models.data.images import Batch, ImageSplits, Shape
from models.errors import ConfigError, require
from models.needs import Sides
from models.networks.layers import initialise_for_relu
from models.optimizers import make_optimizer
from models.results import Picture, Table

SMALLEST = 9  # pixels a side, the same as for the autoencoder that it is compared with


@dataclass(frozen=True, kw_only=True)
class UpsampleAEConfig(AutoencoderConfig):
    """Defaults are reference system A5's; its denoising variant has channels (32, 32, 16).

    channels: after each convolution of the encoder, >= 1; the decoder's are their mirror
    """

    channels: tuple[int, int, int] = (16, 8, 8)
    batch_size: int = 200

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))  # JSON gives a list back
        super().__post_init__()
        if len(self.channels) != 3:
            raise ConfigError(f"channels={self.channels} are not three, such as (16, 8, 8)")
        for width in self.channels:
            require("channels", width, 1, 4096)


class UpsampleAE(Autoencoder):
    """An autoencoder that pools on the way down, and resizes on the way up.

    4,385 parameters at 28x28x1 with a code of 8x4x4 = 128 numbers; 30,689 at (32, 32, 16).
    """

    metrics = ("bce", "mse")
    config_type = UpsampleAEConfig
    fuses = True
    config: UpsampleAEConfig
    decoder: nn.Sequential

    @classmethod
    def sides(cls, config: ModelConfig) -> Sides:
        return Sides(least=SMALLEST)

    def __init__(self, config: UpsampleAEConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        colours, *pixels = shape
        if min(pixels) < SMALLEST:
            raise ConfigError(
                f"images of {pixels[0]}x{pixels[1]} are too small for an UpsampleAE: "
                f"at least {SMALLEST}x{SMALLEST}"
            )
        first, second, third = config.channels
        sizes = [(pixels[0], pixels[1])]  # 28, 14, 7, 4
        for _ in config.channels:
            sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
        self.encoder = nn.Sequential(
            *_down_layers(colours, first),  # (N, 16, 14, 14)
            *_down_layers(first, second),  # (N, 8, 7, 7)
            *_down_layers(second, third),  # (N, 8, 4, 4)
            nn.Flatten(),  # (N, 128)
        )
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (third, *sizes[3])),  # (N, 8, 4, 4)
            *_up_layers(third, third, sizes[2]),  # (N, 8, 7, 7)
            *_up_layers(third, second, sizes[1]),  # (N, 8, 14, 14)
            *_up_layers(second, first, sizes[0]),  # (N, 16, 28, 28)
            nn.Conv2d(first, colours, 3, padding=1),  # (N, C, 28, 28), logits
            nn.Sigmoid(),
        )
        initialise_for_relu(self)
        _centre_filters(self)
        self.optimizers["all"] = make_optimizer(
            config.optimizer, self.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        measured = self.evaluate(batch)
        return measured["bce"], measured

    def evaluate(self, batch: Batch) -> Metrics:
        logits: Tensor = self.decoder[:-1](self.encode(self.seen(batch.images)))  # (N, C, H, W)
        return {
            "bce": F.binary_cross_entropy_with_logits(logits, batch.images),
            "mse": F.mse_loss(logits.sigmoid(), batch.images),
        }

    def tables(self, images: ImageSplits, progress: Note) -> Iterator[Table]:
        yield from super().tables(images, progress)
        yield from checkerboard_tables(self, self._untrained_cae, images, progress)

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        yield from super().pictures(images, part)
        if part == "test":  # the winner's table has trained the model of the comparison
            yield from checkerboard_pictures(self, self._untrained_cae, images)

    def _untrained_cae(self, latent: int) -> CAE:
        """Return the model of the comparison: reference system A1, untrained, its code as wide."""
        config = CAEConfig(latent=latent, schedule="cosine")
        built = build(CAE, config, self.shape, seed=SEED, device=self.device)
        assert isinstance(built, CAE)
        return built


def _centre_filters(model: UpsampleAE) -> None:
    """Let the weights of each filter but the last layer's sum to 0.

    A filter's input is never negative, so that a filter with a negative sum may give 0 for all
    images: of eight channels of the code, one then stayed dead for all of a training.
    """
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions[:-1]:
        layer.weight.data -= layer.weight.data.mean((1, 2, 3), keepdim=True)


def _down_layers(channels_in: int, channels_out: int) -> tuple[nn.Module, ...]:
    """Return layers (N, C_in, H, W) -> (N, C_out, ceil(H/2), ceil(W/2))."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return convolution, nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)


def _up_layers(channels_in: int, channels_out: int, size: tuple[int, int]) -> tuple[nn.Module, ...]:
    """Return layers (N, C_in, h, w) -> (N, C_out, *size)."""
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Upsample(size=size, mode="nearest"), convolution, nn.ReLU()
