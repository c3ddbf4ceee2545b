"""Tensors in sealed safetensors files, with JSON in the file's header. No pickle.

    of = {"study": "3f2a", "trial": 7}
    write_tensors(path, {"weight": weight}, {"about": {"epoch": 7}}, of=of)
    about, tensors = read_tensors(path, "about", of=of)

What is read is what was written, and belongs to what is asked for (`models/seals.py`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from models.errors import TensorFileError
from models.sealed_files import check_seal, read_seal
from models.seals import Identity, Seal, stamp, stamped

CAUSE = re.compile(r"\(os error (\d+)\)")  # in the library's message


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: Mapping[str, Any],
    *,
    of: Identity,
    attempt: int | None = None,
) -> None:
    """Write one safetensors file; each value of ``header`` is written as JSON.

    of: what the file belongs to; attempt: the number of the attempt that writes it

    Raises `OSError` with the system's number, which the library hides.
    """
    entries = _as_json(header) | Seal(of=of, attempt=attempt).entries()
    try:
        save_file(_on_host(tensors), path, metadata=entries)
    except SafetensorError as error:  # a full disk, among others
        if found := CAUSE.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise OSError(f"cannot write {path}: {error}") from error
    stamp(path)


def tensor_content(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], *, of: Identity
) -> bytes:
    """Return the bytes that `write_tensors` writes."""
    return stamped(save(_on_host(tensors), _as_json(header) | Seal(of=of).entries()))


def read_tensors(
    path: Path, name: str, *, of: Identity | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Return what the header holds under ``name``, and all tensors, mapped from the file.

    of: what the file has to belong to; None: anything

    Raises `TensorFileError` for a file that is damaged, belongs to something else, or was not
    written by `write_tensors`, and `OSError` for one that cannot be opened.
    """
    with _translating_errors():
        _check(path, of)
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()[name])
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def read_header(path: Path, name: str, *, of: Identity | None = None) -> Any:
    """Return what the header holds under ``name``. Raises what `read_tensors` raises."""
    with _translating_errors():
        _check(path, of)
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()[name])


def _check(path: Path, of: Identity | None) -> None:
    """Raise `TensorFileError` unless ``path`` is whole, and belongs to ``of``."""
    if of is None:
        read_seal(path)
    else:
        check_seal(path, of=of)


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
