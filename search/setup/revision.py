"""The revision of genstudy's code that runs: a commit, or the version of an installed package.

code_revision()      # "82bd589e1f2a", "82bd589e1f2a-changed" or "genstudy 0.1.0"
"""

from __future__ import annotations

import subprocess
from importlib.metadata import Distribution
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_revision(root: Path = ROOT) -> str:
    """Return the commit of the code that runs, with ``-changed`` if files differ from it.

    The revision of an installed package is its version: ``genstudy 0.1.0``.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return _installed_version(root)  # inside somebody else's checkout
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("-changed" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return _installed_version(root)


def _installed_version(root: Path) -> str:
    """Return the version of the package in the folder ``root``; ``unknown``: it holds none."""
    installed = next(iter(Distribution.discover(name="genstudy", path=[str(root)])), None)
    return "unknown" if installed is None else f"genstudy {installed.version}"
