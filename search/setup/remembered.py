"""Settings of a stored study that hold until a later call gives another value.

    remember_seeds(opened, variables.seeds, own=study.spec.seeds, exported={})      # SEEDS
    remember_pausing_pruner(opened, study, variables.pruner)                        # PRUNER

The database keeps the value that was given last, beside the value of the study file at that time.
If the study file names another value today, the value of the study file holds again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna

from search.errors import BadVariable
from search.setup.stored_study import read_identity
from search.strategies.promotion import AshaPruner
from search.strategies.pruners import make_pruner
from search.study import Study
from search.trials.study_record import KEY, name_strategy, parse_record

# System attributes of the stored study. Each holds the value that was given last and the value of
# the study file at that time, as a list of two.
RETRAIN_EPOCHS = "genstudy:retrain_epochs"
SEEDS = "genstudy:seeds"
PRUNER = "genstudy:pruner"
KEEP = "genstudy:keep"  # this one holds true if the trials keep their checkpoints


def remember_retrain_epochs(
    study: optuna.Study, given: int | None, *, own: int, exported: Mapping[str, Any]
) -> int:
    """Return the most epochs of a retraining, and keep that number with the stored study.

    given: RETRAIN_EPOCHS of this call, or None; own: the number in the study file
    exported: provenance of the best export. It stands in for the stored number in studies of older
        versions, which stored none.
    """
    remembered = _remember(study, RETRAIN_EPOCHS, given, own=own)
    if remembered is not None:
        return remembered
    found = exported.get("most_epochs")
    return found if _is_of(study, exported) and isinstance(found, int) else own


def remember_seeds(
    study: optuna.Study, given: int | None, *, own: int, exported: Mapping[str, Any]
) -> int:
    """Return how many seeds each of the best is retrained with, and keep that number, too.

    The parameters are those of `remember_retrain_epochs`. Older versions trained with one seed, so
    one seed is enough where they made the exports.
    """
    remembered = _remember(study, SEEDS, given, own=own)
    if remembered is not None:
        return remembered
    if _is_of(study, exported) and "certificate" not in exported:
        return _remember(study, SEEDS, 1, own=own) or own
    return own


def remember_keeping(study: optuna.Study, *, given: bool) -> bool:
    """Return whether every trial that may go on later keeps its checkpoint, and keep the answer.

    given: whether this call sets KEEP. Once a call has set it, it stays set.
    """
    storage, study_id = study._storage, study._study_id
    known = storage.get_study_system_attrs(study_id).get(KEEP) is True
    if given and not known:
        storage.set_study_system_attr(study_id, KEEP, True)
    return given or known


def remember_pausing_pruner(opened: optuna.Study, study: Study, given: str | None) -> str | None:
    """Return the pruner that replaces the one of the study file in this run, or None.

    A pruner that lets trials pause stays until a later call gives another one or the study file
    names another one. Otherwise a call without PRUNER would train every paused trial to its end.

    given: PRUNER of this call
    """
    storage, own = opened._storage, name_strategy(study.spec.pruner)
    stored = storage.get_study_system_attrs(opened._study_id).get(PRUNER)
    if given is not None:
        if stored != [given, own]:
            storage.set_study_system_attr(opened._study_id, PRUNER, [given, own])
        return given
    return str(stored[0]) if stored is not None and _is_pausing(stored, own) else None


def has_kept_checkpoints(opened: optuna.Study, study: Study) -> bool:
    """Whether complete trials of the stored study have kept their checkpoint until now."""
    attributes = opened._storage.get_study_system_attrs(opened._study_id)
    own = name_strategy(study.spec.pruner)
    record = parse_record(attributes.get(KEY))
    used = [own if record is None else record.pruner, own]
    return attributes.get(KEEP) is True or _is_pausing(used, own)


def _is_pausing(stored: object, own: str) -> bool:
    """Whether the stored pruner lets trials pause, and the study file still names ``own``."""
    if not (isinstance(stored, list) and len(stored) == 2 and stored[1] == own):
        return False
    try:
        return isinstance(make_pruner(stored[0]), AshaPruner)
    except BadVariable:
        return False


def _remember(study: optuna.Study, key: str, given: int | None, *, own: int) -> int | None:
    """Return the number that was given last, and keep it; None if none was ever given."""
    storage, study_id = study._storage, study._study_id
    stored = storage.get_study_system_attrs(study_id).get(key)
    if given is not None:
        if stored != [given, own]:
            storage.set_study_system_attr(study_id, key, [given, own])
        return given
    if stored is None:
        return None
    return int(stored[0]) if stored[1] == own else own


def _is_of(study: optuna.Study, exported: Mapping[str, Any]) -> bool:
    """Whether an export is of this stored study, and of no deleted namesake."""
    identity = read_identity(study)
    return identity is not None and exported.get("token") == identity.token
