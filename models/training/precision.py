"""Training steps in bfloat16, where a configuration asks for it; all else stays in float32.

    with training_precision(model):
        measured = model.train_step(batch)

Within a model's networks convolutions and matrix products compute in bfloat16, for which a GPU has
tensor cores. Every network returns float32, and so losses, penalties, gradients of weights and the
optimiser are float32. So are the last tanh or sigmoid, which would lose its gradient early, and
spectral norms. The slopes that a penalty is made of have gone through the networks, in bfloat16. A
model is measured, drawn and exported in float32. bfloat16 has the range of float32 and 8 bits of
precision, so that no loss is scaled (Kalamkar et al. 2019).

Shape legend: N batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.nn.utils.parametrize import ParametrizationList

from models.base import Model
from models.errors import ConfigError

OLDEST = 8  # compute capability of NVIDIA's first GPUs with bfloat16
EXACT = (nn.Tanh, nn.Sigmoid, ParametrizationList)  # modules that compute in float32 also inside

Forward = Callable[..., Any]


@contextmanager
def training_precision(model: Model) -> Iterator[None]:
    """Compute training steps within the block as the model's configuration says.

    A recorded step keeps what it was recorded with.

    Raises `ConfigError` on a GPU that has no bfloat16.
    """
    if model.config.precision != "bfloat16":
        yield
        return
    check_bfloat16(model.device)
    networks = _Networks(model.device.type)
    wrapped = {
        module: vars(module).get("forward")
        for module in model.modules()
        if module is not model and not isinstance(module, _Loss)
    }
    for module in wrapped:
        vars(module)["forward"] = networks.wrap(module)
    try:
        yield
    finally:
        for module, before in wrapped.items():
            if before is None:
                del vars(module)["forward"]
            else:
                vars(module)["forward"] = before


def check_bfloat16(device: torch.device) -> None:
    """Raise `ConfigError` where a GPU would only emulate bfloat16, more slowly than float32."""
    if device.type != "cuda" or torch.version.hip:
        return
    if torch.cuda.get_device_capability(device)[0] < OLDEST:
        raise ConfigError(
            f"precision='bfloat16' needs a GPU that computes in it, as those of NVIDIA since 2020 "
            f"do; {device} does not: take precision='float32'"
        )


class _Networks:
    """Runs modules in bfloat16: whichever is called from outside all others is a network."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.is_inside = False

    def wrap(self, module: nn.Module) -> Forward:
        """Return the module's forward, in bfloat16 and with a result in float32."""
        usual: Forward = module.forward
        is_exact = isinstance(module, EXACT)

        def forward(*given: Any, **named: Any) -> Any:
            if is_exact:
                given, named = as_float32(given), as_float32(named)
            elif self.is_inside:
                return usual(*given, **named)
            before, self.is_inside = self.is_inside, True
            try:
                # Casts are not cached: a step may update a network and then use it again, with
                # its new weights.
                with torch.autocast(
                    self.device, torch.bfloat16, enabled=not is_exact, cache_enabled=False
                ):
                    return as_float32(usual(*given, **named))
            finally:
                self.is_inside = before

        return forward


def as_float32(made: Any) -> Any:
    """Return tensors, or tuples, lists and dicts of them, with float32 instead of bfloat16."""
    if isinstance(made, Tensor):
        return made.float() if made.dtype == torch.bfloat16 else made
    if isinstance(made, Mapping):
        return {name: as_float32(value) for name, value in made.items()}
    if type(made) in (tuple, list):
        return type(made)(as_float32(each) for each in made)
    return made
