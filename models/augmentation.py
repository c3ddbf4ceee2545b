"""A GAN that trains on few images, and on others that are made from them: reference section C.

    real images, so many of them    ->  autoencoder   ->  new images   \\
                                    ->  noisy copies                    ->  what the GAN trains on
                                    ->  nothing                        /

How many real images there are, and what is added, are values of the configuration like any
other, so that a study can search them. Only what is trained on changes: samples are measured
against all images.

    none             the real images alone
    autoencoder      ``drawn`` new images are added: a fully connected autoencoder learns the real
                     ones, and decodes draws from the Gaussian with its codes' mean and covariance
    reconstructions  what such an autoencoder makes of each real image is added
    noise            three noisy copies of each are added: Gaussian, salt & pepper, photon noise

An epoch is one pass through the training set. With ``epoch_images`` it shows that many images, so
that sets of 5,000, 10,000 and 48,000 images take equally many steps. A larger set is then seen in
parts, a random one each epoch. A smaller set is seen several times in one epoch: no image comes
again before all others have come as often.

    make study NAME=augmentation

Shape legend: N images, C channels, H/W pixels, Z code width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.analysis.gaussian import draw_gaussian
from models.analysis.latent_models import codes_of
from models.base import ModelConfig, build, evaluating
from models.data.images import EVALUATION_BATCH, Images, ImageSplits
from models.data.mixed_rows import mixed_rows
from models.data.noise import KINDS, corrupt
from models.dense_ae import DenseAE, DenseAEConfig
from models.errors import require, require_one_of
from models.gan import GAN, GANConfig
from models.seeds import derive_seed, drawing
from models.training.loop import fit

EXTRAS = ("none", "autoencoder", "reconstructions", "noise")
CODE = 64  # Z of every autoencoder: they differ in depth alone
WIDTHS = {1: (CODE,), 2: (256, CODE), 3: (256, 128, CODE)}  # of each side, by its number of layers
AE_EPOCHS = 25  # 975 steps for 5,000 images in batches of 128
AE_BATCH = 128
NOISE = 0.2  # strength of all kinds, each in its own unit


@dataclass(frozen=True, kw_only=True)
class AugmentedGANConfig(GANConfig):
    """What a GAN is trained on, beside the fields of `GANConfig`.

    real: so many training images, always the same; 0, or more than there are: all
    extra: what is added to them: none, autoencoder, reconstructions or noise (see the module)
    layers: how many the autoencoder has on each side: 1, 2 or 3
    drawn: how many new images the autoencoder makes
    epoch_images: how many images an epoch shows, whatever the set's size; 0: each image once
    """

    real: int = 0
    extra: str = "none"
    layers: int = 1
    drawn: int = 5000
    epoch_images: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require("real", self.real, 0, 1_000_000_000)
        require_one_of("extra", self.extra, EXTRAS)
        require("layers", self.layers, min(WIDTHS), max(WIDTHS))
        require("drawn", self.drawn, 1, 10_000_000)
        require("epoch_images", self.epoch_images, 0, 1_000_000_000)


class AugmentedGAN(GAN):
    """A `GAN` that trains on few images and what is made of them (`training_set`)."""

    config_type = AugmentedGANConfig
    config: AugmentedGANConfig

    @classmethod
    def images_per_epoch(cls, config: ModelConfig, images: ImageSplits) -> int:
        assert isinstance(config, AugmentedGANConfig)
        real = min(config.real or len(images.train), len(images.train))
        added = {
            "autoencoder": config.drawn, "reconstructions": real, "noise": len(KINDS) * real
        }  # fmt: skip
        return config.epoch_images or real + added.get(config.extra, 0)

    def training_set(
        self,
        images: ImageSplits,
        *,
        seed: int,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Images:
        """Return the real images alone, or together with images made from them, without classes."""
        config = self.config
        count = config.real or len(images.train)
        real = images.train.take(mixed_rows(images, "train", count))
        if config.extra in ("autoencoder", "reconstructions"):
            model = train_autoencoder(
                replace(images, train=real), config.layers, seed=seed, interrupted=interrupted
            )
            if config.extra == "reconstructions":
                added = reconstruct(model, real)
            else:
                added = draw_from_codes(model, real, config.drawn, seed=derive_seed(seed, "drawn"))
        elif config.extra == "noise":
            added = noisy_copies(real, seed=derive_seed(seed, "noise"))
        else:
            return real
        return Images(pixels=torch.cat([real.pixels, added]))

    def order(self, count: int) -> Tensor:
        """Return passes through all images, each in an order of its own, up to
        ``epoch_images``."""
        wanted = self.config.epoch_images or count
        passes = -(-wanted // count)
        return torch.cat([torch.randperm(count) for _ in range(passes)])[:wanted]


def train_autoencoder(
    images: ImageSplits,
    layers: int,
    *,
    seed: int,
    interrupted: Callable[[], bool] = lambda: False,
) -> DenseAE:
    """Train an autoencoder of ``layers`` fully connected layers each side on ``images.train``.

    Raises `models.errors.StopRequested` when asked to stop.
    """
    config = DenseAEConfig(
        widths=WIDTHS[layers], noise="none", weight_decay=0.0, batch_size=AE_BATCH
    )
    device = images.train.pixels.device
    model = build(DenseAE, config, images.shape, seed=derive_seed(seed, "weights"), device=device)
    assert isinstance(model, DenseAE)
    few = replace(images, valid=images.train.take(torch.arange(1, device=device)))
    with drawing(device, seed):
        for _ in fit(model, few, epochs=AE_EPOCHS, seed=seed, interrupted=interrupted):
            pass  # what is drawn from it counts, not its error
    return model


def draw_from_codes(model: DenseAE, real: Images, count: int, *, seed: int) -> Tensor:
    """Return decoded draws (count, C, H, W) uint8 on the model's device.

    They are drawn from the Gaussian with the mean and the full covariance of the codes of ``real``.
    """
    with evaluating(model):
        drawn = draw_gaussian(codes_of(model, real), count, seed=seed)  # (count, Z)
        pieces = torch.split(drawn.to(model.device), EVALUATION_BATCH)
        return torch.cat([_to_bytes(model.decode(piece)) for piece in pieces])


def reconstruct(model: DenseAE, real: Images) -> Tensor:
    """Return what the autoencoder makes of each image of ``real``: (N, C, H, W) uint8."""
    with evaluating(model):
        return torch.cat([_to_bytes(model(batch.images)) for batch in real.batches()])


def noisy_copies(real: Images, *, seed: int) -> Tensor:
    """Return each image of ``real`` under each kind of `models.data.noise`: (3N, C, H, W) uint8."""
    with drawing(real.pixels.device, seed):
        clean = real.batch(slice(None)).images
        return torch.cat([_to_bytes(corrupt(clean, kind, NOISE)) for kind in KINDS])


def _to_bytes(images: Tensor) -> Tensor:
    """[0, 1] -> 0 to 255."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
