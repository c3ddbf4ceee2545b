"""Optimisers of several models at once, each with rates and a state of its own.

    key = stacking_key(optimizer)                     # None: it cannot be stacked
    stacked = stack_optimizer(optimizer, weights)     # weights: (K, P), a row for each model
    stacked.load(k, optimizer)                        # rates and state of model k
    stacked.step(gradients)                           # (K, P)
    stacked.reserve(optimizer)                        # room for a state, which `store` writes to
    stacked.store(k, optimizer)                       # back, for a checkpoint of its own

A step computes what torch.optim's does, row by row. Learning rates, weight decays and the numbers
of steps are columns on the device: nothing of them is part of a recorded step.

Shape legend: K models, P weights of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Adamax, Optimizer

OWN = ("params", "lr", "initial_lr", "weight_decay")  # of each model
HOW = ("foreach", "fused", "capturable", "differentiable")  # say how a step is computed, not what
PLAIN = {"amsgrad": False, "maximize": False, "nesterov": False, "dampening": 0,
         "decoupled_weight_decay": False}  # fmt: skip


class StackedOptimizer(ABC):
    """An optimiser on rows of weights (K, P).

    group: what all models' optimisers agree on
    lr, weight_decay, taken: (K, 1) float64: rates, and the steps that each model has taken
    """

    moments: ClassVar[tuple[str, ...]]  # names in the state of torch's optimiser
    counts_steps: ClassVar[bool] = True  # and whether the number of steps stands there

    def __init__(self, weights: Tensor, group: dict[str, Any]) -> None:
        self.weights, self.group = weights, group
        column = torch.zeros(len(weights), 1, dtype=torch.float64, device=weights.device)
        self.lr, self.weight_decay, self.taken = column, column.clone(), column.clone()
        self.rows = {name: torch.zeros_like(weights) for name in self.moments}

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What a step changes, beside the weights."""
        return (*self.rows.values(), self.taken)

    def step(self, gradients: Tensor) -> None:
        """Take a step down the gradients (K, P); nothing waits for the host."""
        decay = self.weight_decay.to(gradients.dtype)
        self.taken += 1
        self.descend(torch.addcmul(gradients, self.weights, decay))

    @abstractmethod
    def descend(self, gradients: Tensor) -> None:
        """Change weights and moments by gradients that contain the weight decay."""

    def load(self, k: int, optimizer: Optimizer) -> None:
        """Take over a model's rates and state into row ``k``."""
        (group,) = optimizer.param_groups
        self.lr[k], self.weight_decay[k] = group["lr"], group["weight_decay"]
        states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        for name, rows in self.rows.items():
            parts = [state[name].flatten() for state in states if state.get(name) is not None]
            rows[k] = torch.cat(parts) if parts else 0
        self.taken[k] = states[0].get("step", 0)

    def reserve(self, optimizer: Optimizer) -> None:
        """Give a model's optimiser a state of zeros if it has none: it begins in the same way with
        both.

        If memory runs out it gets none, because torch's optimisers cannot go on from part of a
        state.
        """
        (group,) = optimizer.param_groups
        made: list[dict[str, Tensor]] = []
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            lacking = [name for name in self.rows if state.get(name) is None]
            made.append({name: torch.zeros_like(parameter) for name in lacking})
            if self.counts_steps and state.get("step") is None:
                made[-1]["step"] = self.taken.new_zeros((), dtype=torch.float32)
        for parameter, tensors in zip(group["params"], made, strict=True):
            optimizer.state[parameter].update(tensors)

    def store(self, k: int, optimizer: Optimizer) -> None:
        """Give a model's optimiser the state of row ``k``.

        Existing tensors are written to, so that a step that was recorded with them goes on.
        """
        (group,) = optimizer.param_groups
        parameters: Sequence[Tensor] = group["params"]
        sizes = [parameter.numel() for parameter in parameters]
        for name, rows in self.rows.items():
            for parameter, part in zip(parameters, torch.split(rows[k], sizes), strict=True):
                _write(optimizer.state[parameter], name, part.view_as(parameter))
        if self.counts_steps:
            for parameter in parameters:
                _write(optimizer.state[parameter], "step", self.taken[k, 0].float())


class StackedAdam(StackedOptimizer):
    """Adam with L2 (`torch.optim.Adam`)."""

    moments = ("exp_avg", "exp_avg_sq")

    def descend(self, gradients: Tensor) -> None:
        first, second = self.rows.values()
        beta, gamma = self.group["betas"]
        first.lerp_(gradients, 1 - beta)
        second.mul_(gamma).addcmul_(gradients, gradients, value=1 - gamma)
        rate = (self.lr / (1 - beta**self.taken)).to(gradients.dtype)  # (K, 1)
        root = (1 - gamma**self.taken).sqrt().to(gradients.dtype)
        denominator = (second.sqrt() / root).add_(self.group["eps"])
        self.weights.sub_((first * rate).div_(denominator))


class StackedAdamax(StackedOptimizer):
    """Adamax with L2 (`torch.optim.Adamax`)."""

    moments = ("exp_avg", "exp_inf")

    def descend(self, gradients: Tensor) -> None:
        first, largest = self.rows.values()
        beta, gamma = self.group["betas"]
        first.lerp_(gradients, 1 - beta)
        torch.maximum(largest.mul_(gamma), gradients.abs().add_(self.group["eps"]), out=largest)
        rate = (self.lr / (1 - beta**self.taken)).to(gradients.dtype)
        self.weights.sub_((first * rate).div_(largest))


class StackedSGD(StackedOptimizer):
    """SGD with momentum and L2 (`torch.optim.SGD`)."""

    moments = ("momentum_buffer",)
    counts_steps = False

    def descend(self, gradients: Tensor) -> None:
        (momentum,) = self.rows.values()
        momentum.mul_(self.group["momentum"]).add_(gradients)  # of zeros at first, as torch's
        self.weights.sub_(momentum * self.lr.to(gradients.dtype))


STACKED: dict[type[Optimizer], type[StackedOptimizer]] = {
    Adam: StackedAdam, Adamax: StackedAdamax, SGD: StackedSGD,
}  # fmt: skip


def stacking_key(optimizer: Optimizer) -> Hashable | None:
    """Return what the optimisers of several models must agree on; None: it cannot be stacked."""
    groups = optimizer.param_groups
    if type(optimizer) not in STACKED or len(groups) != 1:
        return None
    agreed = _agreed(groups[0])
    if any(agreed.get(name, value) != value for name, value in PLAIN.items()):
        return None
    if isinstance(optimizer, SGD) and not agreed["momentum"]:
        return None  # it keeps no moments
    if any(isinstance(value, Tensor) for value in groups[0].values()):
        return None
    return type(optimizer).__name__, tuple(sorted(agreed.items()))


def stack_optimizer(optimizer: Optimizer, weights: Tensor) -> StackedOptimizer:
    """Return an optimiser of ``weights`` (K, P) that does what ``optimizer`` does to one row.

    `stacking_key` has a key for it.
    """
    return STACKED[type(optimizer)](weights, _agreed(optimizer.param_groups[0]))


def _agreed(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in (*OWN, *HOW)}


def _write(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Write to the tensor in ``state``, or put a copy there."""
    if state.get(name) is None:
        state[name] = value.clone()
    else:
        state[name].copy_(value)
