"""Convolutions as products of matrices: what several models of one shape share well.

    with product_convolutions(model, count=16):
        losses = vmap(loss)(weights, images)         # 16 models of this shape at once

Every window of an image is a row of a matrix, so that a convolution is a product. Mapped over
several models (`torch.func.vmap`) it is a batched product, which keeps a GPU busy where a small
convolution of one model does not. Weights, gradients and results are PyTorch's up to rounding.

The gradient of a weight sums over all windows of a batch, and would keep one part of the GPU busy
for each model alone. So the windows are cut into `PARTS` / count products of their own.

Shape legend: N batch, C channels, H/W pixels, A numbers of a window, B outputs of one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

PARTS = 256  # products at once that fill a GPU

Layer = nn.Conv2d | nn.ConvTranspose2d
Pair = tuple[int, int]


@contextmanager
def product_convolutions(model: nn.Module, *, count: int) -> Iterator[None]:
    """Run the fitting convolutions of ``model`` as products, until the block ends.

    count: models of its shape that are computed at once
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Layer) and _fits(layer)]
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            vars(layer)["forward"] = partial(_convolve, layer, count)
        else:
            vars(layer)["forward"] = partial(_convolve_back, layer, count)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _fits(layer: Layer) -> bool:
    """Return True for a plain convolution; all others run as usual."""
    return (
        type(layer).forward in (nn.Conv2d.forward, nn.ConvTranspose2d.forward)
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and set(layer.dilation) == {1}
        and all(more < step for more, step in zip(layer.output_padding, layer.stride, strict=True))
    )


def _convolve(layer: nn.Conv2d, count: int, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C', H', W')."""
    (high, wide), (down, right) = layer.kernel_size, layer.stride
    upper, left = (int(each) for each in layer.padding)
    windows = F.pad(x, (left, left, upper, upper)).unfold(2, high, down).unfold(3, wide, right)
    rows = windows.permute(0, 2, 3, 1, 4, 5).flatten(3)  # (N, H', W', A)
    made = _multiply(rows, layer.weight.flatten(1).t(), count).permute(0, 3, 1, 2)
    return made if layer.bias is None else made + layer.bias[:, None, None]


def _convolve_back(layer: nn.ConvTranspose2d, count: int, x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C', H', W') by a transposed convolution."""
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    taps = _multiply(x.permute(0, 2, 3, 1), layer.weight.flatten(1), count)  # (N, H, W, B)
    taps = taps.view(*taps.shape[:3], *layer.weight.shape[1:]).permute(0, 3, 1, 2, 4, 5)
    larger = [
        (pixels - 1) * step + size + more
        for pixels, step, size, more in zip(
            x.shape[2:], stride, kernel, layer.output_padding, strict=True
        )
    ]
    whole: Tensor = _Fold.apply(taps, larger, kernel, stride)
    upper, left = (int(each) for each in layer.padding)
    made = whole[..., upper : larger[0] - upper, left : larger[1] - left]
    return made if layer.bias is None else made + layer.bias[:, None, None]


def _multiply(x: Tensor, weight: Tensor, count: int) -> Tensor:
    """(N, H, W, A) times (A, B) -> (N, H, W, B)."""
    parts = max(1, min(x.shape[0], PARTS // count))
    while x.shape[0] % parts:
        parts -= 1
    rows = x.reshape(parts, -1, x.shape[3])
    return torch.bmm(rows, weight.expand(parts, *weight.shape)).view(*x.shape[:3], -1)


def _pair(sizes: Sequence[int]) -> Pair:
    return sizes[0], sizes[1]


class _Fold(Function):
    """Windows (N, C, H, W, k, l), size, kernel, stride -> (N, C, *size), their sum where they
    overlap. It is the transpose of `Tensor.unfold` along both sides."""

    @staticmethod
    def forward(taps: Tensor, size: Sequence[int], kernel: Pair, stride: Pair) -> Tensor:
        count, channels, height = taps.shape[:3]
        back = torch.ops.aten.unfold_backward
        wide = [count, channels, height, size[1], kernel[0]]
        columns = back(taps, wide, 3, kernel[1], stride[1])  # (N, C, H, W', k)
        whole: Tensor = back(columns, [count, channels, *size], 2, kernel[0], stride[0])
        return whole

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, ctx.kernel, ctx.stride = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        columns = grad.unfold(2, ctx.kernel[0], ctx.stride[0])
        return columns.unfold(3, ctx.kernel[1], ctx.stride[1]), None, None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        taps: Tensor,
        size: Sequence[int],
        kernel: Pair,
        stride: Pair,
    ) -> tuple[Tensor, int]:
        """Fold the windows of all models (K, N, ...) as those of K * N images."""
        assert in_dims[0] is not None
        taps = taps.movedim(in_dims[0], 0)
        whole: Tensor = _Fold.apply(taps.flatten(0, 1), size, kernel, stride)
        return whole.view(*taps.shape[:2], *whole.shape[1:]), 0
