"""Which pixel of a convolution's input feeds which pixel of its output, as lists.

Strides, paddings, dilations and transposed convolutions differ in these lists alone.

Shape legend: H/W pixels, P = H * W, K elements of the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

Layer = nn.Conv2d | nn.ConvTranspose2d
Pixels = tuple[int, int]
Integers = NDArray[np.int64]


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
