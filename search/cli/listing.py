"""Looking at studies: `make studies`, `make trials NAME=cae`. Neither imports torch."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from search.console import make_table, open_console
from search.errors import BadVariable
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
    """What there is, on what data, and how many trials each has in the database."""
    variables = read_variables()
    console = open_console()
    started = variables.storage is not None or variables.paths.database.exists()
    stored = _stored_studies(variables) if started else {}
    known = {}
    for path in sorted(STUDIES.glob("*.py")):
        if path.stem != "__init__":
            known[path.stem] = _described(path)
    rows = []
    for name in sorted(known | stored):
        data, trials, about = known.get(name, ("", "", ""))
        row = stored.get(name)
        counts = ("0", "0", "0", "-") if row is None else row
        rows.append([name, data, trials, *counts, about])
    columns = ["study", "data", "trials", "ended", "pruned", "failed", "best", "about"]
    console.print(make_table(columns, rows), soft_wrap=True)
    console.print("\nmake study NAME=" + next(iter(known)), style="bold")
    return 0


def trials() -> int:
    """The leaderboard, or the whole table as CSV or Parquet."""
    from storage import best, choices
    from storage import trials as all_trials

    variables = read_variables()
    console = open_console()
    name = variables.needed_name
    if "/" in name or name.endswith(".py"):
        name = Path(name).stem
    _check_targets(variables)
    frame = all_trials(name, storage=variables.storage_url)
    writers: list[tuple[Path | None, Callable[[Path], object]]] = [
        (variables.csv, lambda path: frame.to_csv(path, index=False)),
        (variables.parquet, lambda path: _plain(frame).to_parquet(path, index=False)),
    ]
    for target, write in writers:
        if target is not None:
            with atomic_file(target) as beside:
                write(beside)
            console.print(f"{len(frame)} trials -> {target}", soft_wrap=True)
    if variables.csv or variables.parquet:
        return 0
    leaders = best(name, top=SHOWN_TRIALS, storage=variables.storage_url)
    states = Counter(frame["state"])
    counted = ", ".join(f"{count} {state.lower()}" for state, count in states.most_common())
    chosen = choices(name, storage=variables.storage_url)
    by = f", ranked by {chosen['choice'].nunique()} choices" if len(chosen) else ""
    console.print(f"study {name}: {counted or 'no trials yet'}{by}")
    _show_summary(console, name, variables, count_ended(states))
    columns = [c for c in leaders.columns if c not in HIDDEN and leaders[c].notna().any()]
    names = ["rank", *("trial" if name == "number" else name for name in columns)]
    ranked = enumerate(leaders[columns].itertuples(index=False), start=1)
    if len(leaders):
        table = make_table(names, [[rank, *row] for rank, row in ranked])
        console.print(table, soft_wrap=True)
    failed = frame[frame["state"] == TrialStatus.FAIL].reindex(columns=["number", "reason"]).head(3)
    for number, reason in zip(failed["number"], failed["reason"], strict=True):
        console.print(f"trial {number} failed: {reason}", markup=False)
    return 0


def _show_summary(console: Console, name: str, variables: Variables, ended: int) -> None:
    """What the study concluded when its search ended, which may have been some trials ago."""
    from search.reporting.summary import summary_table
    from storage.files.study_summary import read_summary

    found = read_summary(name, storage=variables.storage_url)
    if found is None:
        return
    table, spoken_of = found
    console.print(summary_table(table), soft_wrap=True)
    if spoken_of != ended:
        console.print(f"made of {spoken_of} trials, {ended} have ended: `make study` makes it anew")
    console.print()


def _check_targets(variables: Variables) -> None:
    """Raise `BadVariable` for files that cannot be written, or are better not."""
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
    from storage import studies as counted

    frame = counted(storage=variables.storage_url)
    rows = {}
    for row in frame.to_dict("records"):
        ended = sum(row[status.lower()] for status in ENDED)
        best = "-" if row["best"] != row["best"] else f"{row['best']:.6g}"
        rows[row["study"]] = (str(ended), str(row["pruned"]), str(row["fail"]), best)
    return rows


def _described(path: Path) -> tuple[str, str, str]:
    """Data, trials and first line of a study file, read without running it (or torch)."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, OSError, ValueError):
        return "?", "?", "this file has a mistake"
    said: dict[str, object] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "StudySpec"
        ):
            said = {
                word.arg: word.value.value
                for word in node.keywords
                if word.arg and isinstance(word.value, ast.Constant)
            }
    about = (ast.get_docstring(tree) or "").splitlines()
    return str(said.get("data", "?")), str(said.get("trials", "?")), about[0] if about else ""


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed types as text: Parquet wants one type a column."""
    mixed = [
        name
        for name in frame.columns
        if frame[name].dtype == object and frame[name].dropna().map(type).nunique() > 1
    ]
    texts = {name: frame[name].map(str, na_action="ignore") for name in mixed}
    return frame.assign(**texts)
