"""Tensors in safetensors files, with a JSON header."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

CAUSE = re.compile(r"\(os error (\d+)\)")  # in the library's message


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """One safetensors file. Raises `OSError` with the system's number, which the library hides."""
    try:
        save_file(tensors, path, metadata=about)
    except SafetensorError as error:  # a full disk, among others
        if found := CAUSE.search(str(error)):
            number = int(found[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise OSError(f"cannot write {path}: {error}") from error


def tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in tensors.values())
