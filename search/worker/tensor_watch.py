"""Watches the operations of a model: where tensors broadcast by mistake, where numbers break.

    with BroadcastWatch(2) as watch:         # images in the batch
        model.evaluate(batch)
    watch.found                              # place -> the two shapes and what they become

    with FiniteWatch() as watch:
        model.train_step(batch)
    watch.nan                                # the place of the first result that is NaN

A reconstruction (N, 1, 28, 28) minus images (N, 28, 28) is (N, N, 28, 28): PyTorch compares every
image with every other, and training goes on with a loss that means nothing.

Shape legend: N batch.
"""

from __future__ import annotations

import math
import re
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from search.setup.mistakes import innermost

aten = torch.ops.aten
PAIRWISE = (aten.sub.Tensor, aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor)
SIZES = re.compile(
    r"target size \(torch.Size\(\[(.*?)\]\)\).* input size \(torch.Size\(\[(.*?)\]\)"
)

Shape = tuple[int, ...]


class BroadcastWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds pairs of tensors, both of ``count`` images, that broadcast to images times images.

    found: place in the user's code -> the shapes of the two, and what they become
    """

    def __init__(self, count: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = count
        self.found: dict[str, tuple[Shape, Shape, Shape]] = {}

    def __enter__(self) -> Self:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("always")
        warnings.showwarning = self._hear_warning  # type: ignore[assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._warnings.__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in PAIRWISE and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
            self._look_at(tuple(args[0].shape), tuple(args[1].shape))
        return func(*args, **(kwargs or {}))

    def _hear_warning(self, message: Warning | str, *_: Any) -> None:
        """Hear PyTorch's own warning, of losses that broadcast before they subtract."""
        if sizes := SIZES.search(str(message)):
            target, given = (tuple(int(n) for n in size.split(",")) for size in sizes.groups())
            self._look_at(given, target)

    def _look_at(self, one: Shape, other: Shape) -> None:
        if not one or not other or len(one) == len(other) or {one[0], other[0]} != {self.count}:
            return
        try:
            both = tuple(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]
        except RuntimeError:
            return
        place = users_place()
        if place is not None and math.prod(both) > max(math.prod(one), math.prod(other)):
            self.found.setdefault(place, (one, other, both))


class FiniteWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Finds the first operation whose result is NaN, and the first one whose result is infinite.

    nan, infinite: their places in the user's code; None: there is none
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nan: str | None = None
        self.infinite: str | None = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        is_written = not str(func).startswith("aten.empty")  # else it is memory as it was
        if isinstance(result, Tensor) and result.is_floating_point() and is_written:
            self._look_at(result)
        return result

    def _look_at(self, result: Tensor) -> None:
        if self.nan is None and bool(result.isnan().any()):
            self.nan = users_place()
        elif self.infinite is None and bool(result.isinf().any()):
            self.infinite = users_place()


def users_place() -> str | None:
    """Return ``file, line 7`` of the user's code that is running; None: it is not the user's."""
    frames: list[tuple[str, int]] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.insert(0, (frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return innermost(frames)


def place_of(function: Callable[..., Any]) -> str | None:
    """Return ``file, line 7`` where a function of the user begins; None: it is not the user's."""
    code = getattr(function, "__code__", None)
    return None if code is None else innermost([(code.co_filename, code.co_firstlineno)])
