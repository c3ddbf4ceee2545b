"""The identity of a stored study: what it was made with, and whether that is still so.

Values compare only if they were measured alike: with the same search space, data, model, metric,
epochs and seed. The database keeps these with the study. A study whose file now says otherwise is
refused; the message says what changed and how to go on. Samplers, pruners and the number of trials
may change at any time.
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
from search.setup.fitting import STEPS, is_folder
from search.study import Study
from storage.database.json_texts import parse_json
from storage.errors import short

ATTRIBUTE = "definition"  # user attribute of the stored study: its identity as JSON


@dataclass(frozen=True, kw_only=True)
class StudyIdentity:
    """The settings that a stored study was made with, as plain values.

    metric, direction: of each goal, ``mse, code`` and ``minimize, minimize``
    model: module and class, ``models.cae:CAE``; data, pixels: name and fingerprint of the images
    space: parameter -> Optuna's distribution as JSON
    epochs, seed: those that count; file_epochs, file_seed: those of the study file
    configurations: a digest of what ``suggest`` makes of some parameters
    token: of this stored study alone, so that files of a deleted namesake are not taken for its own
    base: the export that its models start from, or that judges them; empty: there is none
    labelled: fingerprint of classes and attributes; background: what shows through transparent
        images, empty: none are; None: an older version stored the study without them
    least_steps: of an epoch, for which batches are made smaller; 0: they stay as they are
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
    labelled: str | None = None
    background: str | None = None
    least_steps: int = 0  # in studies of older versions


def identify_study(
    study: Study,
    images: ImageSplits,
    *,
    epochs: int | None,
    seed: int | None,
    stored: StudyIdentity | None,
) -> StudyIdentity:
    """Return the identity that the study has today.

    epochs, seed: of this call. None: that of the stored study if the study file has not changed
        it since, otherwise that of the study file
    """
    spec = study.spec
    if epochs is None:
        epochs = stored.epochs if stored and stored.file_epochs == spec.epochs else spec.epochs
    least_steps = STEPS if is_folder(images.name) else 0
    if seed is None:
        seed = stored.seed if stored and stored.file_seed == spec.seed else spec.seed
    return StudyIdentity(
        model=f"{spec.model.__module__}:{spec.model.__qualname__}",
        metric=", ".join(goal.name for goal in spec.goals),
        direction=", ".join(goal.direction for goal in spec.goals),
        data=images.name,
        pixels=images.fingerprint,
        shape=images.shape,
        space=_space_as_json(study),
        epochs=epochs,
        file_epochs=spec.epochs,
        seed=seed,
        file_seed=spec.seed,
        configurations=study.configurations,
        token=stored.token if stored else uuid4().hex,
        labelled=images.labelled,
        background=images.background,
        least_steps=stored.least_steps if stored else least_steps,
    )


def read_identity(study: optuna.Study) -> StudyIdentity | None:
    """Return what a stored study was made with; None: genstudy did not make it.

    Raises `StudyChanged` for one that this version cannot read, as another version may write it.
    """
    written = study.user_attrs.get(ATTRIBUTE)
    if written is None:
        return None
    try:
        values: dict[str, Any] = parse_json(written)
        return StudyIdentity(**{**values, "shape": tuple(values["shape"])})
    except (ValueError, TypeError, KeyError) as error:
        raise StudyChanged(
            f"study {study.study_name!r} is stored with a definition that this version cannot "
            f"read ({short(str(error))}); use the version that made it, or another RUNS"
        ) from error


