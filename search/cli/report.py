"""`make report NAME=cae`: write a page about a study, under RUNS/reports."""

from __future__ import annotations

import errno
from pathlib import Path

import optuna

from search.console import open_console, shorten_path
from search.reporting.report import write_report
from search.trials.stored_names import find_stored_name
from search.variables import read_variables
from search.words import format_size
from storage.errors import RunsUnwritable
from storage.paths import RunPaths

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
HERE = Path("runs")  # the RUNS of somebody who names none


def report() -> int:
    """Write the report of the study NAME and say where it is, and how large."""
    variables = read_variables()
    wanted = variables.need_name("report")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = find_stored_name(variables.storage_url, wanted, variables.data)
    console, paths = open_console(), variables.paths
    into = _place_of_report(paths, name)
    if into != paths.report(name):
        console.print(
            f"RUNS={shorten_path(paths.root)} can only be read: the report is written elsewhere",
            soft_wrap=True,
            markup=False,
        )
    files = variables.files_address
    page = write_report(name, variables.storage_url, paths, into=into, files=files) / "index.html"
    console.print(
        f"report of study {name}: {shorten_path(page)}  "
        f"({format_size(page.stat().st_size)}, one file that can be mailed)",
        soft_wrap=True,
        markup=False,
    )
    return 0


def _place_of_report(paths: RunPaths, name: str) -> Path:
    """Return the report's folder: under RUNS, or where that can only be read, in the current
    folder. Raises `RunsUnwritable` where neither can be written."""
    try:
        paths.check_writable()
    except RunsUnwritable as error:
        if getattr(error.__cause__, "errno", None) not in READ_ONLY:
            raise
        here = RunPaths(HERE.absolute())
        here.check_writable()
        return here.report(name)
    return paths.report(name)
