"""Training steps in bfloat16, where a configuration asks for it; all else stays in float32.

    with training_precision(model):
        measured = model.train_step(batch)

Convolutions and matrix products compute in bfloat16, for which a GPU has tensor cores. Weights,
their gradients and the optimiser's state stay float32, and so do losses, penalties and what is
measured: what a model's networks return when they are called is float32. A family that calls other
methods of a network has these return `as_float32`, as the encoder of a VAE does. A model is
measured, drawn and exported in float32. bfloat16 has the range of float32 and 8 bits of precision,
so that no loss is scaled (Kalamkar et al. 2019).

Shape legend: N batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models.base import Model
from models.errors import ConfigError
from models.networks.layers import as_float32


@contextmanager
def training_precision(model: Model) -> Iterator[None]:
    """Compute training steps within the block as the model's configuration says.

    A recorded step keeps what it was recorded with. Weights are cast each time that they are used:
    a step that updates one network and then goes through it again must see what it has become.

    Raises `ConfigError` on a GPU that has no bfloat16.
    """
    if model.config.precision == "float32":
        yield
        return
    check_bfloat16(model.device)
    hooks = [network.register_forward_hook(_give_float32) for network in model.children()]
    try:
        with torch.autocast(model.device.type, dtype=torch.bfloat16, cache_enabled=False):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def check_bfloat16(device: torch.device) -> None:
    """Raise `ConfigError` where a device would only emulate bfloat16, more slowly than float32."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"precision='bfloat16' needs a GPU that computes in it, as those of NVIDIA since 2020 "
            f"do; {device} does not: take precision='float32'"
        )


def _give_float32(network: nn.Module, given: tuple[Any, ...], made: Any) -> Any:
    """Return what a network made, in float32."""
    return as_float32(made) if isinstance(made, Tensor) else made
