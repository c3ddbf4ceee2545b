"""The models that the parts train: every family, and every loss, noise and penalty once.

All are small. What they compute is what counts, and a large one computes the same.

Shape legend: N batch, C channels, H/W pixels, L labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from models.acgan import ACGAN, ACGANConfig
from models.autoencoder import Autoencoder
from models.base import Model, ModelConfig, build
from models.cae import CAE, CAEConfig
from models.classifier import Classifier, ClassifierConfig
from models.data.images import Batch, Images, ImageSplits, Shape
from models.dense_ae import DenseAE, DenseAEConfig
from models.gan import GAN, GANConfig
from models.stargan import StarGAN, StarGANConfig
from models.upsample_ae import UpsampleAE, UpsampleAEConfig
from models.vae import VAE, VAEConfig
from tests.gpu.part import Settings

GREY, COLOUR = (1, 28, 28), (3, 64, 64)
BATCH = 32
LABELS = 10


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to train.

    draws: whether a step draws random numbers
    """

    name: str
    family: type[Model]
    config: ModelConfig
    shape: Shape = GREY
    draws: bool = True

    def build(self, device: str, seed: int = 0) -> Model:
        """Return the model, with weights that follow from ``seed``."""
        base = None
        if self.family is Classifier:
            base = build(CAE, CAEConfig(channels=2, latent=8), self.shape, seed=7)
            assert isinstance(base, Autoencoder)
        return build(self.family, self.config, self.shape, seed=seed, device=device, base=base)


def _gan(name: str, shape: Shape = GREY, **values: Any) -> Case:
    settings = {"width": 0.05, "latent": 8, "batch_size": BATCH, **values}
    return Case(name=f"gan {name}", family=GAN, config=GANConfig(**settings), shape=shape)


def _labelled(exclusive: bool) -> dict[str, Any]:
    return {"width": 0.03, "batch_size": BATCH, "labels": LABELS, "exclusive": exclusive}


def _vae(name: str, shape: Shape = GREY, **values: Any) -> Case:
    settings = {"width": 0.1, "batch_size": BATCH, "lr": 1e-3, **values}
    return Case(name=f"vae {name}", family=VAE, config=VAEConfig(**settings), shape=shape)


