"""Whether a training step does the same each time, as it must to become a CUDA graph.

    trace = StepTrace(batch)
    with trace:
        model.train_step(batch)
    reason = trace.difference_from(earlier)      # None: both steps did the same

A graph keeps the operations of one step, the numbers that they got from the host, and the tensors
that they read. A step that updates G every fifth time, or whose weight of a loss grows with a
counter of the host, or that gives ``self.average`` a new tensor, would go wrong without a word. So
some steps are compared before one of them is recorded.

Shape legend: N batch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.data.images import Batch

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.layout, torch.memory_format)


class Call(NamedTuple):
    """One operation of PyTorch.

    given: what it got from the host, as text
    shapes: of its tensors; outside: where those lie in memory that the step has not made itself
    """

    name: str
    given: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    outside: tuple[int, ...]


class StepTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations of a step, backwards included, while it is a context.

    batch: of the step; its images lie elsewhere each time
    """

    supports_higher_order_operators = True

    def __init__(self, batch: Batch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[Call] = []
        given = (batch.images, batch.labels, batch.attributes)
        self._own = {_place(each) for each in given if each is not None}
        self._is_on_host = batch.images.is_cpu

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        named = kwargs or {}
        leaves = tree_leaves((args, named))
        found = [each for each in leaves if isinstance(each, Tensor)]
        tensors = [each for each in found if not self._is_number(each)]
        given = [each for each in leaves if isinstance(each, PLAIN)]
        given += [each.item() for each in found if self._is_number(each)]
        places = [_place(each) for each in tensors]
        self.calls.append(
            Call(
                name=str(func),
                given=tuple(repr(each) for each in given),
                shapes=tuple(tuple(each.shape) for each in tensors),
                outside=tuple(place for place in places if place not in self._own),
            )
        )
        made = func(*args, **named)
        before = set(places)
        for each in tree_leaves(made):
            if isinstance(each, Tensor) and (place := _place(each)) not in before:
                self._own.add(place)
        return made

    def _is_number(self, tensor: Tensor) -> bool:
        """Return whether operations of a GPU take the tensor as a number of the host."""
        return not self._is_on_host and tensor.is_cpu and tensor.dim() == 0

    def difference_from(self, earlier: StepTrace) -> str | None:
        """Return what this step does otherwise than an earlier one did, in words, or None."""
        for call, before in zip(self.calls, earlier.calls, strict=False):
            if call.name != before.name:
                return f"it calls {before.name}, and another time {call.name}"
            if call.given != before.given:
                pairs = zip(before.given, call.given, strict=False)
                was, now = next((pair for pair in pairs if pair[0] != pair[1]), ("", ""))
                return f"{call.name} gets {was}, and another time {now}"
            if call.shapes != before.shapes:
                return f"{call.name} gets {before.shapes}, and another time {call.shapes}"
            if call.outside != before.outside:
                return f"{call.name} reads a tensor that is another one each time"
        if len(self.calls) != len(earlier.calls):
            return f"it calls {len(earlier.calls)} operations, and another time {len(self.calls)}"
        return None


def _place(tensor: Tensor) -> int:
    """Return where a tensor's memory begins; of one without memory of its own, which one it is."""
    try:
        return tensor.untyped_storage().data_ptr()
    except NotImplementedError:  # sparse
        return id(tensor)
