"""The command `genstudy`, in any folder: ``genstudy study cae TRIALS=10``.

It never imports from the folder it is called in. A project may have its own ``models/``,
``search.py``, ``storage/`` or ``torch.py``, and often has PYTHONPATH=. as well. So this file
imports nothing but `os` and `sys` before it has put the import path in order.

    python -m genstudy study cae        the same
"""

from __future__ import annotations

import os
import sys

from genstudy import _ROOMS, _ROOT


def main() -> int:
    """Run the command that the words of the command line name, and return its exit code."""
    sys.path[:] = order_path(sys.path)
    from search.interrupts import end_silently_on_ctrl_c

    end_silently_on_ctrl_c()
    from search.passwords import hide_password
    from search.surroundings import open_standard_files, use_utf8

    use_utf8()
    open_standard_files()  # before others open files
    hide_password()
    from search.command_line import run

    return run(sys.argv[1:])


def order_path(entries: list[str]) -> list[str]:
    """Return an import path on which no neighbour hides genstudy.

    The current folder is left out, and what holds a package with the name of a room comes last.
    """
    here = _current_folder()
    places = {entry: os.path.realpath(entry) for entry in entries}  # "" is the current folder
    kept = [entry for entry, place in places.items() if place != here or place == _ROOT]
    hiding = [entry for entry in kept if places[entry] != _ROOT and _has_room(places[entry])]
    first = [entry for entry in kept if entry not in hiding]
    if _ROOT not in map(places.get, first):
        first.insert(0, _ROOT)
    return first + hiding


def _current_folder() -> str | None:
    try:
        return os.path.realpath(os.getcwd())  # noqa: PTH109
    except FileNotFoundError:  # somebody has removed it
        return None


def _has_room(place: str) -> bool:
    paths = [os.path.join(place, room) for room in _ROOMS]  # noqa: PTH118
    return any(os.path.exists(name) for path in paths for name in (path, f"{path}.py"))  # noqa: PTH110


if __name__ == "__main__":
    sys.exit(main())
