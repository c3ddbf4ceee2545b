"""What a retraining leaves behind: the record that ranks, exports and model cards are made from.

    record = read_record(paths.record, token=run.token, trial=7)
    match record:
        case RetrainingRecord(): ...     # there is a model
        case FailedRetraining(): ...     # it failed in its first epoch
        case None: ...                   # nothing usable is there: train

A record is one JSON file beside the retraining's checkpoints, and tells when it is damaged. With
the files' hashes it becomes an export's provenance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from storage.files.sealed_json import read_sealed, write_sealed

MOST_EPOCHS, PATIENCE = "most epochs", "patience"  # how a retraining ends that nothing broke


@dataclass(frozen=True, kw_only=True)
class FailedRetraining:
    """A retraining that failed in its first epoch.

    token: of the stored study; parameters: of the trial; None: an older version wrote none
    repeat: which of the trial's seeds it was, from 1
    """

    trial: int
    token: str
    failed: str
    parameters: dict[str, Any] | None = None
    repeat: int = 1

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_sealed(path, asdict(self))


@dataclass(frozen=True, kw_only=True)
class RetrainingRecord:
    """All that is known of a retraining, as plain values.

    token: of the stored study: a deleted namesake has another
    trial, trial_value, parameters: the trial whose configuration was trained
    repeat: which of its seeds, from 1; seed: that seed
    epochs, best_epoch: from 1; ended_by: ``patience``, ``most epochs`` or an error
    valid, test: metrics of the best epoch by name; ``test`` is None until rank 1 is measured
    judge, test_judge: what samples were measured with; None where none were
    baseline: ``what`` the model has to beat, and what that scores on ``valid`` and ``test``
    remarks: what a person has to know of the images in this study
    horizon: epochs over which its schedules were stretched; None: they do not depend on that
    curve: of each epoch its ``number``, ``train``, ``valid`` and ``seconds``
    steps: what single steps of a GAN measured (`models.training.step_curve`); None: nothing
    """

    study: str
    token: str
    study_file: str
    trial: int
    trial_value: float | None
    parameters: dict[str, Any]
    starts_from: dict[str, Any] | None
    config: dict[str, Any]
    model: str
    model_parameters: int
    data: str
    images: dict[str, int]
    pixels: str
    metric: str
    direction: str
    seed: int
    study_seed: int
    epochs: int
    most_epochs: int
    patience: int
    ended_by: str
    best_epoch: int
    valid: dict[str, float]
    judge: dict[str, Any] | None
    verdict: dict[str, Any]
    test: dict[str, float] | None
    tables: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    seconds: float
    device: str
    revision: str
    made: str
    test_judge: dict[str, Any] | None = field(default=None)
    baseline: dict[str, Any] | None = field(default=None)
    remarks: list[str] = field(default_factory=list)
    repeat: int = 1
    horizon: int | None = None
    steps: dict[str, Any] | None = field(default=None)

    def to_plain(self) -> dict[str, Any]:
        """Return the record as JSON takes it."""
        plain = asdict(self)
        for name in ("test_judge", "baseline", "horizon", "steps"):
            if plain[name] is None:
                del plain[name]
        return plain

    def identity(self) -> dict[str, Any]:
        """Return what the checkpoints of this retraining belong to."""
        return retraining_identity(
            token=self.token,
            trial=self.trial,
            parameters=self.parameters,
            config=self.config,
            seed=self.seed,
            horizon=self.horizon,
        )

    def write(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        write_sealed(path, self.to_plain())

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Return the record in ``plain``; raises `ValueError` where something is missing."""
        names = {entry.name for entry in fields(cls)}
        try:
            record = cls(**{name: plain[name] for name in names & plain.keys()})
        except TypeError as error:
            raise ValueError(f"this is no record of a retraining ({error})") from error
        measured = [record.valid, record.valid if record.test is None else record.test]
        whole = isinstance(record.epochs, int) and all(
            isinstance(values, dict) and isinstance(values.get(record.metric), int | float)
            for values in measured
        )
        if not whole:
            raise ValueError(f"the record has no {record.metric!r} of its best epoch")
        return record


def retraining_identity(
    *,
    token: str,
    trial: int,
    parameters: Mapping[str, Any],
    config: Mapping[str, Any],
    seed: int,
    horizon: int | None = None,
) -> dict[str, Any]:
    """Return what the checkpoints of a retraining belong to.

    horizon: where a schedule is stretched over it, a training does not go on with another one
    """
    more = {} if horizon is None else {"horizon": horizon}
    return {
        "kind of file": "retraining",
        "study": token,
        "trial": trial,
        "parameters": dict(parameters),
        "configuration": dict(config),
        "seed": seed,
        **more,
    }


def read_record(
    path: Path, *, token: str, trial: int, repeat: int = 1
) -> RetrainingRecord | FailedRetraining | None:
    """Return the record in ``path``; None where there is none of this study's trial and of that
    repeat, or a damaged one."""
    try:
        plain = read_sealed(path)
        if plain is None or (plain.get("token"), plain.get("trial")) != (token, trial):
            return None
        if plain.get("repeat", 1) != repeat:
            return None
        if "failed" in plain:
            return FailedRetraining(
                trial=trial,
                token=token,
                failed=str(plain["failed"]),
                parameters=plain.get("parameters"),
                repeat=repeat,
            )
        return RetrainingRecord.from_plain(plain)
    except (ValueError, KeyError, TypeError):
        return None
