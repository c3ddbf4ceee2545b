"""Lists studies and trials, without importing torch.

make studies
make trials NAME=cae [CSV=FILE] [PARQUET=FILE]
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from models.evaluation.gan_diagnosis import WORDS
from search.cli.frame_files import check_targets, write_frame
from search.console import open_console, print_line
from search.spelling import spell
from search.tables import Column, FittedTable, Kind, format_column
from search.trials.stored_names import find_stored_name
from search.trials.tally import EndedTrial, describe_ends
from search.trials.trial_attributes import NUMBERS, TEXTS, WHOLE, is_sound
from search.variables import Variables, read_variables
from search.words import format_count, show_text
from storage.database.trial_states import OUTCOMES, TrialStatus, count_ended, outcome_of
from storage.database.vectors import cost_attribute
from storage.errors import short

if TYPE_CHECKING:
    import pandas as pd

STUDIES = Path(__file__).parent.parent / "studies"
SHOWN_TRIALS = 10
SHOWN_FAILURES = 3
ALWAYS_THERE = frozenset(("number", "state", "value", "duration", "started", "ended"))  # columns
WIDE = 24  # columns: an attribute that is wider stands only in the table of CSV
# Attributes that say how a trial ran, and not what came of it: they stand in CSV alone.
HIDDEN = frozenset(
    {
        *("outcome", "host", "pid", "device", "revision", "seed", "epochs", "picture", "bound"),
        *("code", "environment"),
        *("reason", "traceback", "peak_memory_mib", "needed_memory_mib", "memory_budget_mib"),
        *("verdict_epoch", "verdict_reason", "no_checkpoint", "no_picture"),
        *("extractor", "extractor_accuracy", "judged_samples", "floor"),
        *("label_frechet_floor", "label_accuracy_floor"),
    }
)


def studies() -> int:
    """List the studies in the database and how far each is, then those that can be run."""
    variables = read_variables()
    console = open_console()
    started = variables.storage is not None or variables.paths.database.exists()
    stored = _stored_studies(variables) if started else None
    if stored is not None:
        console.print(stored)
        console.print()
    known = {path.stem: _read_study_file(path) for path in study_files()}
    data, trials, about = zip(*known.values(), strict=True)
    table = FittedTable(
        [
            Column("study", list(known)),
            Column("data", data),
            Column("trials", trials, Kind.NUMBER),
            Column("about", about, Kind.WORDS),
        ]
    )
    console.print(table)
    console.print("\n" + spell("study", NAME="cae"), style="bold")
    return 0


def study_files() -> list[Path]:
    """Return the files of the studies that come with genstudy."""
    return [path for path in sorted(STUDIES.glob("*.py")) if path.stem != "__init__"]


def trials() -> int:
    """Show a study's leaderboard, or write all of its trials as CSV or Parquet."""
    from storage import trials as all_trials

    variables = read_variables()
    console = open_console()
    wanted = variables.need_name("trials")
    check_targets(variables, first="number")
    name = find_stored_name(variables.storage_url, wanted, variables.data)
    frame = all_trials(name, storage=variables.storage_url)
    if variables.csv or variables.parquet:
        write_frame(console, frame, variables)
    else:
        _show_leaderboard(console, name, frame, variables)
    return 0


def _show_leaderboard(
    console: Console, name: str, frame: pd.DataFrame, variables: Variables
) -> None:
    """Show how many trials ended in which way, the summary, the best, and the first failures."""
    from storage import best, choices
    from storage.database.trial_frame import GOALS, PARAMETERS

    url = variables.storage_url
    parameters: list[str] = frame.attrs[PARAMETERS]
    frame = _sound(frame, parameters)
    chosen = choices(name, storage=url)
    ranked = ""
    if len(chosen):
        ranked = f", ranked by {format_count(chosen['choice'].nunique(), 'choice')}"
    counted = describe_ends(_ends(frame, parameters)) or "no trials yet"
    print_line(console, f"study {name}: {counted}{ranked}")
    _show_summary(console, name, variables, count_ended(Counter(frame["state"])))
    goals: list[tuple[str, str]] = frame.attrs.get(GOALS, [])
    if goals:
        leaders = _front(console, frame, goals)
    else:
        leaders = _sound(best(name, top=SHOWN_TRIALS, storage=url), parameters)
    if len(leaders):
        console.print(_leaderboard(leaders, parameters, [goal for goal, _ in goals]))
        columns, rows = (
            format_count(len(frame.columns), "column"),
            format_count(len(frame), "trial"),
        )
        whole = spell("trials", NAME=name, CSV="FILE")
        print_line(console, f"all {columns} of {rows}: {whole}", "dim")
    elif len(frame):
        is_any = goals and (frame["state"] == TrialStatus.COMPLETE).any()
        why = "every complete trial violates constraints" if is_any else "no trial is complete"
        console.print(f"{why}, so that none is ranked")
    _show_failures(console, frame, parameters)


