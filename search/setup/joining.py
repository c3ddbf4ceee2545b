"""A stored study, and the run with which another machine joins it.

    joined = find_joined(storage, "cae", place)            # what `make study` has stored
    study = load_joined("cae", joined)                     # its file on this machine
    given = joined_variables(variables, joined, study)     # as if they were typed here
    run = join_run(given, study, joined, inputs, storage)  # raises if this machine differs

A worker creates no study, and no trials beyond those of the study. The database says what it
trains, for how long and with which seed. Its study file, images and code have to be those of the
stored study, because values would not compare otherwise.

A database says which study it is, but never which file is run: anybody may write there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import optuna

from models.data.images import Shape
from search.errors import StudyChanged, UnknownStudy
from search.run import StudyRun
from search.setup.inputs import RunInputs
from search.setup.loading import load_study, study_names
from search.setup.prepare import count_trials, identify_run, make_run
from search.setup.shared_place import keep_files
from search.setup.stored_study import StudyIdentity, check_identity, read_identity
from search.setup.tries import remembered_tries
from search.setup.warm import remembered_warm
from search.spelling import spell
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler, trials_shown_at_once
from search.strategies.stopping import with_stop
from search.study import Study
from search.trials.next_trial import STOPPED_BY
from search.trials.stored_names import choose_stored, file_stem_of, is_path, read_stored_names
from search.trials.study_code import StudyCode, check_joined_code
from search.trials.study_record import StudyRecord, name_strategy, read_record
from search.variables import Variables
from storage.database.optuna_storage import TrialStorage
from storage.errors import short, suggest_name


@dataclass(frozen=True, kw_only=True)
class JoinedStudy:
    """A stored study, as a machine that joins it reads it."""

    opened: optuna.Study
    identity: StudyIdentity
    record: StudyRecord

    @property
    def name(self) -> str:
        return self.opened.study_name

    @property
    def shape(self) -> Shape:
        """(C, H, W) of its images."""
        channels, height, width = self.identity.shape
        return channels, height, width


def find_joined(
    storage: TrialStorage, name: str, place: str, data: str | None = None
) -> JoinedStudy:
    """Return the stored study that ``name`` means: its own name, or that of its file.

    place: the database, for people to read; data: DATA, if it is given

    Raises `UnknownStudy`, or `StudyChanged` for a study that lacks what this version needs.
    """
    with storage.engine.connect() as connection:
        stored = read_stored_names(connection)
    chosen = choose_stored(stored, name, data)
    if chosen is None:
        wanted = file_stem_of(name)
        known = ", ".join(short(each.name) for each in stored) or "none yet"
        hint = suggest_name(wanted, [each.name for each in stored])
        raise UnknownStudy(
            f"no study {short(repr(wanted))} in {place} (there: {known}); {hint}"
            f"{spell('study', NAME=name)} begins it"
        )
    opened = optuna.load_study(study_name=chosen, storage=storage)
    identity, record = read_identity(opened), read_record(opened)
    if identity is None or record is None:
        raise StudyChanged(
            f"study {short(repr(chosen))} in {place} has no record of how it was made, which "
            f"another program or an older version does not write; {spell('study', NAME=name)} "
            "once adds it"
        )
    return JoinedStudy(opened=opened, identity=identity, record=record)


def load_joined(name: str, joined: JoinedStudy, command: str = "worker") -> Study:
    """Load the study's file: the one that NAME names, or one that comes with genstudy.

    command: the command that needs it

    Raises `UnknownStudy` for a user's own file that NAME does not name.
    """
    if is_path(name):
        return load_study(name)
    begun_as = joined.record.command
    if begun_as in study_names():
        return load_study(begun_as)
    file = f"{file_stem_of(begun_as)}.py"
    raise UnknownStudy(
        f"study {joined.name!r} was begun with a file of its own, {short(file)}; name that file on "
        f"this machine: {spell(command, NAME=f'PATH/{file}')}"
    )


def joined_variables(variables: Variables, joined: JoinedStudy, study: Study) -> Variables:
    """Return the variables of the call that began the stored study, with this machine's paths."""
    identity, record, spec = joined.identity, joined.record, study.spec
    sampler, pruner = name_strategy(spec.sampler), name_strategy(spec.pruner)
    return replace(
        variables,
        name=study.reference,
        trials=record.trials,
        top=record.top,
        trial_minutes=record.trial_minutes,
        stop=record.stop or None,
        data=variables.data or identity.data,
        background=identity.background or variables.background,
        sampler=None if record.sampler == sampler else record.sampler,
        pruner=None if record.pruner == pruner else record.pruner,
    )


def join_run(
    variables: Variables,
    study: Study,
    joined: JoinedStudy,
    inputs: RunInputs,
    storage: TrialStorage,
) -> StudyRun:
    """Return the run of a machine that joins, with the settings of the stored study.

    Raises `StudyChanged` if its study file, images, code or FILES differ.
    """
    opened, stored = joined.opened, joined.identity
    check_identity(joined.name, stored, identify_run(variables, study, inputs, stored))
    code = StudyCode(version=study.version, files=study.code)
    check_joined_code(opened, code, joined.record.revision)
    drawing = make_sampler(
        variables.sampler or study.spec.sampler,
        seed=0,
        space=study.space,
        goals=study.spec.goals,
    )
    sampler = with_stop(drawing, variables.stop, trials=joined.record.trials)
    opened.sampler = sampler  # it draws nothing here
    chosen = variables.pruner or study.spec.pruner
    opened.pruner = make_pruner(chosen, study.spec.goals)  # which trials pause
    tries = remembered_tries(opened, study.space)
    trials = count_trials(
        joined.record.trials,
        sampler,
        opened,
        len(study.spec.references) + len(tries),
        storage.get_study_system_attrs(opened._study_id).get(STOPPED_BY),
    )
    at_once = trials_shown_at_once(drawing)
    files = keep_files(opened, variables, storage)
    run = make_run(variables, study, inputs, opened, stored, trials=trials, at_once=at_once)
    warm = remembered_warm(opened, study.space)
    return replace(run, files=files, tries=tries, warm=warm.to_plain())
