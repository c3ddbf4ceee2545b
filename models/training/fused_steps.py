"""Several models of one shape, trained for an epoch as one program.

    key = fusing_key(model)                           # None: it is trained alone
    steps = FusedSteps(models[0], images, count=len(models))         # all have the same key
    metrics = steps.train(models, orders)             # each on its own order of the images

A small model leaves most of a GPU idle. K of them, whose shapes agree, are computed together: all
weights lie in one matrix, a row for a model, and the loss of a single model is mapped over its rows
(`torch.func.vmap`). Each keeps what is its own: weights, optimiser state, learning rate, weight
decay and the order of its images. So each ends an epoch with the values of a training alone, up to
rounding. Between two epochs every model is whole and by itself: it is measured, saved and drawn as
usual, and may be left out of the next epoch or replaced.

Nothing in a step depends on the host, so that a GPU records and replays it, images included: the
number of the step is counted on the device.

Shape legend: K models, P weights of one, N batch, C channels, H/W pixels, S steps of an epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy
from dataclasses import asdict
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils.parametrize import is_parametrized

from models.base import Metrics, Model
from models.data.images import Batch, Images
from models.errors import StopRequested
from models.kernels.product_convolution import product_convolutions
from models.training.graph_recording import (
    NotRecorded,
    may_record,
    noting_waits,
    record_graph,
    run_beside,
)
from models.training.stacked_optimizers import stack_optimizer, stacking_key

OWN = ("lr", "weight_decay", "schedule")  # fields of a configuration that each model has for itself
DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU)  # layers that draw random numbers
WARM = 3  # steps before a recording, which asks for some on a stream of its own
log = logging.getLogger("genstudy")


class HasLoss(Protocol):
    """A model whose `train_step` is one step down the gradient of one loss."""

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """Return what training minimises, and what it measures on the way."""


def may_fuse(family: type[Model]) -> bool:
    """Whether models of a family may be trained together, as it says of itself (`Model.fuses`)."""
    return bool(vars(family).get("fuses", False))


def fusing_key(model: Model) -> Hashable | None:
    """Return what must agree between models that are trained together; None: none may be.

    All that the model computes with must be its parameters, and one optimiser must have all of
    them. `Model.fuses` says the rest.
    """
    kind = type(model)
    if not may_fuse(kind) or list(model.optimizers) != ["all"]:
        return None
    optimizer, parameters = model.optimizers["all"], list(model.parameters())
    stacked = stacking_key(optimizer)
    owned = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    if stacked is None or owned != [id(parameter) for parameter in parameters]:
        return None
    if any(True for _ in model.buffers()) or not all(each.requires_grad for each in parameters):
        return None
    if any(isinstance(part, DRAWING) or is_parametrized(part) for part in model.modules()):
        return None
    if getattr(model.config, "noise", "none") != "none":
        return None  # what the models draw would be others' numbers
    if model.config.precision != "float32":
        return None  # their rounding would not be that of a training alone
    config = {name: value for name, value in asdict(model.config).items() if name not in OWN}
    shapes = tuple((tuple(each.shape), each.dtype, str(each.device)) for each in parameters)
    return f"{kind.__module__}:{kind.__qualname__}", repr(config), model.shape, shapes, stacked


class FusedSteps:
    """The training steps of ``count`` models at once.

    template: any model of their `fusing_key`; it is copied
    images: what all of them train on, on their device
    """

    def __init__(self, template: Model, images: Images, *, count: int) -> None:
        self.images, self.count = images, count
        self.size = min(template.images_per_step, len(images))
        self.template = _Loss(deepcopy(template).train())
        parameters = dict(self.template.named_parameters())
        self.names = list(parameters)
        self.shapes = [each.shape for each in parameters.values()]
        self.sizes = [each.numel() for each in parameters.values()]
        first = next(iter(parameters.values()))
        self.weights = first.detach().new_zeros(count, sum(self.sizes))  # (K, P)
        self.optimizer = stack_optimizer(template.optimizers["all"], self.weights)
        device = self.weights.device
        self.orders = torch.empty(0, dtype=torch.int64, device=device)  # (K, S, N)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)  # of the next step
        self.sums: Metrics = {}  # name -> (K,) float64
        self.graph: torch.cuda.CUDAGraph | None = None
        self.records = may_record(device) and template.static_step

    def train(
        self,
        models: Sequence[Model],
        orders: Sequence[Tensor],
        *,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> list[dict[str, float]]:
        """Train each model in place for an epoch; return their mean metrics.

        orders: of each model's images, (n,) int64; what does not fill a batch is left out
        interrupted: asked before every step. Raises `StopRequested`, with the models as they were.
        """
        steps = len(orders[0]) // self.size
        self._load(models, torch.stack([order[: steps * self.size] for order in orders]))
        with torch.enable_grad(), product_convolutions(self.template, count=self.count):
            step = self._prepare_step()
            for _ in range(steps):
                if interrupted():
                    raise StopRequested
                step()
        sums = [*self.sums.values()]
        values = torch.stack(sums).cpu() / steps if sums else None  # the epoch's one copy
        self._store(models)  # last: what fails before leaves the models as they were
        if values is None:
            return [{} for _ in models]
        return [dict(zip(self.sums, each, strict=True)) for each in values.t().tolist()]

    @torch.no_grad()
    def _load(self, models: Sequence[Model], orders: Tensor) -> None:
        """Take over all that the models have learned, and begin their epoch. orders: (K, S * N)"""
        rows = [[each.flatten() for each in model.parameters()] for model in models]
        torch.stack([torch.cat(row) for row in rows], out=self.weights)
        for k, model in enumerate(models):
            self.optimizer.load(k, model.optimizers["all"])
        orders = orders.view(self.count, -1, self.size)
        if self.orders.shape == orders.shape:
            self.orders.copy_(orders)  # a recorded step reads it
        else:
            self.orders, self.graph = orders.to(self.images.pixels.device, copy=True), None
        self._forget()

    def _forget(self) -> None:
        """Go back to the beginning of the epoch, with what is measured in it."""
        for total in (self.number, *self.sums.values()):
            total.zero_()

    @torch.no_grad()
    def _store(self, models: Sequence[Model]) -> None:
        """Give the models what they have learned; all memory for it is taken before the first."""
        for model in models:
            self.optimizer.reserve(model.optimizers["all"])
        for k, model in enumerate(models):
            parts = torch.split(self.weights[k], self.sizes)
            shaped = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
            torch._foreach_copy_(list(model.parameters()), shaped)
            self.optimizer.store(k, model.optimizers["all"])

    def _step(self) -> None:
        """Take one step of all models; nothing here waits for the host or depends on it."""
        parts = torch.split(self.weights, self.sizes, dim=1)
        leaves = [
            part.view(self.count, *shape).detach().requires_grad_()
            for part, shape in zip(parts, self.shapes, strict=True)
        ]
        losses, measured = vmap(self._measure)(
            dict(zip(self.names, leaves, strict=True)), self._batch()
        )
        slopes = torch.autograd.grad(losses.sum(), leaves)
        with torch.no_grad():
            self.optimizer.step(torch.cat([slope.flatten(1) for slope in slopes], dim=1))
            for name, value in measured.items():
                if name not in self.sums:
                    self.sums[name] = torch.zeros_like(value, dtype=torch.float64)
                self.sums[name] += value.detach()
            self.number += 1

    def _measure(self, parameters: dict[str, Tensor], images: Tensor) -> tuple[Tensor, Metrics]:
        """Return the loss and the metrics of one model."""
        found: tuple[Tensor, Metrics] = functional_call(self.template, parameters, (images,))
        return found

    def _batch(self) -> Tensor:
        """Return each model's images of this step: (K, N, C, H, W) in [0, 1]."""
        rows = self.orders.index_select(1, self.number).flatten()  # (K * N,)
        chosen = self.images.pixels.index_select(0, rows).to(torch.float32).div_(255)
        return chosen.to(self.weights.dtype).view(self.count, self.size, *chosen.shape[1:])

    def _prepare_step(self) -> Callable[[], None]:
        """Return the step, recorded where that is possible."""
        if self.records and self.graph is None:
            self._record()
        return self._step if self.graph is None else self.graph.replay

    def _record(self) -> None:
        """Record a step. What the steps before it change is put back."""
        device, state = self.weights.device, (self.weights, *self.optimizer.state)
        before = [each.clone() for each in state]
        for _ in range(min(WARM, self.orders.shape[1]) - 1):
            run_beside(device, self._step)
        with noting_waits() as waits:
            run_beside(device, self._step)
        for each, kept in zip(state, before, strict=True):
            each.copy_(kept)
        self._forget()
        try:
            if waits:
                raise NotRecorded(waits[0])
            self.graph = record_graph(device, self._step)
        except NotRecorded as error:
            self.records = False
            log.warning("fused steps cannot become a CUDA graph (%s): slower", error)


class _Loss(nn.Module):
    """The loss of a model as a module, whose parameters can be replaced for a call."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Metrics]:
        return cast("HasLoss", self.model).loss(Batch(images=images))
