"""JSON files that tell when they are damaged.

    write_sealed(path, {"trial": 7})
    read_sealed(path)             # {"trial": 7}; None where it is not what was written

Beside the content stands ``seal``: the version of the seal, and the SHA-256 of the content as JSON
without spaces, its keys sorted. A file of an older version has no seal, and is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.files.atomic import write_json

SEAL = "seal"
VERSION = 1


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` and its seal, whole or not at all."""
    write_json(path, {**content, SEAL: _seal_of(content)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """Return the content of a file; None where there is none, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    if SEAL in content and content.pop(SEAL) != _seal_of(content):
        return None
    return content


def _seal_of(content: Mapping[str, Any]) -> dict[str, Any]:
    plain = json.loads(json.dumps(content))  # as it is read: keys are texts
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return {"version": VERSION, "sha256": hashlib.sha256(text.encode()).hexdigest()}
