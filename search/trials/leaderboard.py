"""Which trials are the best, and how far their retrainings and exports are.

    leaderboard.ranked_trials()         complete trials, best first
    leaderboard.record(7)               of trial 7's retraining, if today's would end alike
    leaderboard.record(7, repeat=2)     of that with its second seed
    leaderboard.is_exported(7, rank=1)  whether that export is of this retraining, and whole

All of it is read from the database and from files under RUNS; nothing is written. How the seeds of
several trials rank them is in `search.trials.standings`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState

from models.sealed_files import is_whole as is_whole_file
from search.run import StudyRun
from search.study import StudySpec
from search.trials.certificate import Certificate
from search.trials.retraining_record import (
    MOST_EPOCHS,
    FailedRetraining,
    RetrainingRecord,
    read_record,
)
from search.trials.retries import read_retries
from search.trials.study_front import front_of
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
        self._values: dict[int, float | None] = {}  # likewise

    def ranked_trials(self) -> list[int]:
        """Return the complete trials, best first: by value, or by a person's choices.

        Of several goals those on the front, who adds most to the hypervolume first.
        """
        complete = self.stored.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        self._parameters = {t.number: json.loads(json.dumps(t.params)) for t in complete}
        self._values = {t.number: t.values[0] if t.values else None for t in complete}
        if self.spec.has_several_goals:
            return [trial.number for trial in front_of(complete, self.spec.goals)]
        values = {t.number: self._cost(t.value or 0.0) for t in complete}
        if self.choices is not None:
            return self.choices().ranked(values)
        return sorted(values, key=lambda number: (values[number], number))

    def parameters_of(self, number: int) -> dict[str, Any] | None:
        """Return the parameters of a trial that was ranked, as a record keeps them."""
        return self._parameters.get(number)

    def value_of(self, number: int) -> float | None:
        """Return the quality of a trial that was ranked, as the search found it."""
        return self._values.get(number)

    def record(self, number: int, repeat: int = 1) -> RetrainingRecord | FailedRetraining | None:
        """Return the record of a retraining if today's run would end in the same way, else None."""
        record = self._read_record(number, repeat)
        if not isinstance(record, RetrainingRecord):
            return record
        usable = record.metric == self.spec.quality and record.patience == self.spec.patience
        if record.ended_by == MOST_EPOCHS or record.horizon is not None:
            alike = record.most_epochs == self.run.retrain_epochs
        else:
            alike = record.epochs <= self.run.retrain_epochs
        return record if usable and alike else None

    def earlier_record(self, number: int, repeat: int = 1) -> RetrainingRecord | None:
        """Return the record of a retraining that ended otherwise than today's run would, if any."""
        record = self._read_record(number, repeat)
        return record if isinstance(record, RetrainingRecord) else None

    def _read_record(self, number: int, repeat: int) -> RetrainingRecord | FailedRetraining | None:
        """Return the record of a retraining of this trial, if its weights are whole.

        The parameters have to agree: a restored database gives numbers again, to other parameters.
        """
        paths = self.run.paths.retraining(self.run.study, number, repeat)
        record = read_record(paths.record, token=self.run.token, trial=number, repeat=repeat)
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

    def is_exported(
        self, number: int, rank: int, *, repeat: int = 1, certificate: Certificate | None = None
    ) -> bool:
        """Whether the export of ``rank`` is whole and made from trial ``number``'s retraining.

        certificate: what its model card has to say at least; None: nothing
        """
        folder = self.run.paths.export(self.run.study, rank)
        found = read_provenance(folder)
        return (
            found is not None
            and self.is_export_of(found, number, rank, repeat=repeat, certificate=certificate)
            and is_whole(folder, found)
        )

    def is_export_of(
        self,
        found: dict[str, Any],
        number: int,
        rank: int,
        *,
        repeat: int = 1,
        certificate: Certificate | None = None,
    ) -> bool:
        """Whether the provenance ``found`` is that of such an export."""
        record = self.record(number, repeat)
        if not isinstance(record, RetrainingRecord):
            return False
        try:
            exported = RetrainingRecord.from_plain(found)
        except (ValueError, TypeError):
            return False
        measured = rank > 1 or record.test is not None
        names = ("trial", "repeat", "made", "token", "parameters", "valid", "test")
        same = all(getattr(exported, name) == getattr(record, name) for name in names)
        same &= certificate is None or certificate.is_said_by(found.get("certificate"))
        return measured and same and found.get("rank") == rank

    def first_failure_reason(self) -> str | None:
        """Return why the first failed trial failed that is not tried again; None: none did."""
        failed = self.stored.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        again = read_retries(self.stored).numbers
        return next((t.user_attrs.get("reason") for t in failed if t.number not in again), None)

    def all_exports(self) -> list[dict[str, Any]]:
        """Return what all export folders of this study say, those of earlier runs included."""
        ranks = ranks_beyond(self.run.paths.exports(self.run.study), 0)
        found = [read_provenance(self.run.paths.export(self.run.study, each)) for each in ranks]
        return [each for each in found if each and each.get("token") == self.run.token]

    def export_records(self, count: int) -> list[dict[str, Any]]:
        """Return what the export folders of ranks 1 to ``count`` say, best first."""
        found = [
            read_provenance(self.run.paths.export(self.run.study, rank))
            for rank in range(1, count + 1)
        ]
        return [record for record in found if record is not None]

    @property
    def ranks_by_value(self) -> bool:
        """Whether one value ranks the trials. Otherwise a person does, or they stand on a front."""
        return self.choices is None and not self.spec.has_several_goals

    @property
    def minimizes(self) -> bool:
        """Whether a smaller value is better."""
        return self.spec.minimizes

    def _cost(self, value: float) -> float:
        return value if self.minimizes else -value
