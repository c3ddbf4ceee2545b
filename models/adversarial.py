"""What all GANs share: two networks that train against each other, and the record of how that goes.

The losses are the non-saturating ones (Goodfellow et al. 2014), or others of
`models.training.gan_losses`:

    loss_d = -log D(real) - log(1 - D(fake))        loss_g = -log D(fake)

`models.training.gan_balance` says how often each network is updated, and with which penalties. The
discriminator sees real and fake images in separate batches, as in DCGAN. All that it sees may be
augmented (`models.training.augmenting`), and penalties are taken at the images as it sees them. The
first update of the generator in a step uses the fakes that the discriminator has just seen. Each
further update draws new ones. A loss that compares pairs takes the real images of the
discriminator's last update, augmented anew (Huang et al. 2024 take others).

Losses do not say how good images are. They show whether both networks still learn. The health
record of a training has these measures:

    loss_g, loss_d                 as above, without losses on labels and penalties
    d_real, d_fake                 mean probability, by D, that real images or fakes are real
    accuracy_real, accuracy_fake   share of images that D classifies correctly
    spread                         root mean square distance of two fakes over that of two reals
    gradient_g, gradient_d         norms of the gradients
    g_steps                        updates of the generator, if their number adapts
    g_behind                       share of steps in which the adaptive rule adds updates
    augmented                      probability of each augmentation, if it adapts

Wasserstein's and the relativistic loss use only differences of scores. There the boundary between
real and fake lies half way between the mean score of real images and that of fakes.

Shape legend: N batch, C channels, H/W pixels, P scores an image, A conditions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from models.adversarial_networks import AdversarialNetworks
from models.base import Metrics, ModelConfig, detached
from models.data.images import Batch
from models.needs import Needs
from models.networks.batch_norm import own_statistics
from models.networks.pixel_range import to_signed
from models.optimizers import make_optimizer
from models.training.augmenting import Augmentation
from models.training.chosen_steps import ChoosesSteps
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


class Adversarial(ChoosesSteps, AdversarialNetworks):
    """Trains and measures the two networks of a family.

    The ``__init__`` of a family ends with ``self.set_networks(generator, discriminator)``.
    """

    metrics: ClassVar[tuple[str, ...]] = (
        "loss_g", "loss_d", "d_real", "d_fake", "accuracy_real", "accuracy_fake", "spread",
    )  # fmt: skip
    step_metrics = ("loss_g", "loss_d")
    config: BalanceConfig
    augmentation: Augmentation | None
    followed: Tensor  # steps of the moving average so far
    noise: Tensor  # standard deviation in this epoch, a tensor so that a recorded step sees it
    weights: Mapping[str, float]  # of the family's own losses, by name

    def discriminator_label_losses(
        self, batch: Batch, given: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        """Return the discriminator's losses on labels, by name.

        real, fake: its scores (N, A) for the batch's images and for the fakes made from ``given``
        """
        return {}

    def generator_extra_losses(
        self, batch: Batch, given: Tensor, fakes: Tensor, scores: Tensor
    ) -> Metrics:
        """Return the generator's further losses, by name.

        fakes: (N, C, H, W) made from ``given``; scores: the discriminator's (N, A) for them
        """
        return {}

    def real_scores(self, batch: Batch, scores: Tensor, of_labels: Tensor) -> Tensor:
        """Return the scores for real or fake (N, P) of the batch's images, which are all real.

        scores: the discriminator's (N, P); of_labels: its scores (N, A)
        """
        return scores

    def fake_scores(self, given: Tensor, scores: Tensor, of_labels: Tensor) -> Tensor:
        """Return the scores for real or fake (N, P) of fakes that were made from ``given``."""
        return scores

    def label_metrics(
        self, batch: Batch, given: Tensor, fakes: Tensor, real: Tensor, fake: Tensor
    ) -> Metrics:
        """Return what `evaluate` measures beside the health record."""
        return {}

    def set_networks(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Take the two networks, and make their optimisers and the rule for their updates."""
        config = self.config
        self.weights = weights or {}
        self.take_networks(generator, discriminator, averages=config.ema > 0)
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

    @classmethod
    def needs(cls, config: ModelConfig) -> Needs:
        assert isinstance(config, BalanceConfig)
        least = config.smallest_batch
        return replace(super().needs(config), train=config.d_steps * least, valid=least, test=least)

    def begin_epoch(self, number: int, epochs: int) -> None:
        super().begin_epoch(number, epochs)
        self.noise.fill_(self.config.noise_in(number, epochs))
        self.rule.reset()

    def choose_step(self) -> int:
        """Return the number of the generator's updates in the next step."""
        return self.rule.g_steps()

    def take_step(self, batch: Batch, choice: Hashable) -> Metrics:
        """Update the discriminator, and then the generator as often as was chosen."""
        g_steps = cast("int", choice)
        self.mixes_statistics = True
        *others, last = self._minibatches(batch)
        for part in others:
            with torch.no_grad():
                fakes = self.generator(given := self.conditions(part))
            self._update_discriminator(part, given, fakes)
        fakes = self.generator(given := self.conditions(last))
        measured = self._update_discriminator(last, given, fakes.detach())
        self.discriminator.requires_grad_(False)  # the generator's update does not need them
        measured |= self._update_generator(last, given, fakes)
        for _ in range(g_steps - 1):
            given = self.conditions(last)
            self._update_generator(last, given, self.generator(given))
        self.discriminator.requires_grad_(True)
        if self.config.adaptive:
            more = float(g_steps > self.config.g_steps)
            measured["g_steps"] = torch.full((), float(g_steps), device=self.device)
            measured["g_behind"] = torch.full((), more, device=self.device)
        return measured

    def note_step(self, measured: Metrics) -> None:
        self.rule.observe(measured["loss_g"], measured["loss_d"])

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
        """Return the health record of the batch's images and of as many fakes.

        The discriminator sees them as in training, augmented and noisy: what it says of other
        images means nothing. Labels are not smoothed. It was not trained on these images, so their
        losses show whether it has learned more than its training images.
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

        The discriminator sees them as in training, and batch norms normalise them as there: in
        batches of the same size, each by its own statistics.
        """
        parts = torch.tensor_split(images, max(len(images) // self.config.batch_size, 1))
        with own_statistics(self.discriminator):
            scores = [self._scores(self._shown(part)) for part in parts]
        real_or_fake, labels = zip(*scores, strict=True)
        return torch.cat(real_or_fake), torch.cat(labels)
