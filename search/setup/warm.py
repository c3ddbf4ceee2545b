"""What a study knows of earlier ones when it begins: `make study NAME=cae WARM=cae-digits,old`.

    warm = find_warm(["cae-digits"], study, url, stored="cae")   # before anything is written
    warm = keep_warm(opened, warm, study.space)                  # what the stored study began with
    warm.shared                   # parameters that its first trials try: the best of each source
    with_warm(sampler, warm.sources, study.space)                # what its sampler sees

The trials of the sources are kept with the stored study, as one attribute, when it begins. So all
workers see the same, also after a kill, on machines that cannot reach other databases, and when the
sources go on or are deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna

from search.errors import StudyChanged
from search.setup.checks import is_within
from search.setup.warm_sources import parse_name, read_source
from search.strategies.carry_over import Space, WarmSource
from search.study import Study
from search.words import show_text
from storage.database.foreign import holds_studies, opened_to_read
from storage.errors import short

KEY = "genstudy:warm"  # system attribute of a study


@dataclass(frozen=True, kw_only=True)
class Warm:
    """What a study began with.

    given: the parts of WARM, without passwords; sources: their trials
    lines: what a person has to know of each
    """

    given: Sequence[str] = ()
    sources: Sequence[WarmSource] = ()
    lines: Sequence[str] = ()

    @property
    def shared(self) -> dict[str, dict[str, Any]]:
        """The best trial of each source, by a name that says where it comes from: what the source
        has not varied, the sampler draws."""
        return {
            f"WARM {show_text(short(source.name))} trial {source.numbers[0]}": {
                name: value for name, value in source.parameters[0].items() if name in source.varied
            }
            for source in self.sources
        }

    def to_plain(self) -> dict[str, Any]:
        """Return the same as JSON values; without sources, nothing."""
        return asdict(self) if self.sources else {}


def find_warm(given: Sequence[str], study: Study, url: str, *, stored: str) -> Warm | None:
    """Return what the study called ``stored`` begins with, or has begun with; None: nothing.

    given: the parts of WARM; url: of the trial database, in which nothing is written

    Raises `BadVariable` for sources that the study cannot use, and `StudyChanged` if it has begun
    with others.
    """
    if not given:
        return None
    names = [parse_name(each) for each in given]
    asked = Warm(given=tuple(name.shown for name in names))
    if holds_studies(url):
        with opened_to_read(url) as storage:
            if stored in optuna.get_all_study_names(storage):
                opened = optuna.load_study(study_name=stored, storage=storage)
                if _has_begun(opened):
                    return check_kept(opened, asked, study.space)
    found = [read_source(name, study, url, stored=stored) for name in names]
    return Warm(
        given=asked.given,
        sources=tuple(each.source for each in found),
        lines=tuple(each.line for each in found),
    )


def keep_warm(opened: optuna.Study, warm: Warm | None, space: Space) -> Warm:
    """Return what the stored study has begun with; if it begins now, ``warm`` is kept.

    warm: what this call gives; None: nothing

    The caller holds the lock of the study. Raises `StudyChanged` if it has begun with others.
    """
    if warm is None:
        return remembered_warm(opened, space)
    if _has_begun(opened):
        return check_kept(opened, warm, space)
    opened._storage.set_study_system_attr(opened._study_id, KEY, warm.to_plain())
    return warm


def check_kept(opened: optuna.Study, warm: Warm, space: Space) -> Warm:
    """Return what the stored study has begun with; raise `StudyChanged` unless it is ``warm``."""
    kept = remembered_warm(opened, space)
    if list(kept.given) == list(warm.given):
        return kept
    name = short(repr(opened.study_name))
    began = f"WARM={short(','.join(kept.given))}" if kept.given else "without WARM"
    raise StudyChanged(
        f"study {name} has begun {'with ' if kept.given else ''}{began}, and goes on so: leave "
        f"WARM={short(','.join(warm.given))} out, or start afresh with another RUNS or a renamed "
        "study file"
    )


def _has_begun(opened: optuna.Study) -> bool:
    """Whether the study has trials, or another machine is about to make the first."""
    storage, study_id = opened._storage, opened._study_id
    return bool(storage.get_n_trials(study_id)) or KEY in storage.get_study_system_attrs(study_id)


def remembered_warm(opened: optuna.Study, space: Space) -> Warm:
    """Return what the stored study has begun with."""
    return read_warm(opened._storage.get_study_system_attrs(opened._study_id).get(KEY), space)


def read_warm(plain: object, space: Space) -> Warm:
    """Return the value that was written as JSON.

    Trials outside ``space`` are left out: anybody may write into a database.
    """
    try:
        return Warm(
            given=tuple(map(str, plain["given"])),  # type: ignore[index]
            sources=tuple(_read_sources(plain["sources"], space)),  # type: ignore[index]
            lines=tuple(map(str, plain["lines"])),  # type: ignore[index]
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return Warm()


def _read_sources(plain: Sequence[Mapping[str, Any]], space: Space) -> Iterator[WarmSource]:
    for each in plain:
        trials = [
            (int(number), dict(parameters))
            for number, parameters in zip(each["numbers"], each["parameters"], strict=True)
            if parameters.keys() <= space.keys()
            and all(is_within(space[name], value) for name, value in parameters.items())
        ]
        varied = tuple(name for name in each["varied"] if name in space)
        if trials and varied:
            yield WarmSource(
                name=str(each["name"]),
                numbers=tuple(number for number, _ in trials),
                parameters=tuple(parameters for _, parameters in trials),
                varied=varied,
            )


def describe_warm(plain: Mapping[str, Any]) -> list[str]:
    """Say in a line for each source what a study began with.

    plain: as `Warm.to_plain` gives it
    """
    return [f"WARM: {line}" for line in plain.get("lines", ())]
