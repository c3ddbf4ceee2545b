"""A word that tells a folder from all others, kept in a file of the folder.

    make_identity(path)      # in one process at a time
    read_identity(path)      # "" where there is none

Names of machines and folders agree more often than one thinks; a random word does not.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from storage.files.atomic import atomic_file


def read_identity(path: Path) -> str:
    """Return the word in ``path``; the empty one where there is none that can be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def make_identity(path: Path) -> str:
    """Return the word in ``path``, which is made if there is none. Raises `OSError`."""
    if found := read_identity(path):
        return found
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as beside:
        beside.write_text(f"{uuid4().hex}\n", encoding="ascii")
    return read_identity(path)
