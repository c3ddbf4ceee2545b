"""The exported model that all trials of a study start from, such as a classifier's encoder.

    StudySpec(model=Classifier, starts_from="cae", ...)

It is the best export of that study on the same images, in RUNS, unless FROM names another
export. A stored study remembers which one it was; values from another would not compare.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from models.autoencoder import Autoencoder
from models.base import Model
from models.export import WEIGHTS, load_export
from search.errors import BadVariable, BaseMissing, StudyFileError
from search.study import Study, load_study
from search.variables import Variables
from storage.exports import is_whole, read_provenance


def base_study(study: Study) -> Study | None:
    """The study that ``study`` starts from."""
    return None if study.spec.starts_from is None else load_study(study.spec.starts_from)


def judging_study(study: Study) -> Study:
    """The study whose best export judges the samples of ``study`` on images without classes."""
    return load_study(study.spec.judged_by)


def find_base(variables: Variables, study: Study, stored_name: str) -> Path | None:
    """The folder of the export that ``study`` starts from; None: it starts from nothing.

    stored_name: of the base study on these images. Raises `BaseMissing`, `BadVariable`.
    """
    wanted = study.spec.starts_from
    if wanted is None:
        if variables.start is not None:
            raise BadVariable(f"FROM is given, but study {study.name!r} starts from no other")
        return None
    return _find(variables, stored_name, wanted, f"study {study.name!r} starts from")


def find_encoder(variables: Variables, study: Study, stored_name: str) -> Path:
    """The folder of the autoencoder whose codes judge samples of images without classes.

    stored_name: of the judging study on these images. Raises `BaseMissing`, `ConfigError`.
    """
    if study.spec.starts_from is not None:
        raise StudyFileError(
            f"{study.path}: the images have no classes, so that an autoencoder's export has to "
            "judge the samples; a study that starts from another's export cannot have both"
        )
    purpose = f"these images have no classes: study {study.name!r} judges samples by"
    folder = _find(variables, stored_name, study.spec.judged_by, purpose)
    model = load_export(folder)
    if not isinstance(model, Autoencoder):
        raise BadVariable(
            f"{folder} holds a {type(model).__name__}; samples are judged by the codes of an "
            "autoencoder: give the export of one with FROM"
        )
    return folder


def _find(variables: Variables, stored_name: str, study: str, purpose: str) -> Path:
    folder = variables.start or variables.paths.export(stored_name, 1)
    found = read_provenance(folder)
    if found is not None and is_whole(folder, found):
        return folder
    if variables.start is not None:
        raise BaseMissing(f"FROM={folder} holds no whole export; give the folder of one")
    raise BaseMissing(
        f"{purpose} the best export of {stored_name!r}, and {folder} holds none; FIRST=1 runs "
        f"{study!r} now, FROM=folder takes another export"
    )


def open_base(folder: Path | None) -> Model | None:
    """The exported model in ``folder``, on the CPU."""
    return None if folder is None else load_export(folder)


def describe_base(folder: Path) -> dict[str, Any]:
    """Which export it is, for trials and provenance."""
    found = read_provenance(folder) or {}
    about = {key: found.get(key) for key in ("study", "trial", "rank", "made")}
    return {**about, "weights": weights_digest(folder)}


def base_label(folder: Path | None) -> str:
    """``cae trial 24 (3f2a...)``: one line that changes with the weights; empty without a base."""
    if folder is None:
        return ""
    about = describe_base(folder)
    return f"{about['study']} trial {about['trial']} ({about['weights'][:12]})"


def weights_digest(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
