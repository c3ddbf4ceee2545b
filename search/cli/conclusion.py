"""What `make study` says when it has ended: how its trials ended, its table, the exports.

conclusion = Conclusion(console, variables, study)
code = conclusion.tell(supervisor, exported, table)     # 0, or 1 where nothing is exported
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from optuna.exceptions import StorageInternalError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from models.results import Table
from search.cli.closing_lines import describe_kept, next_lines
from search.cli.notifying import why_nothing_is_exported
from search.console import print_line, print_lines, print_loud, shorten_path
from search.goals import join_names
from search.reporting.front import FILE, front_picture
from search.reporting.reported_study import ReportedStudy
from search.reporting.summary import summary_table
from search.run import StudyRun
from search.study import Study
from search.supervisor.earlier_trials import end_of
from search.supervisor.finish_claim import FinishedElsewhere
from search.supervisor.loop import Supervisor
from search.tables import Column, FittedTable, Kind
from search.trials.export_words import describe_dominated
from search.trials.retries import read_retries
from search.trials.study_cost import describe_cost, measure_cost
from search.trials.tally import ALWAYS, describe_ends
from search.variables import Variables
from search.words import format_count, show_text
from storage.errors import StorageError
from storage.files.artifacts import show_drawing
from storage.files.certificate_words import (
    certificate_lines,
    chance_of,
    mean_of,
    retraining_seconds,
    seeds_of,
)
from storage.files.model_card import warnings_of


@dataclass(frozen=True)
class Conclusion:
    """The last lines of a call of `make study`."""

    console: Console
    variables: Variables
    study: Study

    def tell(
        self,
        supervisor: Supervisor,
        exported: list[dict[str, Any]] | FinishedElsewhere,
        table: Table | None,
    ) -> int:
        """Print what the study concludes and the exports; returns 1 when there are none."""
        records = exported if isinstance(exported, list) else []
        run, console = supervisor.run, self.console
        supervisor.queue.read_again()  # what is said at the end is what the database says
        over = supervisor.queue.has_ended(run.trials)
        draw_front(supervisor)
        end_note(supervisor, "done" if over else "MINUTES are over", records)
        ended = self._tell_ends(supervisor)
        if table is not None:
            console.print(summary_table(table.to_plain()))
            console.print()
        if not over and self.variables.minutes is None:
            print_line(
                console,
                f"the trial database has {ended} of {format_count(run.trials, 'trial')}: it "
                "was put back to an older state at the end; the same command goes on from here",
            )
            return 1
        return self._tell_exports(supervisor, exported)

    def _tell_ends(self, supervisor: Supervisor) -> int:
        """Print how the trials ended and what they cost, with retrainings of earlier calls; return
        how many have ended."""
        run, console = supervisor.run, self.console
        choices = supervisor.prompt.choices
        stored = supervisor.queue.study
        again = read_retries(stored).numbers  # others count in their place
        ended = [
            trial
            for trial in stored.get_trials(deepcopy=False)
            if trial.state.is_finished() and trial.number not in again
        ]
        chosen = "" if choices is None else f", {format_count(choices.clicks, 'choice')}"
        ends = describe_ends(map(end_of, ended), always=ALWAYS)
        print_line(
            console, f"study {run.study}: {format_count(len(ended), 'trial')}, {ends}{chosen}"
        )
        cost = measure_cost(stored.get_trials(deepcopy=False), run.epochs)
        exports = supervisor.leaderboard.all_exports()
        print_line(console, describe_cost(cost, sum(map(retraining_seconds, exports))))
        return len(ended)

    def _tell_exports(
        self, supervisor: Supervisor, exported: list[dict[str, Any]] | FinishedElsewhere
    ) -> int:
        """Print the exports, or why there are none."""
        run, console = supervisor.run, self.console
        records = exported if isinstance(exported, list) else []
        best = supervisor.leaderboard.ranked_trials()
        if best and not self.variables.top:
            print_line(console, self._tell_best(best))
            print_loud(console, run.remarks)
            print_lines(console, *next_lines(self.study, run, exported=False, width=console.width))
            return 0
        if isinstance(exported, FinishedElsewhere):
            print_line(console, exported.describe(self.study.spec.quality))
            print_loud(console, run.remarks)
            print_lines(console, *next_lines(self.study, run, exported=False, width=console.width))
            return 0
        if not records:
            reason = supervisor.leaderboard.first_failure_reason()
            why = f" (first failure: {reason})" if reason else ""
            print_line(console, f"{why_nothing_is_exported(supervisor)}{why}")
            return 1
        console.print(self._export_table(run, records))
        print_lines(console, *describe_dominated(records))
        if lines := certificate_lines(records[0]):
            head = "what rank 1 is:" if records[0].get("goals") else "how sure rank 1 is:"
            print_lines(console, head, *(f"  {line}" for line in lines))
        print_loud(console, dict.fromkeys((*warnings_of(records[0]), *run.remarks)))
        print_lines(console, describe_kept(supervisor.leaderboard.kept_exports(len(records))))
        print_lines(console, *next_lines(self.study, run, exported=True, width=console.width))
        return 0

    def _tell_best(self, best: Sequence[int]) -> str:
        """Return which trials are the best, where none is exported. best: as they rank"""
        if not self.study.spec.has_several_goals:
            return f"the best is trial {best[0]}; TOP=3 retrains and exports the best three"
        are = "is" if len(best) == 1 else "are"
        return (
            f"{format_count(len(best), 'trial')} {are} on the front of "
            f"{join_names(self.study.spec.goals)}; TOP=3 retrains and exports the three that stand "
            "for it best"
        )

    def _export_table(self, run: StudyRun, records: list[dict[str, Any]]) -> FittedTable:
        """Return a row for each export."""
        metric = self.study.spec.quality
        tests = [f"{r['test'][metric]:.6g}" if r["test"] else "-" for r in records]
        several = any(seeds_of(record) != "1" for record in records)
        costs = _columns_of_goals(records)
        folders = [shorten_path(run.paths.export(run.study, r["rank"])) for r in records]
        numbers = {
            "rank": [str(record["rank"]) for record in records],
            "trial": [str(record["trial"]) for record in records],
            "epochs": [str(record["epochs"]) for record in records],
            "seeds": [seeds_of(record) for record in records if several],
            f"validation {metric}": [mean_of(record) for record in records],
            "P(best)": [chance_of(record) for record in records if several and not costs],
            **costs,
            f"test {metric}": tests,
        }
        columns = [Column(head, cells, Kind.NUMBER) for head, cells in numbers.items() if cells]
        return FittedTable([*columns, Column("export", [show_text(place) for place in folders])])


def _columns_of_goals(records: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return a column for each goal after the first, where a study has several."""
    names = [goal["name"] for goal in records[0].get("goals", ())][1:]
    return {
        name: [
            f"{goal['value']:.6g}"
            for record in records
            for goal in record["goals"]
            if goal["name"] == name
        ]
        for name in names
    }


def draw_front(supervisor: Supervisor) -> None:
    """Draw the front of a study with several goals, for the dashboard's note. An outage of the
    database, or a full disk, costs the picture."""
    queue, run = supervisor.queue, supervisor.run
    if supervisor.note is None or not supervisor.study.spec.has_several_goals:
        return
    with suppress(OSError, SQLAlchemyError, StorageInternalError, StorageError):
        drawn = front_picture(ReportedStudy(queue.study, queue.storage, run.paths))
        if not drawn:
            return
        place = run.paths.artifacts, queue.storage, queue.study_id, run.token
        supervisor.note.drawing = show_drawing(*place, FILE, drawn)
        if supervisor.files is not None:
            supervisor.files.share_artifact(supervisor.note.drawing, run.paths.artifacts)


def end_note(supervisor: Supervisor, state: str, records: Sequence[Mapping[str, Any]] = ()) -> None:
    """Say in the dashboard how the run has ended."""
    if supervisor.note is not None:
        supervisor.note.finish(state, records)