def _front(console: Console, frame: pd.DataFrame, named: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return the trials on the front, best in the first goal first, and say how many there are.

    named: name and direction of each goal, in Optuna's words
    """
    from search.front import as_costs, choose_spread, front_places  # which loads Optuna
    from search.goals import Goal, join_names
    from storage.database.trial_frame import VIOLATING

    goals = [Goal(name=name, minimize=word == "MINIMIZE") for name, word in named]
    columns = [f"value_{place}" for place in range(len(goals))]
    violates = frame["number"].isin(frame.attrs[VIOLATING])
    is_finite = frame[columns].abs().lt(math.inf).all(axis=1)
    sound = frame[(frame["state"] == TrialStatus.COMPLETE) & is_finite & ~violates]
    costs = as_costs(sound[columns].to_numpy().tolist(), goals)
    places = front_places(costs)
    if places:
        are = "is" if len(places) == 1 else "are"
        those = f", of which {SHOWN_TRIALS} stand for it best" if len(places) > SHOWN_TRIALS else ""
        count = format_count(len(places), "trial")
        print_line(console, f"{count} {are} on the front of {join_names(goals)}{those}")
    front = sound.iloc[choose_spread(costs, SHOWN_TRIALS)]
    return front.sort_values(columns, ascending=[goal.minimize for goal in goals])


def _leaderboard(
    leaders: pd.DataFrame, parameters: Sequence[str], goals: Sequence[str]
) -> FittedTable:
    """Return the best trials with all of their parameters, and with attributes that are narrow.

    goals: the names of several goals, which have a column each; none: there is one
    """
    ranks = Column("rank", [str(rank) for rank in range(1, len(leaders) + 1)], Kind.NUMBER)
    values = {f"value_{place}": name for place, name in enumerate(goals)} or {"value": "value"}
    columns = [
        *([] if goals else [ranks]),
        format_column("trial", leaders["number"]),
        *(format_column(name, leaders[column]) for column, name in values.items()),
    ]
    known = {*ALWAYS_THERE, *values, *(cost_attribute(name) for name in goals)}
    others = [name for name in leaders.columns if name not in known]
    verdict = _attribute("verdict", parameters)  # what the value of a GAN does not say
    for name in sorted(others, key=lambda name: name != verdict):
        if leaders[name].isna().all():
            continue
        if name in parameters:
            columns.append(format_column(name, leaders[name]))
        elif name == verdict:
            words = [WORDS.get(word, word) for word in leaders[name]]
            columns.append(format_column(name, words))
        elif name.removeprefix("attr_") not in HIDDEN and name not in HIDDEN:
            column = format_column(name, leaders[name])
            columns += [column] if column.natural <= WIDE else []
    return FittedTable(columns, keys=1 if goals else 2)


def _show_failures(console: Console, frame: pd.DataFrame, parameters: Sequence[str]) -> None:
    """Say why the first of the trials that failed did."""
    reason = _attribute("reason", parameters)
    failed = frame[frame["state"] == TrialStatus.FAIL].reindex(columns=["number", reason])
    failed = failed[failed[reason].notna()]
    for number, why in failed.head(SHOWN_FAILURES).itertuples(index=False):
        print_line(console, f"trial {number} failed: {short(str(why))}")
    if len(failed) > SHOWN_FAILURES:
        console.print(f"and {len(failed) - SHOWN_FAILURES:,} more")


def _ends(frame: pd.DataFrame, parameters: Sequence[str]) -> Iterator[EndedTrial]:
    """Yield how each trial of a frame ended."""
    outcome, epochs = _attribute("outcome", parameters), _attribute("epochs", parameters)
    retries = _attribute("retries", parameters)
    columns = ["number", "state", outcome, epochs, retries, *parameters]
    found = frame.reindex(columns=columns)
    retried = set(found[retries].dropna())
    for row in found.to_dict("records"):
        done, ended = row[epochs], outcome_of(row["state"], row[outcome])
        yield EndedTrial(
            outcome="retried" if ended == "failed" and row["number"] in retried else ended,
            epoch=int(done) + 1 if isinstance(done, int | float) and done == done else None,
            parameters={name: row[name] for name in parameters if row[name] == row[name]},
        )


def _sound(frame: pd.DataFrame, parameters: Sequence[str]) -> pd.DataFrame:
    """Return a frame without those attributes of ours that hold another thing."""
    sound = frame.copy()
    for name in (*TEXTS, *NUMBERS, *WHOLE):
        column = _attribute(name, parameters)
        if column in frame and column not in parameters:
            sound[column] = [v if is_sound(name, v) else None for v in frame[column]]
    return sound


def _attribute(name: str, parameters: Sequence[str]) -> str:
    """Return the column of an attribute of ours, beside parameters that may have its name."""
    return f"attr_{name}" if name in parameters else name


def _show_summary(console: Console, name: str, variables: Variables, ended: int) -> None:
    """Show what the study concludes, which may be some trials old."""
    from search.reporting.summary import summary_table
    from storage.files.study_summary import read_summary

    found = read_summary(name, storage=variables.storage_url)
    if found is None:
        return
    table, counted = found
    console.print(summary_table(table))
    if counted != ended:
        made = f"made of {format_count(counted, 'trial')}, {ended} have ended"
        console.print(f"{made}: `{spell('study')}` makes it anew")
    console.print()


def _stored_studies(variables: Variables) -> FittedTable | None:
    """Return how many trials of each stored study ended in which way, and the best value."""
    from storage import studies as counted
    from storage.frames import outcomes

    frame = counted(storage=variables.storage_url)
    if not len(frame):
        return None
    ends = outcomes(storage=variables.storage_url)
    counts = [ends.get(name, Counter()) for name in frame["study"]]
    words = [
        word for word in OUTCOMES if word in ("pruned", "failed") or any(c[word] for c in counts)
    ]
    others = ("retried", "running", "waiting")  # these do not count
    ended = [count.total() - sum(count[word] for word in others) for count in counts]
    best = ["-" if value != value else f"{value:.6g}" for value in frame["best"]]
    return FittedTable(
        [
            Column("study", [show_text(name) for name in frame["study"]]),
            Column("ended", [f"{count:,}" for count in ended], Kind.NUMBER),
            *(
                Column(word, [f"{count[word]:,}" for count in counts], Kind.NUMBER)
                for word in words
                if word != "complete"
            ),
            Column("best", best, Kind.NUMBER),
        ]
    )


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