CASES: tuple[Case, ...] = (
    Case(
        name="cae", family=CAE, config=CAEConfig(channels=4, latent=10, batch_size=BATCH),
        draws=False,
    ),
    Case(
        name="cae by SGD, cosine",
        family=CAE,
        config=CAEConfig(
            channels=4, latent=10, batch_size=BATCH, optimizer="sgd", lr=0.02, schedule="cosine"
        ),
        draws=False,
    ),
    Case(
        name="cae with noise", family=CAE,
        config=CAEConfig(channels=4, latent=10, batch_size=BATCH, noise="all"),
    ),
    Case(
        name="dense_ae", family=DenseAE,
        config=DenseAEConfig(widths=(32, 8, 3), batch_size=BATCH), draws=False,
    ),
    Case(
        name="upsample_ae", family=UpsampleAE,
        config=UpsampleAEConfig(channels=(4, 4, 2), batch_size=BATCH), draws=False,
    ),
    Case(
        name="classifier", family=Classifier,
        config=ClassifierConfig(hidden=32, batch_size=BATCH, dropout=0.2),
    ),
    Case(
        name="classifier, all of it", family=Classifier,
        config=ClassifierConfig(hidden=32, batch_size=BATCH, frozen=False), draws=False,
    ),
    _vae("dense", latent=4),
    _vae("mse, adamax", reconstruction="mse", optimizer="adamax"),
    _vae("faces-64", COLOUR, architecture="faces-64", width=0.02, warm_up=2),
    _vae("wide-64", COLOUR, architecture="wide-64", width=0.03, latent=20),
    _vae("bfloat16", latent=4, precision="bfloat16"),
    _vae("residual", architecture="residual", latent=4, schedule="cosine_decay", redraw=True),
    _gan("32"),
    _gan("64 in colour", COLOUR, width=0.03),
    _gan("dropout-28", architecture="dropout-28", latent=0),
    _gan("averaged, spectral", normalization="spectral", ema=0.9, d_steps=2, g_steps=2),
    _gan("r1, packed", normalization="none", r1=1.0, pack=2, d_steps=2),
    _gan("r1 and r2, relativistic", normalization="none", r1=1.0, r2=1.0, loss="relativistic"),
    _gan("wasserstein", normalization="none", loss="wasserstein", gradient_penalty=10.0),
    _gan("hinge, smooth noise", loss="hinge", instance_noise=0.3),
    _gan("augmented", augment="flip,colour,translation,cutout", instance_noise=0.1),
    _gan("adaptive augmentation", augment="translation,cutout", ada_target=0.6, ada_images=640),
    _gan("bfloat16", normalization="spectral", precision="bfloat16"),
    _gan("bfloat16, r1", normalization="none", r1=1.0, precision="bfloat16"),
    _gan("adaptive rule", extra_g_steps=1, threshold=-100.0),  # from the third step on
    Case(
        name="acgan", family=ACGAN,
        config=ACGANConfig(latent=8, ema=0.9, **_labelled(exclusive=True)),
    ),
    Case(
        name="acgan, projected", family=ACGAN,
        config=ACGANConfig(
            latent=8, extra_g_steps=0, projection=0.5, label_fakes=False,
            augment="translation,cutout", **_labelled(exclusive=True),
        ),
    ),
    Case(
        name="stargan", family=StarGAN,
        config=StarGANConfig(blocks=1, **_labelled(exclusive=True)),
    ),
    Case(
        name="stargan of attributes", family=StarGAN,
        config=StarGANConfig(
            blocks=1, projection=0.5, ema=0.9, r1=1.0, normalization="none",
            **_labelled(exclusive=False),
        ),
        shape=(3, 32, 32),
    ),
)  # fmt: skip


def cases_of(settings: Settings, *, every: int) -> Sequence[Case]:
    """Return all cases, or in the tiny form each ``every``-th, with small batches."""
    if not settings.tiny:
        return CASES
    return [replace(case, config=replace(case.config, batch_size=4)) for case in CASES[::every]]


def draw_images(shape: Shape, count: int, *, seed: int) -> Images:
    """Return drawn images, of which there is something to learn: a pattern of each class, noisy."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(LABELS, (count,), generator=generator)
    coarse = torch.rand(LABELS, *shape[:1], 4, 4, generator=generator)[classes]
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    noisy = 0.8 * smooth + 0.2 * torch.rand(smooth.shape, generator=generator)
    return Images(
        pixels=(noisy * 255).to(torch.uint8),
        labels=classes,
        attributes=(torch.rand(count, LABELS, generator=generator) < 0.4).float(),
    )


def draw_splits(shape: Shape, count: int) -> ImageSplits:
    """Return drawn images in three parts, ``count`` of them to train on."""
    return ImageSplits(
        name="drawn",
        fingerprint="drawn",
        train=draw_images(shape, count, seed=1),
        valid=draw_images(shape, 4 * BATCH, seed=2),
        test=draw_images(shape, 4 * BATCH, seed=3),
        classes=tuple(f"class {k}" for k in range(LABELS)),
        attribute_names=tuple(f"attribute {k}" for k in range(LABELS)),
    )


def keep_usual(model: Model) -> None:
    """Have no step of a model recorded."""
    model.static_step = False
    vars(model)["train_step"] = model.train_step  # one of its own: nothing is chosen


def batches_of(case: Case, device: str, count: int) -> Iterator[Batch]:
    """Yield ``count`` batches of a step of ``case``, always the same ones."""
    size = case.config.images_per_step
    images = draw_images(case.shape, count * size, seed=11).to(device)
    for first in range(0, count * size, size):
        yield images.batch(slice(first, first + size))
