"""Which shape the images of a study have: what its file says, or what follows from a folder.

    shape = choose_shape(variables, study, source)        # (C, H, W); None: as the images are

`StudySpec.shape` is a demand, unless the study `adapts`. Then a folder of somebody's own images
keeps its colours and its size, as far as the model takes them:

    all of one shape, not too large    as they are
    all of one shape, too large        smaller, nothing is cut off
    of many shapes                     squares, as large as most of them, cropped from the centre

A stored study keeps the shape that it was made with, and a study that starts from another one's
export has the shape of that.

Shape legend: C channels, H/W pixels.
"""

from __future__ import annotations

from sqlalchemy import inspect, text

from models.data.description import FolderDescription
from models.data.folders import FolderSource
from models.data.images import Shape
from models.data.loading import Source
from models.export import exported_shape
from models.needs import Sides
from search.setup.names import base_study, study_name
from search.setup.sampled import sample_configurations
from search.setup.stored_study import ATTRIBUTE
from search.study import Study
from search.variables import Variables
from storage.database.connection import open_engine
from storage.database.json_texts import parse_json
from storage.database.retry import is_away
from storage.errors import DatabaseUnreachable

ALIKE = 1.05  # of the widest over the narrowest shape: nobody sees what a crop takes from these


def choose_shape(variables: Variables, study: Study, source: Source) -> Shape | None:
    """Return the shape (C, H, W) that images are resized to; None: they stay as they are."""
    if not is_chosen(study, source):
        return study.spec.shape
    assert isinstance(source, FolderSource)
    data = variables.data or study.spec.data
    stored = stored_shape(
        variables.storage_url, study_name(study, data, source.label, variables.sampler)
    )
    return stored or _base_shape(variables, study, source) or _fitted_shape(study, source)


def is_chosen(study: Study, source: Source) -> bool:
    """Whether the shape follows from the images, and is no demand of the study's file."""
    return study.spec.adapts and isinstance(source, FolderSource)


def _base_shape(variables: Variables, study: Study, source: FolderSource) -> Shape | None:
    """Return the shape of the export that ``study`` starts from, or that it will have."""
    base = base_study(study)
    if base is None:
        return None
    if variables.start is not None:
        return exported_shape(variables.start)
    name = study_name(base, variables.data or study.spec.data, source.label)
    return exported_shape(variables.paths.export(name, 1)) or choose_shape(variables, base, source)


def _fitted_shape(study: Study, source: FolderSource) -> Shape:
    return fit_shape(source.survey(), study_sides(study))


def study_sides(study: Study) -> Sides:
    """Return which images all configurations of a study take."""
    every = [study.spec.model.sides(config) for config in sample_configurations(study)]
    channels = set(every[0].channels).intersection(*(sides.channels for sides in every))
    least = max(sides.least for sides in every)
    most = max(least, min(sides.most for sides in every))
    return Sides(least=least, most=most, channels=tuple(sorted(channels or {1})))


def fit_shape(found: FolderDescription, sides: Sides) -> Shape:
    """Return the shape that changes the images of a folder least."""
    channels = 3 if found.colored else 1
    if channels not in sides.channels:
        channels = sides.channels[0]
    width, height = found.median
    narrowest, _, widest = found.aspects
    if widest <= narrowest * ALIKE:
        scale = min(1.0, sides.most / max(width, height))
        size = round(height * scale), round(width * scale)
        if min(size) >= sides.least:
            return channels, *size
    side = max(sides.least, min(width, height, sides.most))
    return channels, side, side


def stored_shape(url: str, name: str) -> Shape | None:
    """Return the shape of the images of the stored study ``name``; None where there is none."""
    try:
        engine = open_engine(url)
    except DatabaseUnreachable as error:
        if is_away(error):
            raise  # something may be stored
        return None  # nothing is
    try:
        with engine.connect() as connection:
            if not inspect(connection).has_table("study_user_attributes"):
                return None
            written = connection.execute(
                text(
                    "SELECT value_json FROM study_user_attributes a JOIN studies s "
                    "ON s.study_id = a.study_id WHERE s.study_name = :name AND a.key = :key"
                ),
                {"name": name, "key": ATTRIBUTE},
            ).scalar_one_or_none()
    finally:
        engine.dispose()
    if written is None:
        return None
    try:
        channels, height, width = parse_json(parse_json(written))["shape"]
    except (TypeError, ValueError, KeyError):
        return None  # not made by genstudy: refused where it is opened
    return int(channels), int(height), int(width)
