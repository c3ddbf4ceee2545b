"""Checkpoints: all that `fit` needs to go on, in one safetensors file, without pickle.

    of = {"study": "3f2a", "trial": 7}                 # what the file belongs to
    save_checkpoint(path, model, epoch=7, note={}, of=of)
    epoch, note = load_checkpoint(path, model, of=of)  # 7, {}; fit(..., start=epoch) goes on

A damaged checkpoint is refused, and that of another trial (`models/seals.py`).

Weights and the optimisers' tensors are stored as they are. Step counters and settings of the
optimisers stand as JSON in the file's header. An epoch draws its random numbers from (seed, epoch
number), so that no generator state is needed.

The caller writes to a temporary path and renames that file (storage's `atomic_file`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from models.base import Model
from models.errors import CheckpointError
from models.seals import Identity
from models.tensor_files import read_header, read_tensors, tensor_bytes, write_tensors

ANYBODYS: Identity = {}


def save_checkpoint(
    path: Path,
    model: Model,
    *,
    epoch: int,
    note: dict[str, Any],
    of: Identity = ANYBODYS,
    attempt: int | None = None,
) -> None:
    """Write weights and optimisers after ``epoch``; ``note`` is JSON that comes back on loading.

    of: what the checkpoint belongs to; attempt: the number of the attempt that writes it
    """
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    header: dict[str, Any] = {"epoch": epoch, "note": note, "optimizers": {}}
    for name, optimizer in model.optimizers.items():
        state = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for index, entries in state["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{name}/{index}/{key}"] = value
                else:
                    plain.setdefault(str(index), {})[key] = value
        header["optimizers"][name] = {"groups": state["param_groups"], "plain": plain}
    write_tensors(path, tensors, {"checkpoint": header}, of=of, attempt=attempt)


def checkpoint_size(model: Model) -> int:
    """Return the bytes of a checkpoint's tensors, the least that it takes on a disk."""
    states = [entry for o in model.optimizers.values() for entry in o.state.values()]
    optimizers = [value for state in states for value in state.values()]
    return tensor_bytes(model.state_dict()) + sum(
        value.nbytes for value in optimizers if isinstance(value, Tensor)
    )


def load_checkpoint(
    path: Path, model: Model, *, of: Identity = ANYBODYS
) -> tuple[int, dict[str, Any]]:
    """Bring ``model`` and its optimisers to the file's state, and return its epoch and note.

    Raises `CheckpointError`, with the model untouched, when the file is damaged, belongs to
    something else than ``of``, or does not fit.
    """
    try:
        header, tensors = read_tensors(path, "checkpoint", of=of)
        weights = _tensors_below("model/", tensors)
        expected = model.state_dict()
        if {n: v.shape for n, v in weights.items()} != {n: v.shape for n, v in expected.items()}:
            raise KeyError("other layers")
        states = {
            name: _optimizer_state(
                header["optimizers"][name], _tensors_below(f"optimizer/{name}/", tensors)
            )
            for name in model.optimizers
        }
        for name, optimizer in model.optimizers.items():
            if _group_sizes(states[name]) != _group_sizes(optimizer.state_dict()):
                raise KeyError("another optimizer")
        epoch, note = int(header["epoch"]), header["note"]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this model ({error})") from error
    model.load_state_dict(weights)
    for name, optimizer in model.optimizers.items():
        optimizer.load_state_dict(states[name])  # moves its tensors to the parameters' device
    return epoch, note


def read_note(path: Path, *, of: Identity = ANYBODYS) -> tuple[int, dict[str, Any]]:
    """Return epoch and note of a checkpoint without its tensors. Raises `CheckpointError`."""
    try:
        header = read_header(path, "checkpoint", of=of)
        return int(header["epoch"]), dict(header["note"])
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this training ({error})") from error


def _tensors_below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of the tensors whose names begin with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): value.clone()  # the file is mapped; weights change
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _optimizer_state(header: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return an optimiser's state dictionary from its part of the header and its tensors."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(entries) for index, entries in header["plain"].items()
    }
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    return {"state": state, "param_groups": [_parameter_group(group) for group in header["groups"]]}


def _parameter_group(group: dict[str, Any]) -> dict[str, Any]:
    """Return ``group`` with Adam's betas as a tuple, which JSON does not know."""
    return {k: tuple(v) if k == "betas" else v for k, v in group.items()}


def _group_sizes(state: dict[str, Any]) -> list[int]:
    """Return how many parameters each group of an optimiser has."""
    return [len(group["params"]) for group in state["param_groups"]]
