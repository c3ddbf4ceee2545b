"""A word that tells a folder from all others, kept in a file of the folder.

    make_identity(path)      # in one process at a time
    read_identity(path)      # "" where there is none

Names of machines and folders agree more often than one thinks; a random word does not.
"""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

from storage.files.atomic import atomic_file

WORD = re.compile("[0-9a-f]{32}")


def read_identity(path: Path) -> str:
    """Return the word in ``path``; the empty one where there is none, or a damaged one."""
    try:
        found = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
    return found if WORD.fullmatch(found) else ""


def make_identity(path: Path, word: str | None = None) -> str:
    """Return the word in ``path``, which is made if there is none. Raises `OSError`.

    word: what it was before it was lost; None: nobody knows
    """
    if found := read_identity(path):
        return found
    if word is None or not WORD.fullmatch(word):
        word = uuid4().hex
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as beside:
        beside.write_text(f"{word}\n", encoding="ascii")
    return word
