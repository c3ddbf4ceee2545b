"""Which trials are the best, and how far their retraining and export are.

    leaderboard.candidates()            complete trials, best first
    leaderboard.record(7)               of trial 7's retraining, if today's would end alike
    leaderboard.is_exported(7, rank=1)  whether that export is of this retraining, and whole

All of it is read from the database and from files under RUNS; nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import optuna
from optuna.trial import TrialState

from search.run import StudyRun
from search.study import StudySpec
from storage.database.preferences import Choices
from storage.files.exports import is_whole, read_provenance

RECORDED = {"trial", "token", "made", "patience", "ended_by", "most_epochs", "epochs", "test"}


class Leaderboard:
    """The best of one stored study. choices: reads what a person has chosen, where one decides"""

    def __init__(
        self,
        spec: StudySpec,
        run: StudyRun,
        stored: optuna.Study,
        choices: Callable[[], Choices] | None = None,
    ) -> None:
        self.spec = spec
        self.run = run
        self.stored = stored
        self.choices = choices

    def ranked_trials(self) -> list[int]:
        """Complete trials, best first: by value, or by a person's choices."""
        complete = self.stored.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        sign = 1 if self.spec.direction == "minimize" else -1
        values = {t.number: sign * (t.value or 0.0) for t in complete}
        if self.choices is not None:
            return self.choices().ranked(values)
        return sorted(values, key=lambda number: (values[number], number))

    def rank_retrained(self, numbers: Iterable[int]) -> list[int]:
        """Retrained trials, best first: by their new values, but a person's choices stay."""
        if self.choices is None:
            return sorted(numbers, key=self.retrained_value)
        chosen = set(numbers)
        return [number for number in self.ranked_trials() if number in chosen]

    def record(self, number: int) -> dict[str, Any] | None:
        """The record of a retraining, if it is this study's and today's run would end alike."""
        paths = self.run.paths.retraining(self.run.study, number)
        try:
            record: dict[str, Any] = json.loads(paths.record.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(record, dict) or record.get("token") != self.run.token:
            return None
        if "failed" in record:
            return record
        if not self._is_complete(record):
            return None
        if not paths.best.exists() or record["patience"] != self.spec.patience:
            return None
        if record["ended_by"] == "most epochs":
            alike = record["most_epochs"] == self.run.retrain_epochs
        else:
            alike = record["epochs"] <= self.run.retrain_epochs
        return record if alike else None

    def _is_complete(self, record: dict[str, Any]) -> bool:
        """Whether a record, or a provenance, says what the leaderboard is made from."""
        metric = self.spec.metric
        values = [record.get("valid"), record.get("test") or record.get("valid")]
        return (
            record.keys() >= RECORDED
            and isinstance(record["epochs"], int)
            and all(isinstance(value, dict) for value in values)
            and all(isinstance(dict(value or {}).get(metric), int | float) for value in values)
        )

    def is_retrained(self, number: int) -> bool:
        """Whether the retraining gave a model, and not a failure from its first epoch on."""
        return "failed" not in (self.record(number) or {})

    def retrained_value(self, number: int) -> tuple[float, int]:
        record = self.record(number)
        assert record is not None, "ranked after retraining"
        sign = 1 if self.spec.direction == "minimize" else -1
        return sign * record["valid"][self.spec.metric], number

    def is_exported(self, number: int, rank: int) -> bool:
        record = self.record(number)
        found = read_provenance(self.run.paths.export(self.run.study, rank))
        if record is None or found is None or not self._is_complete(found):
            return False
        judged = rank > 1 or record["test"] is not None
        same = all(found.get(key) == record[key] for key in ("trial", "made", "token"))
        folder = self.run.paths.export(self.run.study, rank)
        return judged and same and found.get("rank") == rank and is_whole(folder, found)

    def is_finished(self, ended: int, top: int) -> bool:
        """All trials have ended and the best ``top`` are exported: nothing is left to do."""
        if ended < self.run.trials:
            return False
        chosen: list[int] = []
        for number in self.ranked_trials():
            record = self.record(number)
            if len(chosen) == top:
                break
            if record is None:
                return False
            if "failed" not in record:
                chosen.append(number)
        ranked = enumerate(self.rank_retrained(chosen), start=1)
        return all(self.is_exported(number, rank) for rank, number in ranked)

    def first_failure_reason(self) -> str | None:
        """Why the first failed trial failed."""
        failed = self.stored.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return next((t.user_attrs.get("reason") for t in failed), None)

    def export_records(self, count: int) -> list[dict[str, Any]]:
        """What the export folders say, best first."""
        found = [
            read_provenance(self.run.paths.export(self.run.study, rank))
            for rank in range(1, count + 1)
        ]
        return [record for record in found if record is not None]
