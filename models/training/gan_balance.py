"""Which of a GAN's two networks learns how fast, and how often: what there is to tune in it.

A training step updates the discriminator D ``d_steps`` times, each time on a minibatch of its
own (Goodfellow et al. 2014, algorithm 1), and then the generator G ``g_steps`` times, each time
on noise of its own. Both numbers may be 1: 1:1 is DCGAN, 4:1 updates G once every four of D.

The adaptive rule gives G ``extra_g_steps`` more while it loses: while its loss exceeds D's by
more than ``threshold``. What it looks at are the losses of the step before last. They have been
copied to the host while the last step ran, so that the host goes ahead of the device and waits
for nothing; that they are two steps old on a CPU as well makes all devices decide alike.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from models.base import ModelConfig
from models.errors import ConfigError, require, require_one_of

NORMALIZATIONS = ("batch", "spectral", "none")
LAG = 2  # steps between a loss and what follows from it


@dataclass(frozen=True, kw_only=True)
class BalanceConfig(ModelConfig):
    """Defaults are those with which the reported DCGAN gave readable faces.

    lr_g, lr_d: learning rates of G and D (Adam); beta1, beta2: its moments' decays
    d_steps, g_steps: updates in a training step, see above
    extra_g_steps: of the adaptive rule, 0: never; threshold: of loss_g - loss_d
    smoothing: real images count as 1 - smoothing, fakes as 0 (Salimans et al. 2016)
    instance_noise: standard deviation of the noise on D's images, which lie in [-1, 1], in the
        first epoch; falls in equal steps to nothing after the last (Sønderby et al. 2017)
    r1: weight of the gradient penalty on real images, gamma (Mescheder et al. 2018); 0: none
    normalization: of D: batch, spectral (Miyato et al. 2018) or none
    ema: decay of the weights' moving average that samples are drawn from; 0: from G itself
    """

    lr_g: float = 4e-4
    lr_d: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    d_steps: int = 1
    g_steps: int = 1
    extra_g_steps: int = 0
    threshold: float = 1.0
    smoothing: float = 0.0
    instance_noise: float = 0.0
    r1: float = 0.0
    normalization: str = "batch"
    ema: float = 0.0
    batch_size: int = 128

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
        require("r1", self.r1, 0.0, 1e6)
        require_one_of("normalization", self.normalization, NORMALIZATIONS)

    @property
    def adaptive(self) -> bool:
        return self.extra_g_steps > 0

    def noise_in(self, epoch: int, epochs: int) -> float:
        """Standard deviation of the instance noise in ``epoch`` (from 1) of ``epochs``."""
        return self.instance_noise * (1 - (epoch - 1) / epochs)

    def minibatch(self, images: int) -> int:
        """Images in each of a step's minibatches, of all its ``images``. Raises `ConfigError`."""
        size = images // self.d_steps
        if size < 2:
            raise ConfigError(
                f"d_steps={self.d_steps} leaves {size} of {images} images to a minibatch, which "
                "needs 2 or more: lower d_steps"
            )
        return size


class AdaptiveSteps:
    """How many updates of G come next.

    rule = Rule(config)
    for step in range(5):
        turns = rule.g_steps()
        ...
        rule.saw(loss_g, loss_d)     # tensors; nothing waits for them
    """

    def __init__(self, config: BalanceConfig) -> None:
        self.config = config
        self.seen: deque[Losses] = deque(maxlen=LAG)

    def reset(self) -> None:
        """An epoch follows from no step before it, or it could not be resumed."""
        self.seen.clear()

    def g_steps(self) -> int:
        if not self.config.adaptive or len(self.seen) < LAG:
            return self.config.g_steps
        loss_g, loss_d = self.seen[0].on_host()
        losing = loss_g - loss_d > self.config.threshold
        return self.config.g_steps + losing * self.config.extra_g_steps

    def observe(self, loss_g: Tensor, loss_d: Tensor) -> None:
        if self.config.adaptive:
            self.seen.append(Losses(loss_g, loss_d))


class Losses:
    """Of G and D, on their way to the host."""

    def __init__(self, loss_g: Tensor, loss_d: Tensor) -> None:
        both = torch.stack([loss_g.detach(), loss_d.detach()])  # (2,)
        self.values, self.arrived = both, None
        if both.is_cuda:
            self.values = torch.empty(2, dtype=both.dtype, pin_memory=True)
            self.values.copy_(both, non_blocking=True)
            self.arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.arrived.record()

    def on_host(self) -> tuple[float, float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        loss_g, loss_d = self.values.tolist()
        return loss_g, loss_d
