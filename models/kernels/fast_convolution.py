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

Shape legend: N batch, C channels, H/W pixels, K elements of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
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
from models.kernels.conv_plan import Layer, Plan, plan_of
from models.kernels.llvm import LANES

WIDEST = 16384  # input times output channels; PyTorch was measured as fast from 256 x 512 on


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
    """Return ``batch`` with images as the kernels read them; a GPU has kernels of its own."""
    return replace(batch, images=batch_innermost(batch.images)) if batch.images.is_cpu else batch


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
