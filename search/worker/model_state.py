"""What a dry run finds in the parameters, buffers and optimisers of an own model.

misplaced_parameters(model)             # before the first step: words, or None
before = [value.clone() for value in state_of(model)]
idle_parameter(model, before)           # after some steps
was = EvaluatedState.of(model)
was.difference_from(model)              # after an evaluation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from models.base import Model


def state_of(model: Model) -> list[Tensor]:
    """Return the model's parameters, and after them its buffers."""
    return [value for _, value in _named_state(model)]


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


@dataclass(frozen=True, kw_only=True)
class EvaluatedState:
    """What an evaluation has to leave as it is: a model that is measured twice has one value.

    modes: whether each module is in training mode, by name; one may be so on purpose
    values: parameters and buffers, by name
    """

    modes: Mapping[str, bool]
    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Model) -> EvaluatedState:
        """Return copies."""
        return cls(
            modes={name: module.training for name, module in model.named_modules()},
            values={name: value.clone() for name, value in _named_state(model)},
        )

    def difference_from(self, model: Model) -> str | None:
        """Return what the model has otherwise now, in words."""
        for name, module in model.named_modules():
            if module.training and not self.modes.get(name, True):
                where = f"self.{name}" if name else "the model"
                return (
                    f"it puts {where} in training mode, in which dropout draws and batch norm "
                    "measures the batch; leave out .train(): whoever calls it sets the mode "
                    "(F.dropout(x, training=True) draws in any)"
                )
        for name, value in _named_state(model):
            was = self.values.get(name, value)
            if not torch.equal(value, was) and not value.isnan().any():  # NaN is equal to nothing
                return f"it changes {name}, so that a second evaluation has another value"
        return None


def _named_state(model: Model) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]
