"""Which trials are the best, and how far their retraining and export are.

    leaderboard.ranked_trials()         complete trials, best first
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

from models.sealed_files import is_whole as is_whole_file
from search.run import StudyRun
from search.study import StudySpec
from search.trials.retraining_record import (
    MOST_EPOCHS,
    FailedRetraining,
    RetrainingRecord,
    read_record,
)
from search.trials.retries import read_retries
from storage.database.preferences import Choices
from storage.files.exports import is_whole, ranks_beyond, read_provenance


class Leaderboard:
    """The best of one stored study.

    choices: reads what a person has chosen; None where values decide
    """

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
        self._parameters: dict[int, dict[str, Any]] = {}  # of the trials that were ranked last

    def ranked_trials(self) -> list[int]:
        """Return the complete trials, best first: by value, or by a person's choices."""
        complete = self.stored.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self._parameters = {t.number: json.loads(json.dumps(t.params)) for t in complete}
        values = {t.number: self._cost(t.value or 0.0) for t in complete}
        if self.choices is not None:
            return self.choices().ranked(values)
        return sorted(values, key=lambda number: (values[number], number))

    def rank_retrained(self, numbers: Iterable[int]) -> list[int]:
        """Sort retrained trials, best first: by their new values, but a person's choices stay."""
        if self.choices is None:
            return sorted(numbers, key=self.retrained_value)
        chosen = set(numbers)
        return [number for number in self.ranked_trials() if number in chosen]

    def parameters_of(self, number: int) -> dict[str, Any] | None:
        """Return the parameters of a trial that was ranked, as a record keeps them."""
        return self._parameters.get(number)

    def record(self, number: int) -> RetrainingRecord | FailedRetraining | None:
        """Return the record of a retraining if today's run would end alike, else None."""
        record = self._read_record(number)
        if not isinstance(record, RetrainingRecord):
            return record
        usable = record.metric == self.spec.metric and record.patience == self.spec.patience
        if record.ended_by == MOST_EPOCHS:
            alike = record.most_epochs == self.run.retrain_epochs
        else:
            alike = record.epochs <= self.run.retrain_epochs
        return record if usable and alike else None

    def earlier_record(self, number: int) -> RetrainingRecord | None:
        """Return the record of a retraining that ended otherwise than today's would, if any."""
        record = self._read_record(number)
        return record if isinstance(record, RetrainingRecord) else None

    def _read_record(self, number: int) -> RetrainingRecord | FailedRetraining | None:
        """Return the record of a retraining of this trial whose weights are whole, if any.

        A database that was restored gives numbers again, to other parameters.
        """
        paths = self.run.paths.retraining(self.run.study, number)
        record = read_record(paths.record, token=self.run.token, trial=number)
        if record is None or self._is_of_other_parameters(record):
            return None
        if isinstance(record, RetrainingRecord) and not is_whole_file(
            paths.best, of=record.identity()
        ):
            return None
        return record

    def _is_of_other_parameters(self, record: RetrainingRecord | FailedRetraining) -> bool:
        known = self.parameters_of(record.trial)
        return None not in (known, record.parameters) and known != record.parameters

    def exported_trial(self, rank: int) -> int | None:
        """Return the trial of this study that stands in the export folder of ``rank``, if any."""
        found = read_provenance(self.run.paths.export(self.run.study, rank)) or {}
        number = found.get("trial")
        return number if found.get("token") == self.run.token and isinstance(number, int) else None

    def kept_exports(self, last: int) -> dict[int, int | None]:
        """Return the exports after rank ``last`` that an earlier run made, with their trials."""
        ranks = ranks_beyond(self.run.paths.exports(self.run.study), last)
        return {rank: self.exported_trial(rank) for rank in ranks}

    def retrained_value(self, number: int) -> tuple[float, int]:
        """Return what a retrained trial is sorted by: lower is better."""
        record = self.record(number)
        assert isinstance(record, RetrainingRecord), "ranked after retraining"
        return self._cost(record.valid[self.spec.metric]), number

    def is_exported(self, number: int, rank: int) -> bool:
        """Whether the export of ``rank`` is whole and made from trial ``number``'s retraining."""
        record = self.record(number)
        folder = self.run.paths.export(self.run.study, rank)
        found = read_provenance(folder)
        if not isinstance(record, RetrainingRecord) or found is None:
            return False
        try:
            exported = RetrainingRecord.from_plain(found)
        except (ValueError, TypeError):
            return False
        measured = rank > 1 or record.test is not None
        names = ("trial", "made", "token", "parameters", "valid", "test")
        same = all(getattr(exported, name) == getattr(record, name) for name in names)
        return measured and same and found.get("rank") == rank and is_whole(folder, found)

    def is_finished(self, ended: int, top: int) -> bool:
        """Whether nothing is left to do: all trials have ended, the best ``top`` are exported.

        ended: how many trials have ended
        """
        if ended < self.run.trials:
            return False
        chosen: list[int] = []
        for number in self.ranked_trials():
            if len(chosen) == top:
                break
            record = self.record(number)
            if record is None:
                return False
            if isinstance(record, RetrainingRecord):
                chosen.append(number)
        ranked = enumerate(self.rank_retrained(chosen), start=1)
        return all(self.is_exported(number, rank) for rank, number in ranked)

    def first_failure_reason(self) -> str | None:
        """Return why the first failed trial failed that is not tried again; None: none did."""
        failed = self.stored.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        again = read_retries(self.stored).numbers
        return next((t.user_attrs.get("reason") for t in failed if t.number not in again), None)

    def export_records(self, count: int) -> list[dict[str, Any]]:
        """Return what the export folders of ranks 1 to ``count`` say, best first."""
        found = [
            read_provenance(self.run.paths.export(self.run.study, rank))
            for rank in range(1, count + 1)
        ]
        return [record for record in found if record is not None]

    def _cost(self, value: float) -> float:
        return value if self.spec.direction == "minimize" else -value
