"""Tensors in safetensors files, with JSON in the file's header. No pickle.

with atomic_file(path) as beside:
    write_tensors(beside, {"weight": weight}, {"about": {"epoch": 7}})
about, tensors = read_tensors(path, "about")
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from models.errors import TensorFileError

CAUSE = re.compile(r"\(os error (\d+)\)")  # in the library's message


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to, and rename that file when the block has ended.

    A reader never meets half a file; where the block fails, ``path`` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write one safetensors file; each value of ``header`` is written as JSON.

    Raises `OSError` with the system's number, which the library hides.
    """
    try:
        save_file(_on_host(tensors), path, metadata=_as_json(header))
    except SafetensorError as error:  # a full disk, among others
        if found := CAUSE.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise OSError(f"cannot write {path}: {error}") from error


def tensor_content(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Return the bytes that `write_tensors` writes."""
    return save(_on_host(tensors), _as_json(header))


def read_tensors(path: Path, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Return what the header holds under ``name``, and all tensors, mapped from the file.

    Raises `TensorFileError` for a file that `write_tensors` did not write, and `OSError` for one
    that cannot be opened.
    """
    with _translating_errors(), safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[name])
        return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def read_header(path: Path, name: str) -> Any:
    """Return what the header holds under ``name``. Raises what `read_tensors` raises."""
    with _translating_errors(), safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()[name])


def tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes that the values of ``tensors`` take."""
    return sum(value.nbytes for value in tensors.values())


@contextmanager
def _translating_errors() -> Iterator[None]:
    """Turn whatever a damaged file raises into `TensorFileError`."""
    try:
        yield
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise TensorFileError(str(error)) from error


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _as_json(header: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in header.items()}
