"""Lists studies and trials, without importing torch.

make studies
make trials NAME=cae [CSV=FILE] [PARQUET=FILE]
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from search.console import make_table, open_console
from search.errors import BadVariable
from search.spelling import spell
from search.variables import Variables, read_variables
from storage.database.connection import parse_url
from storage.database.schema import is_sqlite
from storage.database.trial_states import ENDED, TrialStatus, count_ended
from storage.errors import short
from storage.files.atomic import atomic_file

if TYPE_CHECKING:
    import pandas as pd

STUDIES = Path(__file__).parent.parent / "studies"
SHOWN_TRIALS = 10
HIDDEN = (
    *("state", "outcome", "duration", "started", "ended"),
    *("host", "pid", "seed", "revision", "epochs", "picture"),
)


def studies() -> int:
    """List the studies, their data, and how many trials of each the database holds."""
    variables = read_variables()
    console = open_console()
    started = variables.storage is not None or variables.paths.database.exists()
    stored = _stored_studies(variables) if started else {}
    known = {}
    for path in sorted(STUDIES.glob("*.py")):
        if path.stem != "__init__":
            known[path.stem] = _read_study_file(path)
    rows = []
    for name in sorted(known | stored):
        data, trials, about = known.get(name, ("", "", ""))
        row = stored.get(name)
        counts = ("0", "0", "0", "-") if row is None else row
        rows.append([name, data, trials, *counts, about])
    columns = ["study", "data", "trials", "ended", "pruned", "failed", "best", "about"]
    console.print(make_table(columns, rows), soft_wrap=True)
    console.print("\n" + spell("study", NAME=next(iter(known))), style="bold")
    return 0


def trials() -> int:
    """Show a study's leaderboard, or write all of its trials as CSV or Parquet."""
    from storage import trials as all_trials

    variables = read_variables()
    console = open_console()
    name = variables.need_name("trials")
    if "/" in name or name.endswith(".py"):
        name = Path(name).stem
    _check_targets(variables)
    frame = all_trials(name, storage=variables.storage_url)
    if variables.csv or variables.parquet:
        _write_frame(console, frame, variables)
    else:
        _show_leaderboard(console, name, frame, variables)
    return 0


def _write_frame(console: Console, frame: pd.DataFrame, variables: Variables) -> None:
    writers: list[tuple[Path | None, Callable[[Path], object]]] = [
        (variables.csv, lambda path: frame.to_csv(path, index=False)),
        (variables.parquet, lambda path: _unmix(frame).to_parquet(path, index=False)),
    ]
    for target, write in writers:
        if target is not None:
            with atomic_file(target) as beside:
                write(beside)
            console.print(f"{len(frame)} trials -> {target}", soft_wrap=True)


def _show_leaderboard(
    console: Console, name: str, frame: pd.DataFrame, variables: Variables
) -> None:
    """Show how many trials are in each state, the summary, the best, and the first failures."""
    from storage import best, choices

    states = Counter(frame["state"])
    counted = ", ".join(f"{count} {state.lower()}" for state, count in states.most_common())
    chosen = choices(name, storage=variables.storage_url)
    by = f", ranked by {chosen['choice'].nunique()} choices" if len(chosen) else ""
    console.print(f"study {name}: {counted or 'no trials yet'}{by}")
    _show_summary(console, name, variables, count_ended(states))
    leaders = best(name, top=SHOWN_TRIALS, storage=variables.storage_url)
    columns = [c for c in leaders.columns if c not in HIDDEN and leaders[c].notna().any()]
    heads = ["rank", *("trial" if column == "number" else column for column in columns)]
    ranked = enumerate(leaders[columns].itertuples(index=False), start=1)
    if len(leaders):
        console.print(make_table(heads, [[rank, *row] for rank, row in ranked]), soft_wrap=True)
    failed = frame[frame["state"] == TrialStatus.FAIL].reindex(columns=["number", "reason"]).head(3)
    for number, reason in zip(failed["number"], failed["reason"], strict=True):
        console.print(f"trial {number} failed: {reason}", markup=False)


def _show_summary(console: Console, name: str, variables: Variables, ended: int) -> None:
    """Show what the study concludes, which may be some trials old."""
    from search.reporting.summary import summary_table
    from storage.files.study_summary import read_summary

    found = read_summary(name, storage=variables.storage_url)
    if found is None:
        return
    table, counted = found
    console.print(summary_table(table), soft_wrap=True)
    if counted != ended:
        anew = f"`{spell('study')}` makes it anew"
        console.print(f"made of {counted} trials, {ended} have ended: {anew}")
    console.print()


def _check_targets(variables: Variables) -> None:
    """Raise `BadVariable` for files that cannot be written, or must not be overwritten."""
    place = parse_url(variables.storage_url)
    for target in (variables.csv, variables.parquet):
        if target is None:
            continue
        shown = short(str(target))
        if target.is_dir() or not target.parent.is_dir():
            raise BadVariable(f"cannot write {shown}: name a file in an existing folder")
        if is_sqlite(place) and target.resolve() == Path(place.database or "").resolve():
            raise BadVariable(f"cannot write {shown}: it is the trial database; name another file")
    if variables.csv is not None and variables.csv == variables.parquet:
        raise BadVariable(f"CSV and PARQUET both name {variables.csv}; name two files")


def _stored_studies(variables: Variables) -> dict[str, tuple[str, str, str, str]]:
    """Return how many trials of each study have ended, were pruned, have failed, and the best."""
    from storage import studies as counted

    frame = counted(storage=variables.storage_url)
    rows = {}
    for row in frame.to_dict("records"):
        ended = sum(row[status.lower()] for status in ENDED)
        best = "-" if row["best"] != row["best"] else f"{row['best']:.6g}"
        rows[row["study"]] = (str(ended), str(row["pruned"]), str(row["fail"]), best)
    return rows


def _read_study_file(path: Path) -> tuple[str, str, str]:
    """Return data, trials and first line of a study file, without running it or torch."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, OSError, ValueError):
        return "?", "?", "this file has a mistake"
    written: dict[str, object] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "StudySpec"
        ):
            written = {
                word.arg: word.value.value
                for word in node.keywords
                if word.arg and isinstance(word.value, ast.Constant)
            }
    about = (ast.get_docstring(tree) or "").splitlines()
    return str(written.get("data", "?")), str(written.get("trials", "?")), about[0] if about else ""


def _unmix(frame: pd.DataFrame) -> pd.DataFrame:
    """Turn columns of mixed types into text: Parquet wants one type a column."""
    mixed = [
        name
        for name in frame.columns
        if frame[name].dtype == object and frame[name].dropna().map(type).nunique() > 1
    ]
    texts = {name: frame[name].map(str, na_action="ignore") for name in mixed}
    return frame.assign(**texts)
