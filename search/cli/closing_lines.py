"""What `make study` says of earlier calls, and what a person may type when it has ended.

describe_remembered(variables, study.spec, run)   what an earlier call gave
describe_kept({2: 4, 3: 6})                       exports of an earlier run
next_lines(study, run, exported=True, width=80)   dashboard, report, and the best in Python
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from models.base import OUR_MODELS, Model
from search.console import shorten_path
from search.passwords import holds_password, with_storage
from search.run import StudyRun
from search.spelling import spell
from search.study import Study, StudySpec
from search.trials.study_record import name_strategy
from search.variables import Variables
from search.words import join_words
from storage.database.address import redact_url

PLACES = ("RUNS", "STORAGE")  # variables that say where a study is


def describe_remembered(given: Variables, spec: StudySpec, run: StudyRun) -> str | None:
    """Say which values hold because an earlier call gave them; None where all are the file's."""
    pruner = name_strategy(spec.pruner)
    numbers: dict[str, tuple[object, object, object]] = {
        "EPOCHS": (given.epochs, run.epochs, spec.epochs),
        "RETRAIN_EPOCHS": (given.retrain_epochs, run.retrain_epochs, spec.retrain_epochs),
        "SEEDS": (given.seeds, run.seeds, 1 if run.shown is not None else spec.seeds),
        "PRUNER": (given.pruner, run.pruner or pruner, pruner),
    }
    held = {
        name: (now, filed)
        for name, (asked, now, filed) in numbers.items()
        if asked is None and now != filed
    }
    if not held:
        return None
    now = join_words([f"{name}={value}" for name, (value, _) in held.items()])
    filed = join_words([str(value) for _, value in held.values()])
    return f"{now} {'hold' if len(held) > 1 else 'holds'} as before; the study file says {filed}"


def describe_kept(kept: Mapping[int, int | None]) -> str | None:
    """Name the exports of an earlier run, rank -> trial, that today's run left alone."""
    if not kept:
        return None
    those = [
        f"{rank} (trial {trial})" if trial is not None else str(rank)
        for rank, trial in kept.items()
    ]
    rank, stay = ("rank", "stays") if len(kept) == 1 else ("ranks", "stay")
    return f"{rank} {', '.join(those)} of an earlier run {stay}; TOP={max(kept)} ranks all anew"


def next_lines(study: Study, run: StudyRun, *, exported: bool, width: int) -> list[str]:
    """Return what a person may type now, spelt as this command was called.

    width: columns of the terminal; where one is too narrow, what a line is for stands below it
    """
    place = typed_places()
    lines = {
        spell("dashboard", **place): "all trials with their pictures",
        spell("report", NAME=run.study, **place): "a page about the study",
    }
    if exported:
        folder = shorten_path(run.paths.export(run.study, 1))
        family = study.spec.model
        is_own = not family.__module__.startswith(OUR_MODELS)
        which = f", family={family.__name__}" if is_own else ""
        sample = ".sample(4)" if _draws_samples(family) else ""
        lines[f"load_export({folder!r}{which}){sample}"] = "in Python, as its README.md shows"
    longest = max(map(len, lines))
    heads = ["next: ", *["      "] * (len(lines) - 1)]
    side_by_side = [
        f"{head}{typed.ljust(longest)}  {what}"
        for head, (typed, what) in zip(heads, lines.items(), strict=True)
    ]
    if max(map(len, side_by_side)) <= width:
        return side_by_side
    return [
        line
        for head, (typed, what) in zip(heads, lines.items(), strict=True)
        for line in (f"{head}{typed}", f"        {what}")
    ]


def _draws_samples(family: type[Model]) -> bool:
    """Whether `Model.sample` gives images: a family says how they are made, and needs no others."""
    if family.sample is not Model.sample:
        return True
    return family.make is not Model.make and not family.makes_from_images


def typed_places() -> dict[str, str]:
    """Return the variables that the next command needs, too: those of this command line.

    What the shell exports, the next command finds by itself. No password is shown.
    """
    given = with_storage(os.environ)
    typed = given.get("GENSTUDY_GIVEN", "").split()
    found = {name: given[name] for name in PLACES if name in typed and given.get(name)}
    return {
        name: redact_url(value) if name == "STORAGE" and holds_password(value) else value
        for name, value in found.items()
    }
