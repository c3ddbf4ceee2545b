"""`make compare NAMES=a,b`: which study found the better winner, how sure that is, at which cost.

Names joined by ``+`` are runs of one study. All is read from the trial database and the exports;
nothing is trained, and no torch is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from search.console import open_console, print_line, shorten_path
from search.errors import BadVariable
from search.reporting.compared import ComparedStudy, check_comparable, compare_study
from search.reporting.comparison import (
    COLUMNS,
    KINDS,
    cells_of,
    describe_differences,
    write_comparison,
)
from search.reporting.reported_study import read_study
from search.spelling import spell
from search.tables import Column, FittedTable, Kind
from search.trials.stored_names import find_stored_name
from search.variables import Variables, read_variables
from storage import best
from storage.database.connection import open_storage
from storage.errors import SeveralObjectives

LONGEST = 60  # letters of a page's folder


def compare() -> int:
    """Compare the studies NAMES, on the terminal and on a page."""
    variables = read_variables()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    groups = _read_groups(variables)
    compared, extractor = _read_studies(variables, groups)
    console = open_console()
    goal = "lower" if compared[0].minimize else "higher"
    judged = f"; all were judged with extractor {extractor}" if extractor else ""
    print_line(console, f"by {compared[0].metric}; {goal} is better{judged}")
    kinds = [Kind.NAME, *[Kind.NUMBER] * (len(COLUMNS) - 1)]
    rows = [cells_of(each) for each in compared]
    console.print(
        FittedTable(
            [
                Column(head, cells, kind)
                for head, kind, cells in zip(COLUMNS, kinds, zip(*rows, strict=True), strict=True)
            ],
            keys=1,
        )
    )
    for line in describe_differences(compared):
        print_line(console, line)
    variables.paths.check_writable()
    name = "-".join("+".join(group) for group in groups)[:LONGEST]
    page = write_comparison(compared, variables.paths.report(name)) / "index.html"
    print_line(console, f"page: {shorten_path(page)}")
    return 0


def _read_groups(variables: Variables) -> Sequence[Sequence[str]]:
    given = variables.names
    if given is None or len(given) < 2:
        raise BadVariable(
            "compare needs NAMES, two studies or more separated by commas: NAMES=cae,cae_27; "
            "+ joins runs of the same study: NAMES=a1+a2,b1+b2"
        )
    if len(given) > len(KINDS):
        raise BadVariable(f"NAMES has {len(given)} studies; compare at most {len(KINDS)} at once")
    url = variables.storage_url
    groups = [[find_stored_name(url, name) for name in group] for group in given]
    flat = [name for group in groups for name in group]
    if twice := sorted({name for name in flat if flat.count(name) > 1}):
        raise BadVariable(f"NAMES has {twice[0]!r} twice; name each study once")
    return groups


def _read_studies(
    variables: Variables, groups: Sequence[Sequence[str]]
) -> tuple[list[ComparedStudy], str]:
    """Return the studies, and with which extractor all of them were judged; empty: with none, or
    one of them does not say."""
    url = variables.storage_url
    for group in groups:
        for name in group:
            try:
                best(name, storage=url)  # raises in one line if the name or the database is wrong
            except SeveralObjectives as error:
                raise BadVariable(
                    f"NAMES has {name!r}, a study with several goals, of which no trial is the "
                    f"winner; {spell('report', NAME=name)} shows its front"
                ) from error
    storage = open_storage(url, create=False)
    try:
        found = [
            compare_study(group, lambda name: read_study(name, storage, variables.paths))
            for group in groups
        ]
        check_comparable(found)
        for each in found:
            _ = each.values, each.progress, each.test  # while the database is open
        extractors = {run.extractor for each in found for run in each.runs}
    finally:
        storage.engine.dispose()
    return found, extractors.pop() if len(extractors) == 1 else ""
