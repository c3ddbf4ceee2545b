"""What a person may have meant by words that a command cannot use.

    missing_name("study")                  NAME is not set: how it is written, and which there are
    stray_word("cae")                      `make study cae`: a word that is no target of make
    folder_without_kind("~/pictures")      DATA=~/pictures: a folder without `folder:`

    python -m search.hints trails trials studies     what make says of a target that it has not

`make help` works before the environment is made, so this file imports only the standard library.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

from search.spelling import is_installed_command, spell
from storage.errors import short

STUDIES = Path(__file__).parent / "studies"
STRAY = "GENSTUDY_STRAY"  # words on make's command line that are no targets; the Makefile sets it
SETS = ("fashion_mnist", "mnist", "stacked_mnist", "binarized_mnist", "dynamic_mnist", "digits")
ANOTHER = re.compile(r"\w+:(?!\\)")  # another kind of place than a folder; C:\\ is a disk


def missing_name(command: str, given: Mapping[str, str] = os.environ) -> str:
    """Return the message for a command that lacks its NAME."""
    fix = spell(command, NAME="cae")
    stray, small = stray_words(given), given.get("name", "").strip()
    if stray:
        meant = (_close_study(stray[0]) if command == "study" else None) or stray[0]
        return f"NAME is not set; did you mean {spell(command, NAME=meant)}?"
    if small:
        return f"NAME is written in capitals; did you mean {spell(command, NAME=small)}?"
    if given.get("NAME", "").strip() and not is_installed_command():
        exported = "a NAME that the shell exports does not count"
        return f"NAME is not set ({exported}); say which study: {fix}"
    if command != "study":
        return f"NAME is not set; say which study: {fix} ({spell('studies')} lists them)"
    names = ", ".join(known_studies())
    return f"NAME is not set; say which study: {fix}. There are {names}, or the path of a file"


def stray_words(given: Mapping[str, str] = os.environ) -> Sequence[str]:
    """Return the words on make's command line that are neither targets nor variables."""
    return given.get(STRAY, "").split()


def stray_word(word: str, targets: Sequence[str] = ()) -> str:
    """Return the message for a word on make's command line that is no target and no variable."""
    start = f"make has no target {short(repr(word))}"
    if word in known_studies() or word.endswith(".py"):
        return f"{start}; a study is named by NAME: {spell('study', NAME=word)}"
    if close := get_close_matches(word.lower(), targets, n=1):
        return f"{start}; did you mean make {close[0]}?"
    if close_study := _close_study(word):
        return f"{start}; did you mean {spell('study', NAME=close_study)}?"
    return f"{start}; variables are written NAME=value, without blanks: {spell('help')}"


def known_studies() -> list[str]:
    """Return the names of the studies that come with genstudy."""
    return sorted(path.stem for path in STUDIES.glob("*.py") if path.stem != "__init__")


def _close_study(word: str) -> str | None:
    """Return the study that comes with genstudy whose name is closest to a word."""
    return next(iter(get_close_matches(word.lower(), known_studies(), n=1)), None)


def folder_without_kind(written: str) -> str | None:
    """Return the line for a DATA that is the path of a folder alone; None for all others."""
    if written in SETS or ANOTHER.match(written):
        return None
    try:
        is_path = "/" in written or written.startswith(("~", ".")) or Path(written).is_dir()
    except (OSError, ValueError):  # too long for a path
        return None
    if not is_path:
        return None
    available = ", ".join([*SETS, "folder:PATH"])
    hint = f"did you mean DATA=folder:{short(written)}?"
    return f"unknown data {short(repr(written))}; available: {available} ({hint})"


if __name__ == "__main__":
    sys.exit(f"error: {stray_word(sys.argv[1], sys.argv[2:])}")