def token_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the token in the attributes of a stored study; None: it has none."""
    try:
        return str(parse_json(attributes[ATTRIBUTE])["token"])
    except (KeyError, ValueError, TypeError):
        return None


def write_identity(study: optuna.Study, identity: StudyIdentity) -> None:
    """Store what a study is made with."""
    study.set_user_attr(ATTRIBUTE, json.dumps(asdict(identity)))


def find_changes(stored: StudyIdentity, now: StudyIdentity) -> list[str]:
    """Return a line for each difference: ``EPOCHS 5, now 9``.

    The same pixels in another place are the same images.
    """
    changes = _space_changes(stored.space, now.space)
    labels = {
        "model": "model",
        "metric": "metric",
        "direction": "direction",
        "data": "data",
        "background": "BACKGROUND",
        "pixels": "pixels of the images",
        "labelled": "classes or attributes of the images",
        "shape": "image shape",
        "epochs": "EPOCHS",
        "seed": "SEED",
        "base": "the export that its models start from or are judged by",
        "configurations": "the configurations that suggest makes, values outside the space",
    }
    are_same_images = _are_same_images(stored, now)
    has_other_ground = stored.background not in (None, now.background)
    for field, label in labels.items():
        old, new = getattr(stored, field), getattr(now, field)
        if field == "configurations" and changes:
            continue  # a changed space changes the configurations, too
        if (field == "data" and are_same_images) or (field == "pixels" and has_other_ground):
            continue  # the place does not count; another background is other pixels
        if old != new and old is not None:
            shown = [value if value not in ("", None) else "none" for value in (old, new)]
            changes.append(f"{label} {shown[0]}, now {shown[1]}")
    return changes


def check_identity(name: str, stored: StudyIdentity, now: StudyIdentity) -> None:
    """Raise `StudyChanged` if anything differs; the message names every difference."""
    if changes := find_changes(stored, now):
        has_ground = stored.background is None and bool(now.background)
        is_older = has_ground and not _are_same_images(stored, now)
        hint = "" if not is_older else " (it shows hidden colours, as BACKGROUND=none does)"
        raise StudyChanged(
            f"study {name!r} was made with {'; '.join(changes)}{hint}: its trials would not "
            "compare. Put that back to go on, or start afresh with another RUNS or a renamed "
            "study file"
        )


def _are_same_images(stored: StudyIdentity, now: StudyIdentity) -> bool:
    return (stored.pixels, stored.shape) == (now.pixels, now.shape)


def check_unchanged(stored: StudyIdentity, study: Study) -> None:
    """Raise `StudyChanged` where a worker's ``study`` is not the one that its run began with.

    The worker has the same source files. They may read others that were edited meanwhile.
    """
    changes = _space_changes(stored.space, _space_as_json(study))
    if not changes and stored.configurations != study.configurations:
        changes = ["what suggest makes of the same parameters"]
    if changes:
        raise StudyChanged(
            f"{study.path} is not what it was when this run began: {'; '.join(changes)}. Something "
            "that it reads has changed: put that back, then the same command goes on"
        )


def _space_as_json(study: Study) -> dict[str, str]:
    return {name: distribution_to_json(found) for name, found in sorted(study.space.items())}


def _space_changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return a line for every parameter that differs between two spaces."""
    changes = []
    for name in sorted(set(old) | set(new)):
        if name not in new:
            changes.append(f"parameter {name} {_describe_range(old[name])}, now gone")
        elif name not in old:
            changes.append(f"no parameter {name}, now {_describe_range(new[name])}")
        elif old[name] != new[name]:
            changes.append(f"{name} {_describe_range(old[name])}, now {_describe_range(new[name])}")
    return changes


def _describe_range(written: str) -> str:
    """Return ``log 5e-05 to 0.05``, ``4 to 10`` or ``adam|sgd`` for a distribution as JSON."""
    found = json_to_distribution(written)
    if isinstance(found, optuna.distributions.CategoricalDistribution):
        return "|".join(str(choice) for choice in found.choices)
    assert isinstance(
        found, optuna.distributions.IntDistribution | optuna.distributions.FloatDistribution
    )
    step = f" step {found.step:g}" if found.step not in (None, 1) else ""
    return f"{'log ' if found.log else ''}{found.low:g} to {found.high:g}{step}"
