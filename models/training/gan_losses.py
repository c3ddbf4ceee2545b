"""Losses, penalties and health of two networks that train against each other.

    loss = LOSSES["hinge"]
    loss.of_discriminator(real, fake)      # scores (N, P) each -> ()
    loss.of_generator(fake, real)

With D the discriminator's scores, x a real image, G a fake, s(t) = log(1 + e^t), E a mean:

    name             loss of D                            loss of G
    non_saturating   E s(-D(x)) + E s(D(G))               E s(-D(G))
    hinge            E max(0, 1-D(x)) + E max(0, 1+D(G))  -E D(G)
    least_squares    E (D(x)-1)^2 / 2 + E D(G)^2 / 2      E (D(G)-1)^2 / 2
    wasserstein      E D(G) - E D(x)                      -E D(G)
    relativistic     E s(D(G) - D(x))                     E s(D(x) - D(G)), in pairs of x and G

They are of Goodfellow et al. 2014, Lim and Ye 2017 (and Miyato et al. 2018), Mao et al. 2017
(their equation 9), Arjovsky et al. 2017, and Jolicoeur-Martineau 2018 in pairs. The last one with
both penalties R1 and R2 is the game of R3GAN (Huang et al. 2024).

Shape legend: N batch, C channels, H/W pixels, P scores an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Metrics


def discriminator_loss(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of scores (N, P) each, summed over the two kinds."""
    target = torch.full_like(real, 1 - smoothing)
    return F.binary_cross_entropy_with_logits(real, target) + F.softplus(fake).mean()


def generator_loss(fake: Tensor) -> Tensor:
    """Return -log D(fake) of scores (N, P)."""
    return F.softplus(-fake).mean()


