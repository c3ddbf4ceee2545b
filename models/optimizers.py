"""Optimisers by name, and how their learning rate goes over the epochs of a training.

    constant       the configuration's rate in every epoch
    cosine         a third of it in the first epoch; then it falls along half a cosine from the
                   configuration's rate to a hundredth in the last epoch (Loshchilov and Hutter
                   2017)
    cosine_decay   the same without the smaller first epoch. A network without norms may not stand
                   the step up from it: the residual VAE forgot its codes in epoch 2

A rate is a function of (epoch, epochs) alone, so that a training that was interrupted goes on
with the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, Adam, Adamax, Optimizer

from models.errors import ConfigError, unknown_name

WARM_UP = 1 / 3  # of the rate, in the first epoch: moments and statistics are not settled yet
LAST = 0.01  # of the rate, in the last epoch


def constant(epoch: int, epochs: int) -> float:
    """Return the factor of the rate in ``epoch`` (from 1) of ``epochs``."""
    return 1.0


def cosine(epoch: int, epochs: int) -> float:
    """Return the factor of the rate in ``epoch`` (from 1) of ``epochs``."""
    if epoch == 1 and epochs > 2:
        return WARM_UP
    return cosine_decay(epoch, epochs)


def cosine_decay(epoch: int, epochs: int) -> float:
    """Return the factor of the rate in ``epoch`` (from 1) of ``epochs``."""
    done = (epoch - 1) / max(epochs - 1, 1)  # 0 in the first epoch, 1 in the last
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "constant": constant,
    "cosine": cosine,
    "cosine_decay": cosine_decay,
}


def set_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Give every parameter group ``factor`` times the rate that it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def make_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Make Adam, Adamax, or SGD with momentum; ``weight_decay`` is L2 in all (not decoupled).

    momentum: only SGD takes it; betas: only Adam and Adamax take them
    """
    parameters = list(parameters)
    # one pass over each tensor instead of a dozen; not offered for tensors without data
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if name == "adam":
        return Adam(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
    if name == "sgd":
        return SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=fused)
    if name == "adamax":
        return Adamax(parameters, lr=lr, betas=betas, weight_decay=weight_decay)
    raise ConfigError(unknown_name("optimizer", name, ("adam", "sgd", "adamax")))
