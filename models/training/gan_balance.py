"""The balance of a GAN's two networks: how fast and how often each of them learns.

A training step updates the discriminator D ``d_steps`` times, each time on a minibatch of its
own (Goodfellow et al. 2014, algorithm 1), and then the generator G ``g_steps`` times, each time
on noise of its own. 1:1 is DCGAN; 4:1 updates G once for every four updates of D.

The adaptive rule gives G ``extra_g_steps`` more updates while its loss exceeds D's by more than
``threshold``. It looks at the losses of the step before last, which are copied to the host while
the last step runs. So the host never waits for the device. On a CPU the rule also looks two steps
back, so that all devices decide alike.

The configuration also holds the loss, the penalties on D, and the augmentation of D's images.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from models.base import ModelConfig, added_field
from models.errors import ConfigError, require, require_one_of
from models.training.augmenting import Augmentation, read_policy
from models.training.gan_losses import LOSSES, AdversarialLoss

NORMALIZATIONS = ("batch", "spectral", "none")
LAG = 2  # steps between a loss and what follows from it


@dataclass(frozen=True, kw_only=True)
class BalanceConfig(ModelConfig):
    """Defaults are those with which the reported DCGAN gave readable faces.

    lr_g, lr_d: Adam's learning rates for G and D; beta1, beta2: the decays of its moments
    d_steps, g_steps: updates in a training step, see above
    extra_g_steps: further updates by the adaptive rule, 0: none
    threshold: for loss_g - loss_d, which is about -0.7 where D cannot tell real from fake
    smoothing: real images count as 1 - smoothing, fakes as 0 (Salimans et al. 2016)
    instance_noise: standard deviation, in the first epoch, of the noise on D's images, which lie
        in [-1, 1]; it falls in equal steps to nothing after the last (Sønderby et al. 2017)
    r1: weight of the gradient penalty on real images, gamma (Mescheder et al. 2018); 0: none
    normalization: D's layers: batch, spectral (Miyato et al. 2018) or none
    ema: decay of the moving average of G's weights that samples are drawn from; 0: of G itself
    loss: a name in `models.training.gan_losses.LOSSES`
    r2: weight of the gradient penalty on fakes, as r1 is on real images
    gradient_penalty: weight of Wasserstein's, lambda (Gulrajani et al. 2017); 0: none. It was
        published for a D without batch norm
    augment: kinds of `models.training.augmenting` separated by commas, for all that D sees; or none
    ada_target: of the sign statistic by which augmentation adapts; 0: every image is augmented
    ada_images: in how many images its probability may go from 0 to 1
    """

    lr_g: float = 4e-4
    lr_d: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    d_steps: int = 1
    g_steps: int = 1
    extra_g_steps: int = 0
    threshold: float = 0.0
    smoothing: float = 0.0
    instance_noise: float = 0.0
    r1: float = 0.0
    normalization: str = "batch"
    ema: float = 0.0
    batch_size: int = 128
    loss: str = added_field("non_saturating")
    r2: float = added_field(0.0)
    gradient_penalty: float = added_field(0.0)
    augment: str = added_field("none")
    ada_target: float = added_field(0.0)
    ada_images: int = added_field(500_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("batch_size", self.batch_size, 2, 65536)  # batch norm compares images
        for name in ("lr_g", "lr_d"):
            require(name, getattr(self, name), 0.0, 10.0)
        for name in ("beta1", "beta2", "ema"):
            require(name, getattr(self, name), 0.0, 0.99999)
        for name in ("d_steps", "g_steps"):
            require(name, getattr(self, name), 1, 1000)
        require("extra_g_steps", self.extra_g_steps, 0, 1000)
        require("threshold", self.threshold, -1e6, 1e6)
        require("smoothing", self.smoothing, 0.0, 0.5)
        require("instance_noise", self.instance_noise, 0.0, 10.0)
        for name in ("r1", "r2", "gradient_penalty"):
            require(name, getattr(self, name), 0.0, 1e6)
        require_one_of("normalization", self.normalization, NORMALIZATIONS)
        require_one_of("loss", self.loss, LOSSES)
        require("ada_target", self.ada_target, 0.0, 1.0)
        require("ada_images", self.ada_images, 1, 1_000_000_000)
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Raise `ConfigError` for values that mean nothing beside each other."""
        if self.smoothing and not self.adversarial_loss.smooths:
            raise ConfigError(
                f"smoothing={self.smoothing:g} means nothing to loss={self.loss!r}, which has no "
                "labels to smooth: set smoothing to 0"
            )
        unbound = self.normalization != "spectral" and not self.gradient_penalty
        if self.loss == "wasserstein" and unbound:
            raise ConfigError(
                "loss='wasserstein' grows without bounds unless D is held back: set "
                "gradient_penalty, such as 10 with normalization='none', or "
                "normalization='spectral'"
            )
        if self.ada_target and not read_policy(self.augment):
            raise ConfigError(
                f"ada_target={self.ada_target:g} adapts augment={self.augment!r}: name what is "
                "augmented, such as augment='colour,translation,cutout'"
            )
        read_policy(self.augment)

    @property
    def adversarial_loss(self) -> AdversarialLoss:
        """The losses of the two networks."""
        return LOSSES[self.loss]

    def make_augmentation(self) -> Augmentation | None:
        """Return what augments the images that D sees, or None."""
        if not read_policy(self.augment):
            return None
        return Augmentation(self.augment, target=self.ada_target, images=self.ada_images)

    @property
    def images_per_step(self) -> int:
        """A minibatch for each update of the discriminator."""
        return self.batch_size * self.d_steps

    @property
    def smallest_batch(self) -> int:
        """Batch norm compares images."""
        return 2

    @property
    def adaptive(self) -> bool:
        """True if the number of G's updates adapts."""
        return self.extra_g_steps > 0

    def noise_in(self, epoch: int, epochs: int) -> float:
        """Return the deviation of the instance noise in ``epoch`` (from 1) of ``epochs``."""
        return self.instance_noise * (1 - (epoch - 1) / epochs)

    def settled_in(self, epochs: int) -> int:
        return epochs if self.instance_noise else super().settled_in(epochs)

    def minibatch(self, images: int) -> int:
        """Return how many of a step's ``images`` each minibatch has. Raises `ConfigError` where
        they are too few."""
        size = images // self.d_steps
        if size < (least := self.smallest_batch):
            lower = [f"lower {name}" for name in ("d_steps", "pack") if getattr(self, name, 1) > 1]
            raise ConfigError(
                f"d_steps={self.d_steps} leaves {size} of {images} images to a minibatch, which "
                f"needs {least} or more: {', or '.join([*lower, 'raise batch_size'])}"
            )
        return size


