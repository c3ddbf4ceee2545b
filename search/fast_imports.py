"""Faster imports, so that a process begins its work sooner.

    with quick_imports():
        import torch

PyTorch loads its compiler, which takes a second, as soon as an optimiser is made, only to tell it
that optimisers are not compiled. `defer_compiler` delays that until something compiles or exports.
Neither function changes what is computed.
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
    """Switch the garbage collector off: an import makes many objects, and none is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()  # later collections need not look through these objects either


def defer_compiler() -> None:
    """Put a stand-in in the place of `torch._dynamo` that answers what optimisers ask of it."""
    import torch

    if COMPILER not in sys.modules:
        stand_in = _StandIn(COMPILER)
        sys.modules[COMPILER] = stand_in
        torch._dynamo = stand_in


class _StandIn(ModuleType):
    """Answers for two functions of `torch._dynamo`; any other use loads the module itself."""

    def graph_break(self, msg: str = "") -> None:
        """Do nothing without the compiler: outside compiled code there is no graph to break."""
        if loaded := _loaded_compiler():
            loaded.graph_break(msg)

    def disable(
        self, fn: Callable[..., Any], recursive: bool = True, **rest: Any
    ) -> Callable[..., Any]:
        """Return ``fn``, which is kept from compilation once the compiler is loaded."""

        @wraps(fn)
        def run(*args: Any, **kwargs: Any) -> Any:
            loaded = _loaded_compiler()
            return (loaded.disable(fn, recursive, **rest) if loaded else fn)(*args, **kwargs)

        return run

    def __getattr__(self, name: str) -> Any:
        import torch

        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
            torch._dynamo = importlib.import_module(COMPILER)
        return getattr(sys.modules[COMPILER], name)


def _loaded_compiler() -> ModuleType | None:
    """Return the real `torch._dynamo`; None while it is not loaded."""
    found = sys.modules.get(COMPILER)
    return None if isinstance(found, _StandIn) else found
