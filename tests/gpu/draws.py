"""The same random numbers on every device and in every precision.

    with SameDraws(seed=3):
        model.train_step(batch)      # draws the numbers that a CPU would draw in float64

Generators of a CPU and of a GPU draw other numbers for the same seed. To compare what both compute,
each operation that draws is replaced: its numbers are drawn on the CPU in float64, one after the
other, and then take the device and the precision that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class SameDraws(TorchDispatchMode):
    """Replaces draws from global generators inside its block; ``count`` of them so far."""

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        draw = DRAWS.get(func.overloadpacket.__name__)
        own = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)]
        if draw is None or own:
            return func(*args, **kwargs)
        self.count += 1
        return draw(self, func, args, kwargs)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64)


def _made(draws: SameDraws, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Replace rand and randn, which make a tensor of a size."""
    drawn = _of_name(draws, func)(args[0])
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    return drawn.to(device=kwargs.get("device") or "cpu", dtype=dtype)


def _made_like(draws: SameDraws, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Replace rand_like and randn_like. The numbers lie in memory as those of the example do."""
    like = args[0]
    return torch.empty_like(like).copy_(_of_name(draws, func)(like.shape))


def _whole(draws: SameDraws, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Replace randint."""
    low, high, size = args if len(args) == 3 else (0, *args)
    drawn = (draws.uniform(size) * (high - low)).floor() + low
    dtype = kwargs.get("dtype") or torch.int64
    return drawn.to(device=kwargs.get("device") or "cpu", dtype=dtype)


def _filled(draws: SameDraws, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Replace normal_ and uniform_, which fill a tensor."""
    tensor: Tensor = args[0]
    first: float = args[1] if len(args) > 1 else 0.0
    second: float = args[2] if len(args) > 2 else 1.0
    if func.overloadpacket.__name__ == "normal_":
        drawn = draws.normal(tensor.shape) * second + first
    else:
        drawn = draws.uniform(tensor.shape) * (second - first) + first
    return tensor.copy_(drawn)


def _chosen(draws: SameDraws, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Replace bernoulli_, which dropout calls on a CPU."""
    tensor, chance = args[0], (args[1] if len(args) > 1 else kwargs.get("p", 0.5))
    filled: Tensor = tensor.copy_((draws.uniform(tensor.shape) < chance).double())
    return filled


def _dropped(draws: SameDraws, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor]:
    """Replace native_dropout, which dropout calls on a GPU."""
    tensor, chance, train = args
    if not train:
        return tensor, torch.ones_like(tensor, dtype=torch.bool)
    kept = (draws.uniform(tensor.shape) < 1 - chance).to(tensor.device)
    return tensor * kept / (1 - chance), kept


def _counted(draws: SameDraws, func: Any, args: Any, kwargs: Any) -> Tensor:
    """Replace poisson. Rates are rounded alike, since a tiny difference may count one more."""
    rates = args[0]
    drawn = torch.poisson(rates.float().cpu(), draws.generator)
    return torch.empty_like(rates).copy_(drawn)


def _of_name(draws: SameDraws, func: Any) -> Callable[[Sequence[int]], Tensor]:
    return draws.normal if "randn" in func.overloadpacket.__name__ else draws.uniform


DRAWS: dict[str, Callable[[SameDraws, Any, Any, Any], Any]] = {
    "rand": _made,
    "randn": _made,
    "rand_like": _made_like,
    "randn_like": _made_like,
    "randint": _whole,
    "normal_": _filled,
    "uniform_": _filled,
    "bernoulli_": _chosen,
    "native_dropout": _dropped,
    "poisson": _counted,
}
