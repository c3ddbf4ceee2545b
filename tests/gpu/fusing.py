"""Several trials whose shapes agree, trained as one program: a prototype.

    trials = FusedTrials(models, pixels, way=Grouped)      # K models of one shape, K rates
    trials.begin_epoch(orders)                             # (K, steps, N): each its own images
    for _ in range(steps):
        trials.step()                                      # or a replayed CUDA graph of it
    trials.weights[k]                                      # trial k alone, whatever the others do

All weights lie in one matrix, a row for a trial: a trial is put in, taken out or replaced by
writing its row. So do the moments of Adam, whose rates are a column. Nothing in a step depends on
the host, so that it can be recorded, images included: the step's number is counted on the device.

Four ways to compute the gradients of all trials:

    Vmapped     torch.func: one single model, mapped over rows of weights and of images
    Grouped     convolutions with groups=K over K*C channels, linear layers as batched products
    Multiplied  convolutions as batched products of windows, linear layers as batched products
    Branched    each trial alone, on streams of their own: a recorded graph runs them side by side

Shape legend: K trials, P weights of one, N batch, C channels, H/W pixels, S steps of an epoch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.optim import Optimizer

from models.cae import CAE

BETAS = (0.9, 0.999)
EPSILON = 1e-8
EVALUATED = 1024  # images at once
PARTS = 256  # products at once that fill a GPU
WARM = 3  # steps before a recording

Gradients = tuple[Tensor, Tensor]
"""Of all weights, (K, P), and each trial's loss, (K,)."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a parameter lies in a row of weights."""

    name: str
    shape: torch.Size
    first: int

    def of(self, rows: Tensor) -> Tensor:
        """(K, P) -> a view (K, *shape) of the parameter in each row."""
        return rows[:, self.first : self.first + prod(self.shape)].unflatten(1, self.shape)


def slots_of(model: nn.Module) -> tuple[Slot, ...]:
    """Return where each parameter of ``model`` lies in a row."""
    found, first = [], 0
    for name, parameter in model.named_parameters():
        found.append(Slot(name=name, shape=parameter.shape, first=first))
        first += parameter.numel()
    return tuple(found)


def row_of(model: nn.Module) -> Tensor:
    """Return all weights of ``model`` as a row (P,)."""
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Way(ABC):
    """How the gradients of all trials are computed from weights (K, P) and images (K, N, C, H, W).

    template: any of the trials' models; its weights are not used
    """

    def __init__(self, template: CAE, count: int) -> None:
        self.template, self.count = template, count
        self.slots = slots_of(template)

    @abstractmethod
    def gradients(self, weights: Tensor, images: Tensor) -> Gradients:
        """Return the gradients (K, P) and losses (K,)."""

    @abstractmethod
    def made(self, weights: Tensor, images: Tensor) -> Tensor:
        """Return what each trial makes of the same images (N, C, H, W): (K, N, C, H, W)."""

    def split(self, weights: Tensor) -> dict[str, Tensor]:
        """(K, P) -> each parameter (K, ...), by name."""
        return {slot.name: slot.of(weights) for slot in self.slots}