class AdaptiveSteps:
    """The rule that decides how many updates of G come next.

    rule = AdaptiveSteps(config)
    for step in range(5):
        updates = rule.g_steps()
        ...
        rule.observe(loss_g, loss_d)     # tensors; nothing waits for them
    """

    def __init__(self, config: BalanceConfig) -> None:
        self.config = config
        self.seen: deque[Losses] = deque(maxlen=LAG)

    def reset(self) -> None:
        """Forget all losses: an epoch that followed from steps before it could not be resumed."""
        self.seen.clear()

    def g_steps(self) -> int:
        """Return the number of updates of G in the next step."""
        if not self.config.adaptive or len(self.seen) < LAG:
            return self.config.g_steps
        loss_g, loss_d = self.seen[0].on_host()
        losing = loss_g - loss_d > self.config.threshold
        return self.config.g_steps + losing * self.config.extra_g_steps

    def observe(self, loss_g: Tensor, loss_d: Tensor) -> None:
        """Take note of a step's losses."""
        if self.config.adaptive:
            self.seen.append(Losses(loss_g, loss_d))


class Losses:
    """The losses of G and D on their way to the host."""

    def __init__(self, loss_g: Tensor, loss_d: Tensor) -> None:
        losses = torch.stack([loss_g.detach(), loss_d.detach()])  # (2,)
        self.values, self.arrived = losses, None
        if losses.is_cuda:
            self.values = torch.empty(2, dtype=losses.dtype, pin_memory=True)
            self.values.copy_(losses, non_blocking=True)
            self.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.arrived.record()

    def on_host(self) -> tuple[float, float]:
        """Wait until both have arrived, and return them."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss_g, loss_d = self.values.tolist()
        return loss_g, loss_d
