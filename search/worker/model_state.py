"""What a dry run finds in the parameters, buffers and optimisers of an own model.

misplaced_parameters(model)             # before the first step: words, or None
before = [value.clone() for value in state_of(model)]
idle_parameter(model, before)           # after some steps
changed_by_evaluation(model, before)    # after an evaluation
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.base import Model


def state_of(model: Model) -> list[Tensor]:
    """Return the model's parameters, and after them its buffers."""
    return [*model.parameters(), *model.buffers()]


def misplaced_parameters(model: Model) -> str | None:
    """Return which optimiser is out of place, or holds what is not the model's, in words."""
    known = {id(optimizer) for optimizer in model.optimizers.values()}
    for name, value in vars(model).items():
        if isinstance(value, Optimizer) and id(value) not in known:
            return (
                f"self.{name} is an optimiser outside self.optimizers: a checkpoint would lack it, "
                f"and no schedule would reach it; put it there, as self.optimizers[{name!r}]"
            )
    own = {id(parameter) for parameter in model.parameters()}
    for name, optimizer in model.optimizers.items():
        held = [each for group in optimizer.param_groups for each in group["params"]]
        if any(id(each) not in own for each in held):
            return (
                f"self.optimizers[{name!r}] holds a parameter that the model does not have: make "
                "the optimiser after the last layer"
            )
    return None


def idle_parameter(model: Model, before: Sequence[Tensor]) -> str | None:
    """Return which parameter no optimiser has and no step has changed, in words.

    before: the model's state before its first step, as `state_of` gives it
    """
    optimizers = model.optimizers.values()
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = {id(each) for group in groups for each in group["params"]}
    for (name, parameter), was in zip(model.named_parameters(), before, strict=False):
        is_idle = parameter.requires_grad and id(parameter) not in held
        if is_idle and torch.equal(parameter, was):
            return (
                f"{name} is in no optimiser, and a training step leaves it as it was: give it to "
                "one, or freeze it by requires_grad_(False)"
            )
    return None


def changed_by_evaluation(model: Model, before: Sequence[Tensor]) -> str | None:
    """Return what an evaluation has left otherwise than it was, in words.

    A model that is measured twice would have two values.

    before: the model's state before it, as `state_of` gives it
    """
    for name, module in model.named_modules():
        if module.training:
            where = f"self.{name}" if name else "the model"
            return (
                f"it puts {where} in training mode, in which dropout draws and batch norm measures "
                "the batch; leave out .train(): whoever calls it sets the mode"
            )
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    for name, value, was in zip(names, state_of(model), before, strict=False):
        if not torch.equal(value, was) and not value.isnan().any():  # NaN is equal to nothing
            return f"it changes {name}, so that a second evaluation has another value"
    return None
