"""`make report NAME=cae`: write a page about a study, under RUNS/reports."""

from __future__ import annotations

from pathlib import Path

import optuna

from search.console import open_console, shorten_path
from search.reporting.report import write_report
from search.variables import read_variables
from search.words import format_size


def report() -> int:
    """Write the report of the study NAME and say where it is, and how large."""
    variables = read_variables()
    name = variables.need_name("report")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if "/" in name or name.endswith(".py"):
        name = Path(name).stem
    page = write_report(name, variables.storage_url, variables.paths) / "index.html"
    open_console().print(
        f"report of study {name}: {shorten_path(page)}  "
        f"({format_size(page.stat().st_size)}, one file that can be mailed)",
        soft_wrap=True,
        markup=False,
    )
    return 0
