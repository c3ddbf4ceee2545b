"""The note of a study in the dashboard, kept up to date while it runs.

    note = StudyNote(study, run, queue, record)
    note.refresh("searching", counts)          # at every tick; it is written when there is news
    note.finish("done", records)               # at the end, with the winner and how to load it

It says how far the study is, what the best trial is and how it looks, what is left, and, after the
export, the winner. An outage of the database costs a note and holds up nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from search.goals import join_names
from search.run import StudyRun
from search.spelling import spell
from search.study import Study
from search.trials.export_words import describe_winner, loading_lines, sort_pictures
from search.trials.queue import TrialQueue
from search.trials.study_front import front_of
from search.trials.study_record import StudyRecord, write_record
from search.words import format_count, format_parameters
from storage.database.trial_states import count_ended, find_best
from storage.files.artifacts import (
    artifact_address,
    study_pictures,
    trial_pictures,
)
from storage.files.certificate_words import certificate_lines
from storage.files.markdown import (
    escape_markup,
    format_code,
    format_code_span,
    format_rows,
    format_table,
)
from storage.files.model_card import warnings_of
from storage.files.study_summary import stored_summary

MOST_OF_FRONT = 10  # trials
EVERY = 10.0  # seconds between two notes while the study runs: the dashboard asks as often


class StudyNote:
    """The note of one run's study.

    table: what the study concludes with; None: nothing yet
    """

    def __init__(self, study: Study, run: StudyRun, queue: TrialQueue, record: StudyRecord) -> None:
        self.study = study
        self.run = run
        self.queue = queue
        self.record = record
        self.total = run.trials  # less where the search has stopped early
        found = stored_summary(queue.study)
        self.table: Mapping[str, Any] | None = None if found is None else found[0]
        # older versions kept the table alone as the note
        self._earlier = "" if self.table is None else format_table(self.table) + "\n"
        self.drawing: str | None = None  # of the front, as it is attached to the study
        self._said: tuple[str, object] | None = None  # what the last note was about
        self._written = float("-inf")  # when

    def begin(self) -> None:
        """Keep the settings of this run with the study, for notes and reports."""
        self.queue.retry.wait_for(lambda: write_record(self.queue.study, self.record))

    def refresh(self, state: str, counts: Counter[str]) -> None:
        """Write the note of a study that runs, if anything has changed and the last one is old."""
        news = (state, tuple(sorted(counts.items())))
        same_state = self._said is not None and self._said[0] == state
        recent = time.monotonic() - self._written < EVERY
        if news == self._said or (same_state and recent):
            return
        try:
            self._write([self._progress(state, counts), *self._best(), *self._table()])
        except Exception as error:
            if not self.queue.retry.note_error(error):
                raise
        self._said, self._written = news, time.monotonic()

    def finish(self, state: str, records: Sequence[Mapping[str, Any]] = ()) -> None:
        """Write the note of a study that ends or stops. records: of the exports, best first"""
        with suppress(Exception):  # the run has ended: a note is worth no error of its own
            counts = self.queue.count()
            if self.queue.is_stopped():
                self.total = counts.total()
                self.record = replace(self.record, trials=self.total)
                self.begin()  # status and report say no more of those that will never be
            parts = [self._progress(state, counts)]
            if count_ended(counts) < self.total:
                line = spell("study", NAME=self.run.name)
                parts.append(f"{format_code_span(line)} goes on with it.")
            if records and self.study.spec.has_several_goals:
                parts += self._front()
            parts += self._winner(records[0]) if records else self._best()
            self._write([*parts, *self._table()])

    def _write(self, parts: Sequence[str]) -> None:
        """Write the note, unless the database is away."""
        self.queue.try_write_note(None, "\n\n".join(parts), earlier=self._earlier)

    def _progress(self, state: str, counts: Counter[str]) -> str:
        """Return how far the study is, and what is left of it."""
        ended, total = count_ended(counts), self.total
        states = {
            "complete": counts["COMPLETE"], "pruned": counts["PRUNED"], "failed": counts["FAIL"],
            "running": counts["RUNNING"], "paused": counts["PAUSED"],
            "interrupted": counts["WAITING"],
        }  # fmt: skip
        shown = ", ".join(f"{count} {word}" for word, count in states.items() if count)
        left = max(0, total - ended)
        begin = escape_markup(state[:1].upper() + state[1:])
        words = f"**{begin}**: {ended} of {format_count(total, 'trial')} ended"
        words += f" ({shown})" if shown else ""
        if left:
            at_most = format_count(left * self.run.epochs, "epoch")
            words += f"; {format_count(left, 'trial')} left, at most {at_most}"
        return f"{words}."

    def _best(self) -> list[str]:
        """Return the best trial with its picture; nothing where a person is to choose."""
        if self.run.shown is not None:
            return []
        if self.study.spec.has_several_goals:
            return self._front()
        queue, metric = self.queue, self.study.spec.quality
        minimize = self.study.spec.minimizes
        with queue.engine.connect() as connection:
            best = find_best(connection, queue.study_id, minimize=minimize)
        if best is None:
            return ["No trial is complete yet."]
        trial = queue.storage.get_trial(best.trial_id)
        shown = trial_pictures(queue.storage, best.trial_id)
        words = f"**Best: trial {best.number}**, {escape_markup(metric)} **{best.value:.6g}**"
        return [
            f"{words}: {escape_markup(format_parameters(trial.params))}",
            *[
                f"![best]({artifact_address(queue.study_id, best.trial_id, artifact)})"
                for artifact in list(shown.values())[:1]
            ],
        ]

    def _front(self) -> list[str]:
        """Return the front: how many trials are on it, and those that stand for it best."""
        goals = self.study.spec.goals
        front = front_of(self.queue.study.get_trials(deepcopy=False), goals)
        if not front:
            return ["No trial is complete yet that violates no constraint."]
        shown = sorted(front[:MOST_OF_FRONT], key=lambda trial: trial.values)
        rows = [
            [str(trial.number), *(f"{value:.6g}" for value in trial.values or ())]
            for trial in shown
        ]
        are = "is" if len(front) == 1 else "are"
        count = format_count(len(front), "trial")
        words = f"**{count} {are} on the front** of {escape_markup(join_names(goals))}:"
        heads = ["trial", *(escape_markup(goal.name) for goal in goals)]
        place = artifact_address(self.queue.study_id, None, self.drawing or "")
        drawing = [f"![front]({place})"] if self.drawing else []
        return [words, *drawing, format_rows(heads, rows)]

    def _winner(self, about: Mapping[str, Any]) -> list[str]:
        """Return the winner, its pictures, and the lines that load it."""
        folder = self.run.paths.export(self.run.study, int(about["rank"]))
        pictures = study_pictures(self.run.token, self.queue.storage, self.queue.study_id)
        first = [name for name in sort_pictures(about["pictures"]) if name in pictures]
        parts = [
            describe_winner(about),
            *[f"- **{escape_markup(line)}**" for line in warnings_of(about)],
            "\n".join(f"- {escape_markup(line)}" for line in certificate_lines(about)),
            *[
                f"![{name.rpartition('.')[0]}]"
                f"({artifact_address(self.queue.study_id, None, pictures[name])})"
                for name in first[:1]
            ],
            format_code(loading_lines(folder, about), "python"),
        ]
        return [part for part in parts if part]

    def _table(self) -> list[str]:
        return [] if self.table is None else [format_table(self.table)]