class Vmapped(Way):
    """One model, mapped over the rows."""

    def gradients(self, weights: Tensor, images: Tensor) -> Gradients:
        found, losses = vmap(grad_and_value(self._loss))(self.split(weights), images)
        rows = [found[slot.name].flatten(1) for slot in self.slots]
        return torch.cat(rows, dim=1), losses

    def made(self, weights: Tensor, images: Tensor) -> Tensor:
        return vmap(self._run, in_dims=(0, None))(self.split(weights), images)

    def _loss(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        return F.mse_loss(self._run(parameters, images), images)

    def _run(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        found: Tensor = functional_call(self.template, parameters, (images,))
        return found


class Grouped(Way):
    """The layers of all trials side by side, as groups of channels."""

    def gradients(self, weights: Tensor, images: Tensor) -> Gradients:
        leaves = {
            name: part.detach().requires_grad_() for name, part in self.split(weights).items()
        }
        losses = (self._both(leaves, images) - images).square().flatten(1).mean(1)  # (K,)
        found = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return torch.cat([part.flatten(1) for part in found], dim=1), losses.detach()

    def made(self, weights: Tensor, images: Tensor) -> Tensor:
        return self._both(self.split(weights), images.expand(self.count, *images.shape))

    def _both(self, parts: dict[str, Tensor], images: Tensor) -> Tensor:
        codes = self._run("encoder", self.template.encoder, parts, images)
        return self._run("decoder", self.template.decoder, parts, codes)

    def _run(self, name: str, layers: nn.Module, parts: dict[str, Tensor], x: Tensor) -> Tensor:
        """Run a sequence of layers on x (K, N, ...)."""
        assert isinstance(layers, nn.Sequential)
        if x.dim() == 5:
            x = _side_by_side(x)
        for number, layer in enumerate(layers):
            weight = parts.get(f"{name}.{number}.weight")
            bias = parts.get(f"{name}.{number}.bias")
            if isinstance(layer, nn.Flatten):
                x = _apart(x, self.count).flatten(2)  # (K, N, C * H * W)
            elif isinstance(layer, nn.Unflatten):
                x = _side_by_side(x.unflatten(2, layer.unflattened_size))
            elif weight is None or bias is None:
                x = layer(x)
            elif isinstance(layer, nn.Linear):
                x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
            else:
                x = self._convolve(layer, x, weight, bias)
        return _apart(x, self.count) if x.dim() == 4 else x

    def _convolve(self, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Run a convolution on x (N, K * C, H, W) with weights (K, ...) and biases (K, ...)."""
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        assert not isinstance(layer.padding, str)
        weight, bias = weight.flatten(0, 1), bias.flatten()
        if isinstance(layer, nn.ConvTranspose2d):
            output = layer.output_padding
            return F.conv_transpose2d(
                x, weight, bias, layer.stride, layer.padding, output, self.count, layer.dilation
            )
        return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, self.count)


class Multiplied(Grouped):
    """Convolutions as products: every window of an image is a row of a matrix.

    What sums over all windows, the gradient of a weight, would keep one part of the GPU busy for
    each trial alone. So a trial's windows are cut into `PARTS` / K products of their own.
    """

    def _convolve(self, layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        kernel, stride, padding = (
            int(pair[0]) for pair in (layer.kernel_size, layer.stride, layer.padding)
        )
        x = _apart(x, self.count)  # (K, N, C, H, W)
        if isinstance(layer, nn.Conv2d):
            x = F.pad(x, (padding,) * 4)
            windows = x.unfold(3, kernel, stride).unfold(4, kernel, stride)
            windows = windows.permute(0, 1, 3, 4, 2, 5, 6)  # (K, N, H', W', C, k, k)
            made = self._multiply(windows.flatten(4), weight.flatten(2).transpose(1, 2))
            made = made.permute(0, 1, 4, 2, 3)  # (K, N, C', H', W')
        else:
            (height, width), extra = x.shape[3:], layer.output_padding
            taps = self._multiply(x.permute(0, 1, 3, 4, 2), weight.flatten(2))
            taps = taps.unflatten(4, weight.shape[2:]).permute(0, 1, 4, 2, 3, 5, 6)
            larger = [(each - 1) * stride + kernel for each in (height, width)]
            larger = [each + more for each, more in zip(larger, extra, strict=True)]
            made = _fold(taps, larger, kernel, stride)
            made = made[..., padding : larger[0] - padding, padding : larger[1] - padding]
        return _side_by_side(made + bias[:, None, :, None, None])

    def _multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """(K, N, H, W, A) times (K, A, B) -> (K, N, H, W, B)."""
        parts = max(1, min(x.shape[1], PARTS // self.count))
        while x.shape[1] % parts:
            parts -= 1
        rows = x.reshape(self.count * parts, -1, x.shape[4])
        several = weight[:, None].expand(-1, parts, -1, -1).flatten(0, 1)
        return torch.bmm(rows, several).view(*x.shape[:4], weight.shape[2])


def _fold(taps: Tensor, size: Sequence[int], kernel: int, stride: int) -> Tensor:
    """Add up windows (K, N, C, H, W, k, k) where they overlap: (K, N, C, *size).

    It is the transpose of `Tensor.unfold` along both sides, which has a name in PyTorch.
    """
    head, height = list(taps.shape[:3]), taps.shape[3]
    back = torch.ops.aten.unfold_backward
    columns = back(taps, [*head, height, size[1], kernel], 4, kernel, stride)
    whole: Tensor = back(columns, [*head, size[0], size[1]], 3, kernel, stride)
    return whole


class Branched(Way):
    """Each trial alone. On a GPU each has a stream of its own, between two meetings of all."""

    def __init__(self, template: CAE, count: int) -> None:
        super().__init__(template, count)
        device = template.device
        self.streams = (
            [torch.cuda.Stream(device) for _ in range(count)] if device.type == "cuda" else []
        )

    def gradients(self, weights: Tensor, images: Tensor) -> Gradients:
        found = torch.empty_like(weights)
        losses = weights.new_empty(self.count)
        if not self.streams:
            for k in range(self.count):
                self._one(k, weights, images, found, losses)
            return found, losses
        here = torch.cuda.current_stream()
        for k, stream in enumerate(self.streams):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                self._one(k, weights, images, found, losses)
        for stream in self.streams:
            here.wait_stream(stream)
        return found, losses

    def made(self, weights: Tensor, images: Tensor) -> Tensor:
        rows = [self.split(weights[k : k + 1]) for k in range(self.count)]
        singles = [{name: part[0] for name, part in row.items()} for row in rows]
        return torch.stack([functional_call(self.template, one, (images,)) for one in singles])

    def _one(self, k: int, weights: Tensor, images: Tensor, found: Tensor, losses: Tensor) -> None:
        row = weights[k : k + 1]
        leaves = {slot.name: slot.of(row)[0].detach().requires_grad_() for slot in self.slots}
        made = functional_call(self.template, leaves, (images[k],))
        loss = F.mse_loss(made, images[k])
        parts = torch.autograd.grad(loss, list(leaves.values()))
        torch.cat([part.flatten() for part in parts], out=found[k])
        losses[k].copy_(loss.detach())


def _side_by_side(x: Tensor) -> Tensor:
    """(K, N, C, H, W) -> (N, K * C, H, W)."""
    return x.transpose(0, 1).flatten(1, 2)


def _apart(x: Tensor, count: int) -> Tensor:
    """(N, K * C, H, W) -> (K, N, C, H, W)."""
    return x.unflatten(1, (count, -1)).transpose(0, 1)


class StackedAdam:
    """Adam with L2, as torch's, on rows of weights (K, P), each with rates of its own.

    lr, weight_decay: (K, 1); taken: (K, 1) float64, the steps that each trial has taken
    """

    def __init__(self, weights: Tensor, lr: Tensor, weight_decay: Tensor) -> None:
        self.weights, self.lr, self.weight_decay = weights, lr, weight_decay
        self.first, self.second = torch.zeros_like(weights), torch.zeros_like(weights)
        self.taken = torch.zeros_like(lr, dtype=torch.float64)  # 1 - 0.999 would lose digits

    def step(self, gradients: Tensor) -> None:
        """Take a step down the gradients (K, P)."""
        gradients = torch.addcmul(gradients, self.weights, self.weight_decay)
        self.taken += 1
        self.first.lerp_(gradients, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
        rate = (self.lr / (1 - BETAS[0] ** self.taken)).to(gradients.dtype)  # (K, 1)
        root = (1 - BETAS[1] ** self.taken).sqrt().to(gradients.dtype)
        denominator = (self.second.sqrt() / root).add_(EPSILON)
        self.weights.sub_((self.first * rate).div_(denominator))

    @property
    def state(self) -> tuple[Tensor, ...]:
        """What a step changes."""
        return self.weights, self.first, self.second, self.taken

    def load(self, k: int, optimizer: Optimizer) -> None:
        """Take over a single trial's rates and moments into row ``k``."""
        (group,) = optimizer.param_groups
        self.lr[k], self.weight_decay[k] = group["lr"], group["weight_decay"]
        states = [optimizer.state.get(parameter, {}) for parameter in group["params"]]
        for name, rows in (("exp_avg", self.first), ("exp_avg_sq", self.second)):
            parts = [state[name].flatten() for state in states if name in state]
            rows[k] = torch.cat(parts) if parts else 0
        self.taken[k] = float(states[0].get("step", 0))

    def store(self, k: int, optimizer: Optimizer, slots: Sequence[Slot]) -> None:
        """Give row ``k``'s moments to a single trial's optimiser, for a checkpoint of its own."""
        (group,) = optimizer.param_groups
        for parameter, slot in zip(group["params"], slots, strict=True):
            optimizer.state[parameter] = {
                "step": self.taken[k, 0].float(),
                "exp_avg": slot.of(self.first[k : k + 1])[0].clone(),
                "exp_avg_sq": slot.of(self.second[k : k + 1])[0].clone(),
            }


class FusedTrials:
    """K trials in training, on images that lie on the device.

    models: K of one shape, whose weights and rates are taken over
    pixels: (M, C, H, W) uint8, all training images
    """

    def __init__(self, models: Sequence[CAE], pixels: Tensor, way: type[Way]) -> None:
        self.pixels = pixels
        self.weights = torch.stack([row_of(model) for model in models])  # (K, P)
        self.gradients = torch.zeros_like(self.weights)  # of the last step
        self.way = way(models[0], len(models))
        column = self.weights.new_zeros(len(models), 1)
        self.adam = StackedAdam(self.weights, column.clone(), column.clone())
        for k, model in enumerate(models):
            self.adam.load(k, model.optimizers["all"])
        self.orders = torch.empty(0, device=pixels.device)
        self.number = torch.zeros(1, dtype=torch.int64, device=pixels.device)
        self.losses = torch.zeros(len(models), dtype=torch.float64, device=pixels.device)

    def begin_epoch(self, orders: Tensor) -> None:
        """Take the order of an epoch's images, (K, S, N) int64; the recorded graph reads it."""
        if self.orders.shape == orders.shape:
            self.orders.copy_(orders)
        else:
            self.orders = orders.to(self.pixels.device, copy=True)
        self.number.zero_()
        self.losses.zero_()

    @torch.no_grad()
    def load(self, k: int, model: CAE) -> None:
        """Put a trial into row ``k``, wherever its training stands; the others do not notice."""
        self.weights[k] = row_of(model)
        self.adam.load(k, model.optimizers["all"])

    @torch.no_grad()
    def store(self, k: int, model: CAE) -> None:
        """Give a single model what row ``k`` has learned, to be judged, kept or exported."""
        for parameter, slot in zip(model.parameters(), self.way.slots, strict=True):
            parameter.copy_(slot.of(self.weights[k : k + 1])[0])
        self.adam.store(k, model.optimizers["all"], self.way.slots)

    def step(self) -> None:
        """Take one step of all trials; nothing here waits for the host or depends on it."""
        self.gradients, losses = self.way.gradients(self.weights, self._images())
        self.adam.step(self.gradients)
        self.losses += losses
        self.number += 1

    @torch.no_grad()
    def evaluate(self, pixels: Tensor) -> list[float]:
        """Return each trial's mean squared error on images (M, C, H, W) uint8."""
        total = torch.zeros(len(self.weights), dtype=torch.float64, device=pixels.device)
        for some in torch.split(pixels, EVALUATED):
            images = _as_floats(some, self.weights.dtype)
            errors = (self.way.made(self.weights, images) - images).square().flatten(1).mean(1)
            total += errors.double() * len(some)
        return (total / len(pixels)).tolist()

    def _images(self) -> Tensor:
        """Return each trial's batch of this step: (K, N, C, H, W) in [0, 1]."""
        rows = self.orders.index_select(1, self.number).flatten()  # (K * N,)
        chosen = _as_floats(self.pixels.index_select(0, rows), self.weights.dtype)
        return chosen.unflatten(0, (len(self.weights), -1))


def _as_floats(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 as numbers in [0, 1], rounded as `models.data.images.Images.batch` does."""
    return pixels.to(torch.float32).div_(255).to(dtype)


def record(trials: FusedTrials, steps: int = 1) -> torch.cuda.CUDAGraph:
    """Record ``steps`` steps of an epoch that has begun; the trials stay where they are.

    Recording asks for steps before it on a stream of its own. What they change is put back.
    """
    state = (*trials.adam.state, trials.number, trials.losses)
    before = [tensor.clone() for tensor in state]
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM):
            trials.step()
    torch.cuda.current_stream().wait_stream(aside)
    for tensor, kept in zip(state, before, strict=True):
        tensor.copy_(kept)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(steps):
            trials.step()
    return graph
