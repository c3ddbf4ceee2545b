"""Fast convolutions on a CPU, where PyTorch's are slow: few channels, one thread.

    with fast_convolutions(model) as laid_out:
        model.train_step(laid_out(batch))

Inside, the model's `Conv2d` and `ConvTranspose2d` layers run the kernels of
`models.kernels.conv_kernels` where those fit; weights, gradients and results are PyTorch's up to
rounding. The model stays plain torch code and does not know of it; outside the block (export,
checkpoints) nothing changes.

Activations keep the batch innermost in memory (strides (1, HWN, WN, N) of a (N, C, H, W) tensor).
Elementwise operations keep such strides, so that no layer between converts anything. Pooling and
nearest-neighbour resizing would convert. They treat images and channels alike, and are given them
exchanged: memory then has PyTorch's own channels-last layout.

Shape legend: N batch, C channels, H/W pixels, P = H * W, K elements of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd import Function

from models.data.images import Batch
from models.kernels.conv_kernels import (
    GATHERED,
    REDUCED,
    blocks,
    gather_kernel,
    gathered_lanes,
    reduce_kernel,
)
from models.kernels.llvm import LANES

WIDEST = 16384  # input times output channels; PyTorch was measured as fast from 256 x 512 on

Layer = nn.Conv2d | nn.ConvTranspose2d
Pixels = tuple[int, int]
Integers = NDArray[np.int64]


@contextmanager
def fast_convolutions(model: nn.Module) -> Iterator[Callable[[Batch], Batch]]:
    """Run the fitting convolutions of ``model`` by the kernels, until the block ends.

    The block is given a function that lays out a batch as the first layer takes it.
    """
    layers = [layer for layer in model.modules() if _fits(layer)]
    between = [layer for layer in model.modules() if layers and _treats_channels_as_images(layer)]
    for layer in layers:
        vars(layer)["forward"] = MethodType(_forward_fast, layer)
    for layer in between:
        vars(layer)["forward"] = MethodType(_forward_exchanged, layer)
    try:
        yield _lay_out if layers else lambda batch: batch
    finally:
        for layer in (*layers, *between):
            del vars(layer)["forward"]


def _lay_out(batch: Batch) -> Batch:
    """Return ``batch`` with images as the kernels read them."""
    return replace(batch, images=batch_innermost(batch.images))


def batch_innermost(x: Tensor) -> Tensor:
    """Return (N, C, H, W) laid out as the kernels read it; it is copied only if needed."""
    if x.permute(1, 2, 3, 0).is_contiguous():
        return x
    flat = x.flatten(1).t().contiguous()  # (CHW, N): two dimensions transpose fastest
    return flat.t().view(x.shape)


def _fits(layer: nn.Module) -> bool:
    """Return True if the kernels know the layer, and its channels are few enough to be worth it."""
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return False
    return (
        type(layer).forward in (nn.Conv2d.forward, nn.ConvTranspose2d.forward)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and layer.in_channels * layer.out_channels <= WIDEST
    )


def _treats_channels_as_images(layer: nn.Module) -> bool:
    """Return True if the layer does the same to every channel of every image."""
    if isinstance(layer, nn.Upsample):
        return type(layer).forward is nn.Upsample.forward and layer.mode == "nearest"
    return type(layer).forward in (nn.MaxPool2d.forward, nn.AvgPool2d.forward)


def _forward_exchanged(layer: nn.Module, x: Tensor) -> Tensor:
    """Run a layer (N, C, H, W) -> (N, C, H', W') on (C, N, H, W)."""
    if not x.is_cpu or x.dim() != 4:
        usual: Tensor = type(layer).forward(layer, x)
        return usual
    exchanged: Tensor = type(layer).forward(layer, batch_innermost(x).transpose(0, 1))
    return exchanged.transpose(0, 1)


def _forward_fast(layer: Layer, x: Tensor) -> Tensor:
    """Run a convolution by the kernels, or as usual where they do not fit its input."""
    plain = x.is_cpu and x.dtype == _parameter_dtype(layer) == torch.float32 and x.dim() == 4
    if not plain or torch.get_num_threads() > 1 or torch.is_autocast_enabled("cpu"):
        usual: Tensor = type(layer).forward(layer, x)  # type: ignore[arg-type]
        return usual
    weight = layer.weight  # read once: a spectral norm goes one step further each time
    plan = plan_of(layer, (x.shape[2], x.shape[3]))
    order = (2, 3, 0, 1) if isinstance(layer, nn.ConvTranspose2d) else (2, 3, 1, 0)
    taps = weight.permute(order).flatten(0, 1).contiguous()  # (K, C_in, C_out)
    result: Tensor = _Convolve.apply(batch_innermost(x), taps, layer.bias, plan)
    return result


def _parameter_dtype(layer: Layer) -> torch.dtype:
    return next(layer.parameters()).dtype


def plan_of(layer: Layer, size: Pixels) -> Plan:
    """Return which pixels of the layer's input, ``size`` (H, W), feed which of its output."""
    kernel, stride = layer.kernel_size, layer.stride
    padding, dilation = layer.padding, layer.dilation
    assert not isinstance(padding, str)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    geometry = [tuple(pair) for pair in (kernel, stride, padding, dilation)]
    if isinstance(layer, nn.ConvTranspose2d):
        larger = [
            (size[i] - 1) * stride[i] - 2 * padding[i] + reach[i] + layer.output_padding[i]
            for i in (0, 1)
        ]
        return _make_plan((larger[0], larger[1]), size, *geometry).reverse
    smaller = [(size[i] + 2 * padding[i] - reach[i]) // stride[i] + 1 for i in (0, 1)]
    if min(smaller) < 1:
        raise ValueError(f"images of {size[0]}x{size[1]} are smaller than the {kernel} kernel")
    return _make_plan(size, (smaller[0], smaller[1]), *geometry)


@dataclass(frozen=True, eq=False)
class Plan:
    """The pairs of pixels that a convolution joins.

    Source ``sources[i]`` feeds ``targets[i]`` through the element ``taps[i]`` of the kernel; pixels
    are numbered row by row.
    """

    kernel: int  # K
    source: Pixels
    target: Pixels
    sources: Integers
    targets: Integers
    taps: Integers

    @cached_property
    def reverse(self) -> Plan:
        """The plan of the opposite direction: of the gradient, and of a transposed convolution."""
        reverse = Plan(self.kernel, self.target, self.source, self.targets, self.sources, self.taps)
        vars(reverse)["reverse"] = self
        return reverse

    @cached_property
    def by_target(self) -> tuple[Integers, Integers, Integers]:
        """(starts, sources, taps): the pairs in order of their target, cut by starts (P + 1,)."""
        order = np.argsort(self.targets, kind="stable")
        pixels = self.target[0] * self.target[1]
        starts = np.searchsorted(self.targets[order], np.arange(pixels + 1))
        return starts.astype(np.int64), self.sources[order], self.taps[order]

    @cached_property
    def by_tap(self) -> tuple[Integers, Integers, Integers, Integers]:
        """(sources, targets, edges, taps): the pairs in groups of one target row and one tap."""
        order = np.lexsort((self.taps, self.targets // self.target[1]))
        group = (self.targets // self.target[1] * self.kernel + self.taps)[order]
        begins = np.flatnonzero(np.diff(group, prepend=-1))
        edges = np.append(begins, len(group)).astype(np.int64)
        return self.sources[order], self.targets[order], edges, self.taps[order][begins]


@cache
def _make_plan(
    larger: Pixels,
    smaller: Pixels,
    kernel: Pixels,
    stride: Pixels,
    padding: Pixels,
    dilation: Pixels,
) -> Plan:
    """Return the plan of a convolution from ``larger`` to ``smaller``."""
    sources, targets, taps = [], [], []
    rows, columns = np.indices(smaller)
    for tap in range(kernel[0] * kernel[1]):
        down, right = divmod(tap, kernel[1])
        row = rows * stride[0] - padding[0] + down * dilation[0]
        column = columns * stride[1] - padding[1] + right * dilation[1]
        inside = (row >= 0) & (row < larger[0]) & (column >= 0) & (column < larger[1])
        sources.append((row * larger[1] + column)[inside])
        targets.append((rows * smaller[1] + columns)[inside])
        taps.append(np.full(inside.sum(), tap))
    found = (np.concatenate(part).astype(np.int64) for part in (sources, targets, taps))
    return Plan(kernel[0] * kernel[1], larger, smaller, *found)


class _Convolve(Function):
    """(N, C_in, H, W), (K, C_in, C_out), (C_out,) or None, plan -> (N, C_out, H', W').

    Input and output have the batch innermost. Gradients use `_Convolve` and `_Correlate` again, so
    that they can be differentiated themselves, for gradient penalties.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.plan = plan
        n, ci, co = x.shape[0], weight.shape[1], weight.shape[2]
        y = torch.empty(co, *plan.target, n)
        base = (torch.zeros(co) if bias is None else bias).contiguous()
        starts, sources, taps = (part.ctypes.data for part in plan.by_target)
        pixels = plan.target[0] * plan.target[1]
        x_step, y_step = plan.source[0] * plan.source[1] * n, pixels * n
        first = 0
        for size, count in blocks(co, GATHERED):
            gather_kernel(size, n % gathered_lanes(size) > 0)(
                x.data_ptr(),
                y.data_ptr() + 4 * first * y_step,
                weight.data_ptr() + 4 * first,
                base.data_ptr() + 4 * first,
                starts,
                sources,
                taps,
                *(count, pixels, ci, co, x_step, y_step, n),
            )
            first += size * count
        return y.permute(3, 0, 1, 2)

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = batch_innermost(grad)
        back = weight.transpose(1, 2).contiguous()  # (K, C_out, C_in)
        wanted = ctx.needs_input_grad
        return (
            _Convolve.apply(grad, back, None, ctx.plan.reverse) if wanted[0] else None,
            _Correlate.apply(x, grad, ctx.plan) if wanted[1] else None,
            grad.sum((0, 2, 3)) if wanted[2] else None,
            None,
        )


class _Correlate(Function):
    """The gradient of a convolution's weights, from its input x and the gradient of its output y.

    (N, C_in, H, W), (N, C_out, H', W'), plan -> (K, C_in, C_out)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.plan = plan
        n, ci, co = x.shape[0], x.shape[1], y.shape[1]
        lists = [part.ctypes.data for part in plan.by_tap]
        groups = len(plan.by_tap[-1])
        total = torch.zeros(plan.kernel, ci, co)
        x_step, y_step = x.shape[2] * x.shape[3] * n, y.shape[2] * y.shape[3] * n
        i = 0
        for ci_size, ci_count in blocks(ci, REDUCED):
            o = 0
            for co_size, co_count in blocks(co, REDUCED):
                reduce_kernel(ci_size, co_size, n % LANES > 0)(
                    x.data_ptr() + 4 * i * x_step,
                    y.data_ptr() + 4 * o * y_step,
                    total.data_ptr() + 4 * (i * co + o),
                    *lists,
                    *(groups, ci_count, co_count, ci, co, x_step, y_step, n),
                )
                o += co_size * co_count
            i += ci_size * ci_count
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, y = ctx.saved_tensors
        grad = grad.contiguous()
        back = grad.transpose(1, 2).contiguous()
        wanted = ctx.needs_input_grad
        return (
            _Convolve.apply(y, back, None, ctx.plan.reverse) if wanted[0] else None,
            _Convolve.apply(x, grad, None, ctx.plan) if wanted[1] else None,
            None,
        )
