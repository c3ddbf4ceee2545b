"""How the learning rate goes over the epochs of a training.

    constant    the configuration's, all the time
    cosine      a first epoch at a third, then the configuration's, falling along half a cosine
                (Loshchilov and Hutter 2017) to a hundredth in the last epoch

A rate is a function of (epoch, epochs) alone, so that a training that was interrupted goes on
with the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from torch.optim import Optimizer

WARM_UP = 1 / 3  # of the rate, in the first epoch: moments and statistics are not settled yet
LAST = 0.01  # of the rate, in the last epoch


def constant(epoch: int, epochs: int) -> float:
    return 1.0


def cosine(epoch: int, epochs: int) -> float:
    if epoch == 1 and epochs > 2:
        return WARM_UP
    done = (epoch - 1) / max(epochs - 1, 1)  # 0 in the first epoch, 1 in the last
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * done)) / 2


SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": constant, "cosine": cosine}


def set_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Give every parameter group ``factor`` times the rate that it was made with."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
