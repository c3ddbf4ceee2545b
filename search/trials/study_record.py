"""What a run leaves with its study, for those who look at it later: reports, notes.

    write_record(study, StudyRecord(trials=40, sampler="tpe", ...))
    read_record(study)                # None for a study of an older version

A study's definition says what makes its values compare. This record says how the last run went
about it: these settings may change from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import optuna

from storage.database.json_texts import parse_json

KEY = "genstudy:run"  # a system attribute of the study


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """The settings of a study's last run.

    command: the name by which the study is started again
    trials: in all; top: how many of the best are exported; retrain_epochs: at most, of each
    sampler, pruner: as a user writes them; devices: what the workers train on
    images: how many, by part; shape: (C, H, W) of each
    trial_minutes: how long a trial may take; revision: commit of the code; both for workers that
        join; runs: a word of the folder RUNS; stop: when it ends early, as STOP names it; warm:
        what it has of earlier studies, as WARM says it. Older versions kept none of them
    """

    command: str
    trials: int
    top: int
    retrain_epochs: int
    sampler: str
    pruner: str
    devices: str
    images: Mapping[str, int]
    shape: tuple[int, ...]
    trial_minutes: float | None = None
    revision: str = ""
    runs: str = ""
    stop: str = ""
    warm: str = ""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the record in ``plain``; raises `TypeError` or `KeyError` for another thing."""
        record = cls(**{**plain, "shape": tuple(plain["shape"])})
        texts: tuple[object, ...] = (record.command, record.sampler, record.pruner, record.devices)
        texts += (record.revision, record.runs, record.stop, record.warm)
        counts = (record.trials, record.top, record.retrain_epochs, *record.shape)
        counts += tuple(record.images[part] for part in ("train", "valid", "test"))
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text of the record is none")
        if not all(isinstance(count, int) for count in counts):
            raise TypeError("a number of the record is none")
        if not isinstance(record.trial_minutes, int | float | None):
            raise TypeError("the minutes of the record are no number")
        return record


def name_strategy(chosen: object) -> str:
    """Return a sampler or pruner as a user writes it: its name, or that of its class."""
    if isinstance(chosen, str):
        return chosen
    return getattr(chosen, "__name__", "").strip("<>") or type(chosen).__name__


def write_record(study: optuna.Study, record: StudyRecord) -> None:
    """Store the record with the study in the database."""
    study._storage.set_study_system_attr(study._study_id, KEY, json.dumps(asdict(record)))


def read_record(study: optuna.Study) -> StudyRecord | None:
    """Return the stored record; None where there is none that this version can read."""
    return parse_record(study._storage.get_study_system_attrs(study._study_id).get(KEY))


def parse_record(written: Any) -> StudyRecord | None:
    """Return the record that the attribute holds; None where this version cannot read it."""
    try:
        return None if written is None else StudyRecord.from_plain(parse_json(written))
    except (ValueError, TypeError, KeyError):
        return None
