"""What all GANs share: two networks that train against each other, and the record of how that goes.

    generator       conditions -> images in [-1, 1]
    discriminator   images in [-1, 1] -> scores (N, P + A): P that say real or fake (before the
                    sigmoid) and A about what an image shows, for families that have conditions
    averaged        a moving average of the generator's weights, where the configuration has one

The losses are the non-saturating ones (Goodfellow et al. 2014), or others of
`models.training.gan_losses`:

    loss_d = -log D(real) - log(1 - D(fake))        loss_g = -log D(fake)

A discriminator with batch norm scores real and fake images by the statistics of their own batches,
when it is trained and when it is measured. An exported one has the statistics of real training
images. Those of the averaged generator are computed anew after each epoch, and so are those of a
generator that is also trained on its own fakes.

`models.training.gan_balance` says how often each network is updated, and with what beside these
losses. What D sees may be augmented (`models.training.augmenting`); penalties are on what it sees.
The discriminator sees real and fake images in batches of their own, as DCGAN's does. The first
update of the generator goes through the fakes that the discriminator has just seen; any other
draws new ones.

Losses do not say how good images are. They are measured to see whether both networks still
learn; this is the health record of a training:

    loss_g, loss_d                 as above, without conditions and penalties
    d_real, d_fake                 mean of D's probabilities
    accuracy_real, accuracy_fake   share that D gets right
    spread                         root mean square distance of two fakes over that of two reals
    gradient_g, gradient_d         norms of the gradients
    g_steps                        updates of the generator, where their number adapts
    g_behind                       share of steps in which the adaptive rule gives it more
    augmented                      probability of each augmentation, where it adapts

Where only differences of D's scores mean something, as for Wasserstein's and the relativistic loss,
D counts as right on the proper side of the middle between the means of both kinds.

Shape legend: N batch, C channels, H/W pixels, P scores an image, A conditions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.base import Metrics, Model, ModelConfig, detached, evaluating
from models.data.images import Batch, Images, ImageSplits
from models.needs import Needs
from models.networks.batch_norm import (
    has_batch_norm,
    own_statistics,
    recompute_statistics,
)
from models.networks.pixel_range import (
    ExportedDiscriminator,
    ExportedGenerator,
    to_signed,
    to_unit,
)
from models.optimizers import make_optimizer
from models.programs import IMAGES, REAL_SCORES, SAMPLES, Program, TensorSpec
from models.training.augmenting import Augmentation
from models.training.gan_balance import AdaptiveSteps, BalanceConfig
from models.training.gan_losses import (
    discriminator_health,
    gradient_norm,
    gradient_penalty,
    lipschitz_penalty,
    mix_images,
    sample_spread,
    update_average,
)

# Images that statistics of batch norms are computed of; 1,000 and 5,000 were measured to give the
# same Fréchet distances.
COMPARED = 2048


class Adversarial(Model):
    """A family gives its networks and says what the generator is given.

    Its ``__init__`` ends with ``self.set_networks(generator, discriminator)``.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        "loss_g", "loss_d", "d_real", "d_fake", "accuracy_real", "accuracy_fake", "spread",
    )  # fmt: skip
    judged = True
    reuses_fakes: ClassVar[bool] = False  # whether the generator is also given its own fakes
    step_metrics = ("loss_g", "loss_d")
    config: BalanceConfig
    generator: nn.Module
    discriminator: nn.Module
    averaged: nn.Module | None
    augmentation: Augmentation | None
    followed: Tensor  # steps of the moving average so far
    noise: Tensor  # standard deviation in this epoch, a tensor so that a recorded step sees it
    scores_per_image = 1  # P
    packed = 1  # images that the discriminator sees as one
    weights: Mapping[str, float]  # of the family's own losses, by name
    conditions_in: ClassVar[tuple[TensorSpec, ...]] = (
        TensorSpec(name="conditions", holds="what the generator makes images of"),
    )

    @abstractmethod
    def conditions(self, batch: Batch) -> Tensor:
        """Draw what the generator makes as many images of as ``batch`` has."""

    @abstractmethod
    def example(self) -> Tensor | tuple[Tensor, ...]:
        """Return what the exported generator takes for two images, always the same: a tensor for
        each of its inputs."""

    def discriminator_label_losses(
        self, batch: Batch, given: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        """Return the discriminator's losses on labels, by name.

        real, fake: its A scores (N, A) of the batch's images and of the fakes made of ``given``
        """
        return {}

    def generator_extra_losses(
        self, batch: Batch, given: Tensor, fakes: Tensor, scores: Tensor
    ) -> Metrics:
        """Return the generator's further losses, by name.

        fakes: (N, C, H, W) made of ``given``; scores: their A scores (N, A)
        """
        return {}

    def real_scores(self, batch: Batch, scores: Tensor, of_labels: Tensor) -> Tensor:
        """Return the scores for real or fake (N, P) of the batch's images, which are real.

        scores: as the discriminator gives them; of_labels: its A scores (N, A)
        """
        return scores

    def fake_scores(self, given: Tensor, scores: Tensor, of_labels: Tensor) -> Tensor:
        """Return the same of fakes made of ``given``."""
        return scores

    def label_metrics(
        self, batch: Batch, given: Tensor, fakes: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        """Return what `evaluate` measures beside the health record."""
        return {}

    def seen(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [-1, 1] as the discriminator is given them."""
        return images

    def set_networks(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Take the two networks, and make their optimisers, the average and the rule."""
        config = self.config
        self.weights = weights or {}
        self.generator, self.discriminator = generator, discriminator
        self.averaged = deepcopy(generator).requires_grad_(False) if config.ema else None
        betas = (config.beta1, config.beta2)
        for name, lr in (("generator", config.lr_g), ("discriminator", config.lr_d)):
            self.optimizers[name] = make_optimizer(
                "adam", getattr(self, name).parameters(), lr=lr, betas=betas
            )
        self.register_buffer("followed", torch.zeros(()))
        noise = torch.tensor(float(config.instance_noise))
        self.register_buffer("noise", noise, persistent=False)
        self.augmentation = config.make_augmentation()
        self.rule = AdaptiveSteps(config)
        self.static_step = not config.adaptive
        self.mixes_statistics = False  # of real and fake images, in the discriminator

    @classmethod
    def needs(cls, config: ModelConfig) -> Needs:
        assert isinstance(config, BalanceConfig)
        least = config.smallest_batch
        return replace(super().needs(config), train=config.d_steps * least, valid=least, test=least)

    @property
    def sampling_generator(self) -> nn.Module:
        """The generator that samples are drawn from."""
        return self.generator if self.averaged is None else self.averaged

    def begin_epoch(self, number: int, epochs: int) -> None:
        super().begin_epoch(number, epochs)
        self.noise.fill_(self.config.noise_in(number, epochs))
        self.rule.reset()

    def end_epoch(self, seen: Images) -> None:
        """Give the generator that samples come from the statistics of what it is given then.

        Those of an average are of other weights, and those of a generator that reuses its fakes are
        of these, too. Any other generator keeps those of its last training steps.
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
        """Yield batches as large as in training, of images that are drawn at random."""
        size = min(self.config.batch_size, len(images))
        for _ in range(-(-COMPARED // size)):
            yield images.batch(torch.randint(len(images), (size,)).to(images.pixels.device))

    def train_step(self, batch: Batch) -> Metrics:
        self.mixes_statistics = True
        g_steps = self.rule.g_steps()
        *others, last = self._minibatches(batch)
        for part in others:
            with torch.no_grad():
                fakes = self.generator(given := self.conditions(part))
            self._update_discriminator(part, given, fakes)
        fakes = self.generator(given := self.conditions(last))
        measured = self._update_discriminator(last, given, fakes.detach())
        self.discriminator.requires_grad_(False)  # its gradients would be computed for nothing
        measured |= self._update_generator(last, given, fakes)
        for _ in range(g_steps - 1):
            given = self.conditions(last)
            self._update_generator(last, given, self.generator(given))
        self.discriminator.requires_grad_(True)
        self.rule.observe(measured["loss_g"], measured["loss_d"])
        if self.config.adaptive:
            more = float(g_steps > self.config.g_steps)
            measured["g_steps"] = torch.full((), float(g_steps), device=self.device)
            measured["g_behind"] = torch.full((), more, device=self.device)
        return measured

    def _minibatches(self, batch: Batch) -> Iterator[Batch]:
        size = self.config.minibatch(len(batch.images))
        for first in range(0, size * self.config.d_steps, size):
            yield batch.rows(slice(first, first + size))

    def _update_discriminator(self, batch: Batch, given: Tensor, fakes: Tensor) -> Metrics:
        config, optimizer = self.config, self.optimizers["discriminator"]
        optimizer.zero_grad(set_to_none=True)
        images = to_signed(batch.images)
        reals = self._shown(images).requires_grad_(config.r1 > 0)
        real, labels_of_real = self._scores(reals)
        real = self.real_scores(batch, real, labels_of_real)
        shown = self._shown(fakes).requires_grad_(config.r2 > 0)
        fake, labels_of_fake = self._scores(shown)
        fake = self.fake_scores(given, fake, labels_of_fake)
        loss = config.adversarial_loss.of_discriminator(real, fake, config.smoothing)
        on_labels = self.discriminator_label_losses(batch, given, labels_of_real, labels_of_fake)
        total = self._add_weighted(loss, on_labels)
        if config.r1:
            total = total + config.r1 / 2 * gradient_penalty(real, reals)
        if config.r2:
            total = total + config.r2 / 2 * gradient_penalty(fake, shown)
        if config.gradient_penalty:
            between = mix_images(reals, shown)
            scores = self.real_scores(batch, *self._scores(between))
            total = total + config.gradient_penalty * lipschitz_penalty(scores, between)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sides = config.adversarial_loss.centred(real, fake)
        measured = {
            "loss_d": loss,
            **discriminator_health(*sides),
            "spread": sample_spread(fakes, images),
            **on_labels,
            "gradient_d": gradient_norm(self.discriminator),
        }
        if self.augmentation is not None and config.ada_target:
            self.augmentation.observe(sides[0], len(images))
            measured["augmented"] = self.augmentation.chance.clone()
        return detached(measured)

    def _update_generator(self, batch: Batch, given: Tensor, fakes: Tensor) -> Metrics:
        optimizer = self.optimizers["generator"]
        optimizer.zero_grad(set_to_none=True)
        fake, labels_of_fake = self._scores(self._shown(fakes))
        real = fake = self.fake_scores(given, fake, labels_of_fake)
        if self.config.adversarial_loss.paired:
            with torch.no_grad():
                shown = self._shown(to_signed(batch.images))
                real = self.real_scores(batch, *self._scores(shown))
        loss = self.config.adversarial_loss.of_generator(fake, real)
        extra = self.generator_extra_losses(batch, given, fakes, labels_of_fake)
        self._add_weighted(loss, extra).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if self.averaged is not None:
            update_average(self.averaged, self.generator, self.config.ema, self.followed)
        return detached({"loss_g": loss, **extra, "gradient_g": gradient_norm(self.generator)})

    def _add_weighted(self, loss: Tensor, others: Metrics) -> Tensor:
        """Return ``loss`` and the family's own losses, each times its weight."""
        for name, value in others.items():
            loss = loss + self.weights[name] * value
        return loss

    def _scores(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores for real or fake (N, P), and those of what images show (N, A)."""
        scores = self.discriminator(seen)
        return scores[:, : self.scores_per_image], scores[:, self.scores_per_image :]

    def _shown(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) in [-1, 1] as the discriminator sees them in training."""
        if self.augmentation is not None:
            images = self.augmentation(images)
        return self._add_noise(self.seen(images))

    def _add_noise(self, seen: Tensor) -> Tensor:
        if not self.config.instance_noise:
            return seen
        return seen + self.noise * torch.randn_like(seen)

    def evaluate(self, batch: Batch) -> Metrics:
        """Return the health of the images and as many fakes, as they are: nothing is smoothed,
        noisy or augmented.

        Losses on images that the discriminator was not trained on show whether it knows more
        than its training images.
        """
        given = self.conditions(batch)
        fakes, images = self.generate_signed(given), to_signed(batch.images)
        real, labels_of_real = self._scores_by_batch(images)
        fake, labels_of_fake = self._scores_by_batch(fakes)
        real = self.real_scores(batch, real, labels_of_real)
        fake = self.fake_scores(given, fake, labels_of_fake)
        loss = self.config.adversarial_loss
        measured = {
            "loss_g": loss.of_generator(fake, real),
            "loss_d": loss.of_discriminator(real, fake, 0.0),
            **discriminator_health(*loss.centred(real, fake)),
            "spread": sample_spread(fakes, images),
        }
        return measured | self.label_metrics(batch, given, fakes, labels_of_real, labels_of_fake)

    def _scores_by_batch(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores of images (N, C, H, W) in [-1, 1] that are all real, or all fake.

        Batch norms normalise them as in training: by the statistics of as many of their kind.
        """
        parts = torch.tensor_split(images, max(len(images) // self.config.batch_size, 1))
        with own_statistics(self.discriminator):
            scores = [self._scores(self.seen(part)) for part in parts]
        real_or_fake, labels = zip(*scores, strict=True)
        return torch.cat(real_or_fake), torch.cat(labels)

    def generate_signed(self, given: Tensor) -> Tensor:
        """Conditions (N, ...) -> (N, C, H, W) in [-1, 1]; at once as many as a training batch."""
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
        rightly, and is left out until `prepare_export`.
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
        """Return the discriminator. What it scores is of no use without its training."""
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
        """What the scores of the exported discriminator hold."""
        if not has_batch_norm(self.discriminator):
            return REAL_SCORES
        images = "its batch norms have the statistics of real training images"
        return replace(REAL_SCORES, holds=f"{REAL_SCORES.holds}; {images}")
