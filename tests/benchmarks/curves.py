"""Keeps the curves of a study in a small file: pruners are compared without its database.

    python -m tests.benchmarks.curves cae              # tests/benchmarks/curves/cae.parquet
    python -m tests.benchmarks.curves cae a.parquet    # RUNS or STORAGE say where the study is
    make simulate NAME=tests/benchmarks/curves/cae.parquet PRUNER=asha WORKERS=4

A study whose trials all train to the end (PRUNER=none, TOP=0) has the most to tell.
"""

from __future__ import annotations

import sys
from pathlib import Path

import optuna

from search.errors import explain_error
from search.simulation.curve_file import write_curve_file
from search.simulation.stored_curves import read_curves
from search.words import format_count, format_size
from storage.frames import database_url

FOLDER = Path(__file__).parent / "curves"


def main(words: list[str]) -> int:
    """Write the file of the study that is named; returns the exit code."""
    if len(words) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = Path(words[1]) if len(words) == 2 else FOLDER / f"{words[0]}.parquet"
    try:
        stored = read_curves(words[0], database_url(None))
        stored.check()
        write_curve_file(path, stored)
    except Exception as error:
        message = explain_error(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 2
    full = format_count(len(stored.full), "full curve")
    print(f"{full} of {len(stored.curves)}: {path} ({format_size(path.stat().st_size)})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
