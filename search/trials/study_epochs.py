"""How many epochs the trials of a stored study have, which a later call may raise.

    check_epochs(study, 9)         # before each trial; raises `StudyChanged`

A study is extended while none of its trials runs. A run of before that still takes trials would
train too few epochs.
"""

from __future__ import annotations

import optuna

from search.errors import StudyChanged
from search.words import format_count
from storage.database.json_texts import parse_json

DEFINITION = "definition"  # attribute of the stored study: its identity as JSON


def check_epochs(study: optuna.Study, epochs: int | None) -> None:
    """Raise `StudyChanged` if the study has other epochs by now.

    epochs: of this run; None: it trains nothing, and nothing is checked
    """
    if epochs is None:
        return
    written = study._storage.get_study_user_attrs(study._study_id).get(DEFINITION)
    try:
        stored = int(parse_json(written or "")["epochs"])
    except (ValueError, TypeError, KeyError):  # whoever reads all of it says so
        return
    if stored != epochs:
        raise StudyChanged(
            f"study {study.study_name!r} has trials of {format_count(stored, 'epoch')} by now, and "
            f"this run began with {epochs}: another call has raised EPOCHS. The same command "
            "without EPOCHS goes on"
        )