@dataclass(frozen=True, kw_only=True)
class AdversarialLoss:
    """One of the pairs of losses above. Scores are (N, P); all means are over both.

    of_discriminator: scores of real images, of fakes, one-sided label smoothing -> ()
    of_generator: scores of fakes, of real images -> (); most do without the real ones
    boundary: the score from which on D takes an image for real; None: only differences of scores
        mean something, and half way between the means of real and fake is taken
    paired: whether the generator's loss looks at real images, too
    smooths: whether label smoothing means something to it
    """

    of_discriminator: Callable[[Tensor, Tensor, float], Tensor]
    of_generator: Callable[[Tensor, Tensor], Tensor]
    boundary: float | None = 0.0
    paired: bool = False
    smooths: bool = False

    def centred(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores that are above 0 where D takes an image for real."""
        if self.boundary == 0:
            return real, fake
        if self.boundary is None:
            middle = (real.mean() + fake.mean()) / 2
            return real - middle, fake - middle
        return real - self.boundary, fake - self.boundary


def hinge_loss(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return max(0, 1 - D(x)) + max(0, 1 + D(G)): scores beyond 1 teach D nothing more."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def least_squares_loss(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return half the squared distances of real scores from 1 and of fake ones from 0."""
    return ((real - (1 - smoothing)).square().mean() + fake.square().mean()) / 2


def wasserstein_loss(real: Tensor, fake: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the negative estimate of the earth mover's distance, for a 1-Lipschitz D."""
    return fake.mean() - real.mean()


def relativistic_loss(better: Tensor, worse: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return -log of the probability that ``better`` images score higher, one pair a row."""
    return F.softplus(worse - better).mean()


LOSSES: dict[str, AdversarialLoss] = {
    "non_saturating": AdversarialLoss(
        of_discriminator=discriminator_loss,
        of_generator=lambda fake, real: generator_loss(fake),
        smooths=True,
    ),
    "hinge": AdversarialLoss(
        of_discriminator=hinge_loss, of_generator=lambda fake, real: -fake.mean()
    ),
    "least_squares": AdversarialLoss(
        of_discriminator=least_squares_loss,
        of_generator=lambda fake, real: (fake - 1).square().mean() / 2,
        boundary=0.5,
        smooths=True,
    ),
    "wasserstein": AdversarialLoss(
        of_discriminator=wasserstein_loss,
        of_generator=lambda fake, real: -fake.mean(),
        boundary=None,
    ),
    "relativistic": AdversarialLoss(
        of_discriminator=relativistic_loss,
        of_generator=lambda fake, real: relativistic_loss(fake, real),
        boundary=None,
        paired=True,
    ),
}


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Return the mean over images (N, ...) of the squared gradient of their score, which is a mean
    of P: R1 for real images, R2 for fakes (Mescheder et al. 2018).

    images: as the discriminator sees them, augmented, noisy and packed. The code of Karras et al.
        2020 and of Huang et al. 2024 takes the gradient at images before they are augmented, where
        what is cut out has none.

    A discriminator with batch norm compares images, so that the gradient is that of all scores of
    the batch. The discriminators of the publications have no batch norm.
    """
    return _slopes(scores, images).square().flatten(1).sum(1).mean()


def lipschitz_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Return the mean over images (N, ...) of (|gradient of their score| - 1)^2, by which a critic
    becomes 1-Lipschitz (Gulrajani et al. 2017).

    The score is a mean of P, as it is in the losses; the code of StarGAN (Choi et al. 2018) takes
    the gradient of the sum of its patches. The critic is to have no batch norm: with it the penalty
    is on all scores of the batch, and not on each image's.
    """
    lengths: Tensor = torch.linalg.vector_norm(_slopes(scores, images).flatten(1), dim=1)
    return (lengths - 1).square().mean()


def mix_images(reals: Tensor, fakes: Tensor) -> Tensor:
    """Return for each pair of images (N, ...) a random point on the line between the two, at which
    `lipschitz_penalty` is taken; it takes gradients."""
    share = torch.rand(len(reals), *[1] * (reals.dim() - 1), device=reals.device)
    return (share * reals.detach() + (1 - share) * fakes.detach()).requires_grad_()


def _slopes(scores: Tensor, images: Tensor) -> Tensor:
    """Return the gradient of each image's mean score: (N, ...)."""
    slopes: Tensor
    (slopes,) = torch.autograd.grad(scores.mean(1).sum(), images, create_graph=True)
    return slopes


def discriminator_health(real: Tensor, fake: Tensor) -> Metrics:
    """Return what the discriminator takes images for, and how often it is right, from its scores
    (N, P) of real and fake ones; above 0 it takes an image for real."""
    return {
        "d_real": torch.sigmoid(real).mean(),
        "d_fake": torch.sigmoid(fake).mean(),
        "accuracy_real": (real > 0).float().mean(),
        "accuracy_fake": (fake <= 0).float().mean(),
    }


def sample_spread(fakes: Tensor, reals: Tensor) -> Tensor:
    """Return the root mean square distance of two fakes (N, C, H, W) over that of two reals.

    It is 0 when all fakes are one image, and of a single fake.
    """

    def half_squared_distance(images: Tensor) -> Tensor:  # the mean over pairs of images
        return images.detach().var(0, correction=min(1, len(images) - 1)).sum()

    return (half_squared_distance(fakes) / half_squared_distance(reals).clamp_min(1e-12)).sqrt()


def gradient_norm(network: nn.Module) -> Tensor:
    """Return the norm of all gradients of ``network``."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, steps: Tensor) -> None:
    """Take a step of the moving average of weights; buffers are copied.

    The statistics of batch norms are then those of ``network``, and not of the average: they are
    computed anew before it is used (`models.networks.batch_norm`).

    steps: (), how many there were so far; it is counted up. The decay begins small,
        (1 + n) / (10 + n) after n steps, so that the weights from before the generator had learnt
        anything are soon forgotten.
    """
    averages: list[Tensor] = list(average.parameters())
    current: list[Tensor] = list(network.parameters())
    weight = (9 / (10 + steps)).clamp(min=1 - decay)
    torch._foreach_lerp_(averages, current, [weight] * len(averages))
    steps += 1
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)
