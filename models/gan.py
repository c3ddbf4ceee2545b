"""Generative adversarial networks (Goodfellow et al. 2014; DCGAN): reference system B1.

    codes from N(0, I)  ->  generator  ->  images  ->  discriminator  ->  real or fake

The configuration tunes the balance of the two (`models.training.gan_balance`). With ``pack`` m the
discriminator sees m images at once, side by side as channels, and so notices when a generator makes
the same image over and over (PacGAN, Lin et al. 2018). ``batch_size`` counts images, not packs.

    python -c "from models.gan import GAN, GANConfig; print(GAN(GANConfig(), (1, 32, 32)))"

Shape legend: N batch, C channels, H/W pixels, Z latent width, m packed images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from models.adversarial import Adversarial
from models.base import AskedSamples, ModelConfig
from models.data.images import Batch, ImageSplits, Shape
from models.errors import require, require_one_of
from models.figures.canvas import figure_picture
from models.figures.grids import sample_figure
from models.needs import Sides
from models.networks.dcgan import (
    ARCHITECTURES,
    RESIZES,
    build_discriminator,
    build_generator,
)
from models.programs import NOISE
from models.results import Picture
from models.seeds import derive_seed, seeded
from models.training.gan_balance import BalanceConfig

SHOWN = 100  # new images in an export's picture
ROWS = 4  # of images in a trial's picture
WAYS, STEPS = 8, 10  # pairs of codes; codes on the way from one to the other


@dataclass(frozen=True, kw_only=True)
class GANConfig(BalanceConfig):
    """Defaults are the reference configuration ``32`` and the rates that worked.

    architecture: a name in `models.networks.dcgan`: 32, 64, 512 or dropout-28
    latent: Z; 0: the architecture's own
    width: factor of all channels, 1.0 is the reference
    pack: m, images that the discriminator sees together
    resize: how dropout-28 brings a stage from 8 to 7 pixels, nearest or bilinear
    """

    architecture: str = "32"
    latent: int = 0
    width: float = 1.0
    pack: int = 1
    resize: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("architecture", self.architecture, ARCHITECTURES)
        require("latent", self.latent, 0, 65536)
        require("width", self.width, 0.001, 16)
        require("pack", self.pack, 1, 64)
        require_one_of("resize", self.resize, RESIZES)

    def to_plain(self) -> dict[str, Any]:
        values = super().to_plain()
        if self.architecture != "dropout-28":
            del values["resize"]  # which decides nothing
        return values

    @classmethod
    def from_export(cls, values: Mapping[str, Any]) -> Self:
        older = {"resize": "bilinear"} if values.get("architecture") == "dropout-28" else {}
        return cls(**{**older, **values})

    @property
    def smallest_batch(self) -> int:
        """Batch norm compares packed images, and no image stands twice in one."""
        return self.pack + 1


class GAN(Adversarial):
    """A DCGAN: it makes images of codes from N(0, I) (Radford et al. 2016).

    Generator and discriminator: 1,931,520 and 1,384,576 parameters at Z 90, 32x32x1.
    """

    config_type = GANConfig
    config: GANConfig
    usage = "samples = model.sample(16, seed=0)  # (16, C, H, W) in [0, 1]"
    conditions_in = (NOISE,)

    @classmethod
    def sides(cls, config: ModelConfig) -> Sides:
        assert isinstance(config, GANConfig)
        architecture = ARCHITECTURES[config.architecture]
        return Sides(least=architecture.least, most=architecture.most)

    def __init__(self, config: GANConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        name, width = config.architecture, config.width
        self.latent = config.latent or ARCHITECTURES[name].latent
        self.packed = config.pack
        channels, *size = shape
        packed = (config.pack * channels, size[0], size[1])
        self.set_networks(
            build_generator(name, shape, latent=self.latent, width=width, resize=config.resize),
            build_discriminator(name, packed, normalization=config.normalization, width=width),
        )

    def conditions(self, batch: Batch) -> Tensor:
        return torch.randn(len(batch.images), self.latent, device=self.device)

    def seen(self, images: Tensor) -> Tensor:
        return pack(images, self.packed)

    def codes(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw codes (count, Z) from N(0, I) on the CPU, so that they are the same for all
        devices."""
        return torch.randn(count, self.latent, generator=generator)

    def sample(
        self, count: int, *, seed: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Make new images without gradients: (count, C, H, W) in [0, 1].

        seed: of the codes, which are the same for all devices; None: other ones in each call
        generator: instead of a seed, one of the CPU
        """
        return self.generate(self.codes(count, seeded(seed, generator)))

    def make(self, asked: AskedSamples) -> Tensor:
        return self.sample(asked.count, seed=asked.seed)

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        return self.sample(count, generator=_fixed_generator("judged"))

    def example(self) -> Tensor:
        return self.codes(2, torch.Generator().manual_seed(0))

    def fixed_samples(self, images: ImageSplits, part: str, count: int) -> Tensor:
        return self.sample(count, generator=_fixed_generator("samples"))

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture:
        """Show fakes of codes that are the same in every epoch; no image of ``part`` is needed."""
        return self._sample_picture(ROWS * count, count)

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        yield self._sample_picture(SHOWN, 10)
        yield self._interpolation_picture()

    def _sample_picture(self, count: int, columns: int) -> Picture:
        drawn = self.sample(count, generator=_fixed_generator("samples"))
        what = "images made of draws from N(0, I)"
        return figure_picture(
            "samples", what, what, lambda title: sample_figure(drawn, title, columns=columns)
        )

    def _interpolation_picture(self) -> Picture:
        ends = self.codes(2 * WAYS, _fixed_generator("interpolations"))
        ways = [great_circle(first, last, STEPS) for first, last in ends.view(WAYS, 2, -1)]
        drawn = self.generate(torch.cat(ways))
        return figure_picture(
            "interpolations",
            "each row: from one code to another, along the sphere that draws from N(0, I) lie "
            "near; a generator that has learnt its images by heart jumps between them",
            "from one code to another",
            lambda title: sample_figure(drawn, title, columns=STEPS),
        )


def pack(images: Tensor, count: int) -> Tensor:
    """(N, C, H, W) -> (N / m, mC, H, W): ``count`` = m neighbours become channels of one image.

    Where m does not divide N, the last image is filled up with the first ones.
    """
    if count == 1:
        return images
    channels, height, width = images.shape[1:]
    packed = -(-len(images) // count)
    if packed * count != len(images):
        order = torch.arange(packed * count, device=images.device) % len(images)
        images = images[order]
    return images.reshape(packed, count * channels, height, width)


def great_circle(first: Tensor, last: Tensor, steps: int) -> Tensor:
    """Return codes (steps, Z) between ``first`` and ``last`` (Z,), at equal angles (White 2016)."""
    cosine = torch.dot(first, last) / (first.norm() * last.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
    share = torch.linspace(0, 1, steps)[:, None]  # (steps, 1)
    from_first, from_last = torch.sin((1 - share) * angle), torch.sin(share * angle)
    return (from_first * first + from_last * last) / torch.sin(angle)


def _fixed_generator(purpose: str) -> torch.Generator:
    """Return a generator that draws the same numbers for ``purpose`` every time."""
    return torch.Generator().manual_seed(derive_seed(0, purpose))
