"""The two networks of a GAN: what they are given, what they give, and how they are exported.

    generator       conditions -> images in [-1, 1]
    discriminator   images in [-1, 1] -> scores (N, P + A): P for real or fake, before the sigmoid,
                    and A for the labels of an image, in families that have conditions
    averaged        a moving average of the generator's weights, if the configuration asks for one

`models.adversarial` trains them.

In training, a discriminator with batch norm normalises real and fake images in separate batches,
and each batch by its own statistics. It is measured in the same way. An exported discriminator has
the statistics of real training images. The averaged generator gets statistics of its own after each
epoch. So does a generator that is also trained on its own fakes.

Shape legend: N batch, C channels, H/W pixels, P scores an image, A conditions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base import Model, evaluating
from models.data.images import Batch, Images, ImageSplits
from models.networks.batch_norm import has_batch_norm, recompute_statistics
from models.networks.pixel_range import (
    ExportedDiscriminator,
    ExportedGenerator,
    to_signed,
    to_unit,
)
from models.programs import IMAGES, REAL_SCORES, SAMPLES, Program, TensorSpec

# Images from which the statistics of batch norms are computed. 1,000 and 5,000 images were measured
# to give the same Fréchet distances.
COMPARED = 2048


class AdversarialNetworks(Model):
    """A generator and a discriminator. A family says what the generator is given.

    mixes_statistics: whether the running statistics of the discriminator's batch norms are those
        of real and fake images together
    """

    judged = True
    generator: nn.Module
    discriminator: nn.Module
    averaged: nn.Module | None
    mixes_statistics: bool
    reuses_fakes: ClassVar[bool] = False  # whether the generator is also given its own fakes
    scores_per_image = 1  # P
    packed = 1  # images that the discriminator sees as one
    conditions_in: ClassVar[tuple[TensorSpec, ...]] = (
        TensorSpec(name="conditions", holds="what the generator makes images from"),
    )

    @abstractmethod
    def conditions(self, batch: Batch) -> Tensor:
        """Draw the generator's input for as many images as ``batch`` has."""

    @abstractmethod
    def example(self) -> Tensor | tuple[Tensor, ...]:
        """Return the exported generator's input for two images: a tensor for each of its inputs.

        It is the same in each call.
        """

    def seen(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [-1, 1] in the form that the discriminator takes."""
        return images

    def take_networks(
        self, generator: nn.Module, discriminator: nn.Module, *, averages: bool
    ) -> None:
        """Take the two networks. averages: whether samples come from a moving average"""
        self.generator, self.discriminator = generator, discriminator
        self.averaged = deepcopy(generator).requires_grad_(False) if averages else None
        self.mixes_statistics = False

    @property
    def sampling_generator(self) -> nn.Module:
        """The generator that samples are drawn from."""
        return self.generator if self.averaged is None else self.averaged

    def end_epoch(self, seen: Images) -> None:
        """Give the generator that makes samples the statistics of real conditions.

        An average has other weights than those of the training steps. A generator that reuses its
        fakes has statistics of them, too. Any other generator keeps those of its last steps.
        """
        if self.averaged is not None or self.reuses_fakes:
            draws = (self.conditions(batch) for batch in self._draw_batches(seen))
            recompute_statistics(self.sampling_generator, draws)

    def prepare_export(self, images: ImageSplits) -> None:
        """Give the discriminator the statistics of real training images."""
        reals = (self.seen(to_signed(part.images)) for part in self._draw_batches(images.train))
        recompute_statistics(self.discriminator, reals)
        self.mixes_statistics = False

    def _draw_batches(self, images: Images) -> Iterator[Batch]:
        """Yield batches of random images, as large as in training."""
        size = min(self.config.batch_size, len(images))
        for _ in range(-(-COMPARED // size)):
            yield images.batch(torch.randint(len(images), (size,)).to(images.pixels.device))

    def _scores(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores for real or fake (N, P), and those of what images show (N, A)."""
        scores = self.discriminator(seen)
        return scores[:, : self.scores_per_image], scores[:, self.scores_per_image :]

    def generate_signed(self, given: Tensor) -> Tensor:
        """Conditions (N, ...) -> (N, C, H, W) in [-1, 1], in parts as large as a training batch."""
        return torch.cat(
            [self.sampling_generator(part) for part in torch.split(given, self.config.batch_size)]
        )

    def generate(self, given: Tensor) -> Tensor:
        """Conditions (N, ...) -> images (N, C, H, W) in [0, 1].

        They come from the generator that samples are drawn from, in eval mode, so that each image
        follows from its own conditions alone.
        """
        with evaluating(self):
            return to_unit(self.generate_signed(given.to(self.device)))

    def programs(self) -> dict[str, Program]:
        """Return the generator, which gives images in [0, 1], and the discriminator, which takes
        such images.

        A discriminator whose batch norms mix the statistics of real and fake images scores neither
        kind correctly. It is left out until `prepare_export` has mended that.
        """
        programs = {"generator": self.generator_program()}
        if not (self.mixes_statistics and has_batch_norm(self.discriminator)):
            programs["discriminator"] = self.judging_program()
        return programs

    def generator_program(self) -> Program:
        """Return the generator that samples are drawn from."""
        example = self.example()
        given = (example,) if isinstance(example, Tensor) else example
        return Program(
            module=ExportedGenerator(self.sampling_generator),
            example=tuple(tensor.to(self.device) for tensor in given),
            inputs=self.conditions_in,
            outputs=(SAMPLES,),
        )

    def judging_program(self) -> Program:
        """Return the discriminator. Only training needs its scores; a model card omits them."""
        random = torch.Generator().manual_seed(0)
        images = self.seen(torch.rand(2 * self.packed, *self.shape, generator=random))
        several = f"{self.packed} images each, one after the other in the channels"
        return Program(
            module=ExportedDiscriminator(self.discriminator),
            example=images.to(self.device),
            inputs=(IMAGES if self.packed == 1 else replace(IMAGES, holds=several),),
            outputs=(self.score_spec,),
            is_used=False,
        )

    @property
    def score_spec(self) -> TensorSpec:
        """The specification of the exported discriminator's scores."""
        if not has_batch_norm(self.discriminator):
            return REAL_SCORES
        images = "its batch norms have the statistics of real training images"
        return replace(REAL_SCORES, holds=f"{REAL_SCORES.holds}; {images}")
