"""What lets a process of ours begin its work early.

    with quick_imports():
        import torch

PyTorch loads its compiler, a second of imports, as soon as an optimiser is made, only to tell
it that optimisers are not to be compiled. `defer_compiler` puts that off until something does
compile or export. Neither changes what is computed.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Without the garbage collector: modules make much, and none of it is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()  # nor need later collections look through it


def defer_compiler() -> None:
    """Let a stand-in answer what optimisers ask of `torch._dynamo`, until more is asked."""
    import torch

    if COMPILER not in sys.modules:
        stand_in = _StandIn(COMPILER)
        sys.modules[COMPILER] = stand_in
        torch._dynamo = stand_in


class _StandIn(ModuleType):
    """Replaced by the module itself at the first use of anything but the two functions below."""

    def graph_break(self, msg: str = "") -> None:
        """Outside compiled code there is no graph to break."""
        if loaded := _loaded():
            loaded.graph_break(msg)

    def disable(
        self, fn: Callable[..., Any], recursive: bool = True, **rest: Any
    ) -> Callable[..., Any]:
        """``fn``; kept from compilation once there is a compiler."""

        @wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            loaded = _loaded()
            return (loaded.disable(fn, recursive, **rest) if loaded else fn)(*args, **kwargs)

        return run

    def __getattr__(self, name: str) -> Any:
        import torch

        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
            torch._dynamo = importlib.import_module(COMPILER)
        return getattr(sys.modules[COMPILER], name)


def _loaded() -> ModuleType | None:
    found = sys.modules.get(COMPILER)
    return None if isinstance(found, _StandIn) else found
