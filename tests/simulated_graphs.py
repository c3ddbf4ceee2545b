"""CUDA graphs on a CPU, for tests: what a recording keeps and forgets, without a GPU.

    simulate_graphs(monkeypatch)
    for epoch in fit(model, images, epochs=3, seed=0): ...      # records and replays, as on a GPU

A recorded graph is the list of PyTorch's operations that a step has called, backwards included,
each with its own tensors and with the numbers that it was given on the host. Replaying calls them
again and writes into the tensors of the recording. So whatever a step decides, counts or makes anew
on the host is part of a graph here too. An operation for which the host would wait is refused, as
CUDA refuses it. Recording changes no tensor.

One thing is not seen here: a number that a model keeps as a tensor of the CPU beside a GPU. All
tensors are of the CPU, so that it is replayed as the others are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.kernels import fast_convolution
from models.training import graph_recording

if TYPE_CHECKING:
    import pytest

WAITING = {
    "_local_scalar_dense", "equal", "is_nonzero", "lift_fresh", "masked_select", "nonzero",
}  # fmt: skip
"""Operations for which the host waits; ``lift_fresh`` takes numbers from the host."""

CAPTURABLE = ("torch.optim.adam", "torch.optim.adamax", "torch.optim.sgd", "torch.optim.optimizer")


class SimulatedGraph:
    """The operations of a step, with their tensors."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def replay(self) -> None:
        with torch.no_grad():
            for operation, given, named, made in self.calls:
                again = operation(*given, **named)
                for old, new in zip(tree_leaves(made), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Recorder(TorchDispatchMode):
    """Adds every operation to ``graph``; what its tensors held before can be put back."""

    def __init__(self, graph: SimulatedGraph) -> None:
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # storage -> (tensor, its values)
        self.made: set[int] = set()  # storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        if waits(func, args):
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}\nmore")
        for tensor in tensors_of((args, kwargs)):
            where = tensor.untyped_storage().data_ptr()
            if where not in self.made and where not in self.before:
                whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                self.before[where] = whole, whole.clone()
        made = func(*args, **kwargs)
        self.made |= {each.untyped_storage().data_ptr() for each in tensors_of(made)}
        self.made -= self.before.keys()
        self.graph.calls.append((func, args, kwargs, made))
        return made

    def put_back(self) -> None:
        with torch.no_grad():
            for tensor, values in self.before.values():
                tensor.copy_(values)


class Watcher(TorchDispatchMode):
    """Warns as PyTorch does of operations for which the host waits."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if waits(func, args):
            warnings.warn(graph_recording.WAITS, stacklevel=4)
        return func(*args, **(kwargs or {}))


def waits(operation: Any, given: Any) -> bool:
    """Return True if the host waits for the result of an operation, or the operation for it."""
    name = operation.overloadpacket.__name__
    masks = any(each.dtype == torch.bool for each in tensors_of(given[1:]))
    return name in WAITING or (name in ("index", "index_put", "index_put_") and masks)


def tensors_of(values: object) -> list[Tensor]:
    return [each for each in tree_leaves(values) if isinstance(each, Tensor)]


@contextmanager
def record(graph: SimulatedGraph, **named: object) -> Iterator[None]:
    """Stand for `torch.cuda.graph`."""
    numbers, recorder = torch.get_rng_state(), Recorder(graph)
    try:
        with recorder:
            yield
    finally:
        recorder.put_back()
        torch.set_rng_state(numbers)


@contextmanager
def simulated_graphs() -> Iterator[list[SimulatedGraph]]:
    """Let CUDA graphs be recorded on the CPU inside the block."""
    import pytest  # a machine with a GPU may lack it

    with pytest.MonkeyPatch.context() as monkeypatch:
        yield simulate_graphs(monkeypatch)


def simulate_graphs(monkeypatch: pytest.MonkeyPatch) -> list[SimulatedGraph]:
    """Let CUDA graphs be recorded on the CPU; returns a list of those that will be."""
    graphs: list[SimulatedGraph] = []
    watching: list[Watcher] = []

    def make_graph() -> SimulatedGraph:
        graphs.append(SimulatedGraph())
        return graphs[-1]

    def watch(mode: str | int) -> None:
        if mode == "warn":
            watching.append(Watcher())
            watching[-1].__enter__()
        elif watching:
            watching.pop().__exit__(None, None, None)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    generator = SimpleNamespace(graphsafe_set_state=lambda other: None, clone_state=lambda: None)
    for name, stand_in in {
        "CUDAGraph": make_graph,
        "graph": record,
        "graph_pool_handle": lambda: (0, 1),
        "current_stream": lambda device=None: stream,
        "current_device": lambda: 0,
        "stream": _no_stream,
        "set_stream": lambda stream: None,
        "default_generators": (generator,),
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": watch,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(graph_recording, "recording_stream", lambda device: stream)
    monkeypatch.setattr(graph_recording, "RECORDED_ON", ("cuda", "cpu"))
    monkeypatch.setattr(fast_convolution, "_fits", lambda layer: False)  # kernels of a CPU
    for module in CAPTURABLE:  # PyTorch believes only GPUs that their optimisers can be recorded
        monkeypatch.setattr(
            import_module(module), "_get_capturable_supported_devices", _every_device, raising=False
        )
    return graphs


def _every_device(*given: object, **named: object) -> list[str]:
    return ["cpu"]


def _no_stream(stream: object) -> AbstractContextManager[None]:
    return nullcontext()
