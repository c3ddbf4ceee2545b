"""What a stored study was made with, and whether it still is.

Values compare only if they were measured alike: the same search space, data,
model, metric, epochs and seed. The definition is kept with the study in the
database; one that differs is refused with what changed and how to go on.
Samplers, pruners and the number of trials may change at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution

from models.data.images import ImageSplits
from search.errors import StudyChanged
from search.study import Study
from storage.errors import short

ATTRIBUTE = "definition"


@dataclass(frozen=True, kw_only=True)
class StudyIdentity:
    """Plain values only.

    file_epochs, file_seed: the study file's, under any override
    token: of this stored study alone, so that files of a deleted namesake are not taken for its
    base: the export that its models start from, or that judges them; empty: there is none
    """

    model: str
    metric: str
    direction: str
    data: str
    pixels: str
    shape: tuple[int, ...]
    space: dict[str, str]
    epochs: int
    file_epochs: int
    seed: int
    file_seed: int
    configurations: str
    token: str
    base: str = ""


def identify_study(
    study: Study,
    images: ImageSplits,
    *,
    epochs: int | None,
    seed: int | None,
    stored: StudyIdentity | None,
) -> StudyIdentity:
    """Today's definition. Unset variables mean the stored study's value, then the file's."""
    spec = study.spec
    if epochs is None:
        epochs = stored.epochs if stored and stored.file_epochs == spec.epochs else spec.epochs
    if seed is None:
        seed = stored.seed if stored and stored.file_seed == spec.seed else spec.seed
    return StudyIdentity(
        model=f"{spec.model.__module__}:{spec.model.__qualname__}",
        metric=spec.metric,
        direction=spec.direction,
        data=images.name,
        pixels=images.fingerprint,
        shape=images.shape,
        space={name: distribution_to_json(found) for name, found in sorted(study.space.items())},
        epochs=epochs,
        file_epochs=spec.epochs,
        seed=seed,
        file_seed=spec.seed,
        configurations=study.configurations,
        token=stored.token if stored else uuid4().hex,
    )


def read_identity(study: optuna.Study) -> StudyIdentity | None:
    """The stored definition; None for a study that genstudy did not make.

    Raises `StudyChanged` for one that another version wrote, or somebody's hand.
    """
    written = study.user_attrs.get(ATTRIBUTE)
    if written is None:
        return None
    try:
        values: dict[str, Any] = json.loads(written)
        return StudyIdentity(**{**values, "shape": tuple(values["shape"])})
    except (ValueError, TypeError, KeyError) as error:
        raise StudyChanged(
            f"study {study.study_name!r} is stored with a definition that this version cannot "
            f"read ({short(str(error))}); use the version that made it, or another RUNS"
        ) from error


def write_identity(study: optuna.Study, definition: StudyIdentity) -> None:
    study.set_user_attr(ATTRIBUTE, json.dumps(asdict(definition)))


def check_identity(name: str, stored: StudyIdentity, now: StudyIdentity) -> None:
    """Raise `StudyChanged` with everything that differs."""
    changes = _space_changes(stored.space, now.space)
    labels = {
        "model": "model",
        "metric": "metric",
        "direction": "direction",
        "data": "data",
        "pixels": "pixels of the images",
        "shape": "image shape",
        "epochs": "EPOCHS",
        "seed": "SEED",
        "base": "the export that its models start from or are judged by",
        "configurations": "the configurations that suggest makes, values outside the space",
    }
    for field, label in labels.items():
        old, new = getattr(stored, field), getattr(now, field)
        if field == "configurations" and changes:
            continue  # it follows from the others
        if old != new:
            changes.append(f"{label} {old}, now {new}")
    if changes:
        raise StudyChanged(
            f"study {name!r} was made with {'; '.join(changes)}: its trials would not compare. "
            "Put that back to go on, or start afresh with another RUNS or a renamed study file"
        )


def _space_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    changes = []
    for name in sorted(set(old) | set(new)):
        if name not in new:
            changes.append(f"parameter {name} {_shown(old[name])}, now gone")
        elif name not in old:
            changes.append(f"no parameter {name}, now {_shown(new[name])}")
        elif old[name] != new[name]:
            changes.append(f"{name} {_shown(old[name])}, now {_shown(new[name])}")
    return changes


def _shown(written: str) -> str:
    """``log 5e-05 to 0.05``, ``4 to 10`` or ``adam|sgd``."""
    found = json_to_distribution(written)
    if isinstance(found, optuna.distributions.CategoricalDistribution):
        return "|".join(str(choice) for choice in found.choices)
    assert isinstance(
        found, optuna.distributions.IntDistribution | optuna.distributions.FloatDistribution
    )
    step = f" step {found.step:g}" if found.step not in (None, 1) else ""
    return f"{'log ' if found.log else ''}{found.low:g} to {found.high:g}{step}"
