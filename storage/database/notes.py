"""Notes in Markdown that optuna-dashboard shows with studies and trials.

    write_note(storage, study_id, trial_id, "**complete**, mse 0.02")     # of a trial
    write_note(storage, study_id, None, "2 of 40 trials have ended")      # of the study
    read_note(storage, study_id, trial_id)

The dashboard keeps a note in system attributes of the study, in parts, beside a version that each
change raises. A note that a person has written or changed stays as it is: a note that is ours ends
with a digest of its own words, on a line that Markdown does not show.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Connection, bindparam, text

from storage.database.optuna_storage import TRIAL_NOTE, TrialStorage
from storage.database.transactions import read, write

PART = 2045  # characters: the most that the dashboard keeps in one attribute
SIGNATURE = "\n\n[//]: # (genstudy {digest})\n"

MOST_PARTS = (
    40  # of one note: its keys are named one by one, so that the database's index finds them
)

READ = text(
    "SELECT key, value_json FROM study_system_attributes "
    "WHERE study_id = :study_id AND key IN :keys"
).bindparams(bindparam("keys", expanding=True))
READ_ALL = text(
    "SELECT key, value_json FROM study_system_attributes "
    "WHERE study_id = :study_id AND substr(key, 1, 10) = 'dashboard:'"
)
WRITE = text(
    "INSERT INTO study_system_attributes (study_id, key, value_json) "
    "VALUES (:study_id, :key, :value) "
    "ON CONFLICT (study_id, key) DO UPDATE SET value_json = excluded.value_json"
)


def write_note(
    storage: TrialStorage, study_id: int, trial_id: int | None, words: str, *, earlier: str = ""
) -> bool:
    """Replace our note of a trial or, with None, of the study; False where it is another's.

    A note that says the same already is left alone.
    earlier: a note without our signature that is ours, too
    """
    body = sign(words[: MOST_PARTS * PART - 100])
    if not storage.known:
        stored = storage.get_study_system_attrs(study_id)
        now = _join(stored, trial_id)
        ours = is_ours(now) or now == earlier
        if ours and now != body:
            for key, value in _attributes(stored, trial_id, body).items():
                storage.set_study_system_attr(study_id, key, value)
        return ours
    with write(storage.engine) as connection:
        stored = _read(connection, study_id, trial_id)
        now = _join(stored, trial_id)
        if now == body:
            return True
        if not is_ours(now) and now != earlier:
            return False
        found = _attributes(stored, trial_id, body)
        rows = [{"study_id": study_id, "key": k, "value": json.dumps(v)} for k, v in found.items()]
        connection.execute(WRITE, rows)
        if trial_id is not None:
            storage.check_attempt(connection, trial_id)
    return True


def read_note(storage: TrialStorage, study_id: int, trial_id: int | None) -> str:
    """Return the note of a trial or, with None, of the study; empty where there is none."""
    if not storage.known:
        return _join(storage.get_study_system_attrs(study_id), trial_id)
    with read(storage.engine) as connection:
        return _join(_read(connection, study_id, trial_id), trial_id)


def read_trial_notes(storage: TrialStorage, study_id: int) -> dict[int, tuple[int, str]]:
    """Return the version and the words of all notes of a study's trials, by the trials' ids."""
    if storage.known:
        with read(storage.engine) as connection:
            rows = connection.execute(READ_ALL, {"study_id": study_id})
            stored = {str(key): json.loads(value) for key, value in rows}
    else:
        stored = storage.get_study_system_attrs(study_id)
    notes: dict[int, dict[str, Any]] = {}
    for key, value in stored.items():
        if TRIAL_NOTE.match(key):
            notes.setdefault(int(key.split(":")[1]), {})[key] = value
    return {
        trial_id: (int(parts.get(f"{start_of(trial_id)}ver") or 0), _join(parts, trial_id))
        for trial_id, parts in notes.items()
    }


def sign(words: str) -> str:
    """Return a note with our signature."""
    digest = hashlib.sha256(words.strip().encode()).hexdigest()[:16]
    return words.strip() + SIGNATURE.format(digest=digest)


def is_ours(body: str) -> bool:
    """Whether nobody has changed a note since we wrote it; an empty one is anybody's."""
    words, mark, _ = body.partition(SIGNATURE.partition("{")[0])
    return not body.strip() or (bool(mark) and sign(words) == body)


def start_of(trial_id: int | None) -> str:
    """Return how the keys of a note begin."""
    return "dashboard:note_" if trial_id is None else f"dashboard:{trial_id}:note_"


def _read(connection: Connection, study_id: int, trial_id: int | None) -> dict[str, Any]:
    start = start_of(trial_id)
    keys = [f"{start}ver", *(f"{start}str:{place}" for place in range(MOST_PARTS))]
    rows = connection.execute(READ, {"study_id": study_id, "keys": keys})
    return {str(key): json.loads(value) for key, value in rows}


def _join(attributes: dict[str, Any], trial_id: int | None) -> str:
    start = f"{start_of(trial_id)}str:"
    parts = {key: str(value) for key, value in attributes.items() if key.startswith(start)}
    return "".join(parts.get(f"{start}{place}", "") for place in range(len(parts)))


def _attributes(stored: dict[str, Any], trial_id: int | None, body: str) -> dict[str, Any]:
    """Return the attributes that hold ``body``; parts of a longer one become empty."""
    start = start_of(trial_id)
    parts = [body[place : place + PART] for place in range(0, len(body), PART)]
    empty = [""] * (sum(key.startswith(f"{start}str:") for key in stored) - len(parts))
    found: dict[str, Any] = {
        f"{start}str:{place}": part for place, part in enumerate([*parts, *empty])
    }
    return {f"{start}ver": int(stored.get(f"{start}ver") or 0) + 1, **found}
