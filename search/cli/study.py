"""`make study NAME=cae`: the studies of one command, one after the other.

Before the study that was asked for runs the one whose export it starts from, if FIRST says so and
there is none yet. After it runs the one that goes on from it, if its file names one.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace

from rich.console import Console

from search.cli.study_command import StudyCommand
from search.console import OutputClosed, open_console
from search.errors import BaseMissing, StudyFileError
from search.setup.loading import load_study
from search.setup.names import base_study, judging_study
from search.study import Study
from search.variables import Variables, read_variables

UNREAD = 2  # exit code


def run_study() -> int:
    """Run the study NAME; with FIRST, the study that it starts from before; after it, the one
    that goes on from it. Returns the exit code."""
    console = open_console(loses_lines=True)
    try:
        return _run_all(console)
    except OutputClosed:
        line = "standard output was closed, by `head`, say: the study has stopped"
        with suppress(OSError):  # it may have gone to the same reader
            print(f"error: {line}; the same command goes on from here", file=sys.stderr)
        return UNREAD


def _run_all(console: Console) -> int:
    """Run the study NAME, and the one that goes on from it."""
    variables = read_variables()
    study = load_study(variables.need_name("study"))
    code = _run_with_base(console, variables, study)
    if code or study.spec.then is None:
        return code
    after = load_study(study.spec.then)
    return _run_with_base(console, _limit(variables, after), after)


def _run_with_base(
    console: Console, variables: Variables, study: Study, behind: tuple[str, ...] = ()
) -> int:
    """Run ``study``; if the export that it starts from is missing and FIRST says so, that first.

    behind: names of the studies that wait for this one
    """
    try:
        return StudyCommand(console, variables, study).run()
    except BaseMissing:
        if not variables.first or variables.start is not None:
            raise
    base = _shaped_for(study, base_study(study)) or judging_study(study)
    if base.name in (*behind, study.name):
        raise StudyFileError(f"{base.path}: studies start from each other in a circle")
    code = _run_with_base(console, _limit(variables, base), base, (*behind, study.name))
    return code or StudyCommand(console, variables, study).run()


def _shaped_for(study: Study, base: Study | None) -> Study | None:
    """Return ``base`` with the image shape that ``study`` demands, so that its encoder fits."""
    if base is None or study.spec.adapts or not base.spec.adapts:
        return base
    return replace(base, spec=replace(base.spec, shape=study.spec.shape, adapts=False))


def _limit(variables: Variables, study: Study) -> Variables:
    """Return the variables for a study that runs before or after the one that was asked for.

    Numbers that were given are its upper limits. Its sampler, its pruner, its base, its tries
    and its sources are its own. Its best trial is exported. INCEPTION applies only if its model
    makes images.
    """
    spec = study.spec
    return replace(
        variables,
        name=study.reference,
        trials=variables.trials and min(variables.trials, spec.trials),
        epochs=variables.epochs and min(variables.epochs, spec.epochs),
        retrain_epochs=variables.retrain_epochs
        and min(variables.retrain_epochs, spec.retrain_epochs),
        seeds=variables.seeds and min(variables.seeds, spec.seeds),
        top=max(variables.top, 1),  # what starts from it needs an export
        sampler=None,
        pruner=None,
        tries=(),
        warm=(),
        inception=variables.inception if spec.model.judged else None,
        start=None,
    )
