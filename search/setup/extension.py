"""A stored study goes on with more epochs, and nothing that was trained is trained again.

    check_extension(study, stored, now, opened, keeps=True)        # before anything is written
    lines = extend_epochs(queue, run, filed=9)                     # says what goes on; []: nothing

A complete trial goes on from its last checkpoint. With rungs (`PRUNER=asha`) its last epoch may be
a rung now. Then the best trials of that rung go on, and the others end there, as pruned. Up to the
epoch at which it goes on, a trial has the values that it would have with more epochs from the
start. That holds only if nothing in its training is stretched over all its epochs, so a study with
such trials is refused.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace

import optuna
from optuna.exceptions import TrialPruned
from optuna.trial import FixedTrial, FrozenTrial, TrialState
from sqlalchemy import text

from models.base import Model, ModelConfig
from search.errors import StudyChanged
from search.run import StudyRun
from search.setup.mistakes import mistakes_of
from search.setup.stored_study import ATTRIBUTE, StudyIdentity, read_identity
from search.study import Study
from search.trials.files_access import trial_file
from search.trials.queue import TrialQueue
from search.words import format_count
from storage.database.file_records import file_names
from storage.database.returns import end_at_rung, let_return
from storage.database.running import read_running
from storage.database.study_lock import study_lock
from storage.database.transactions import read, write

WRITE_IDENTITY = text(
    "UPDATE study_user_attributes SET value_json = :value WHERE study_id = :study_id AND key = :key"
)


def check_extension(
    study: Study, stored: StudyIdentity, now: StudyIdentity, opened: optuna.Study, *, keeps: bool
) -> None:
    """Raise `StudyChanged` where the stored study cannot go on with the epochs of ``now``.

    keeps: whether complete trials have kept their checkpoints until now
    """
    reason = _find_obstacle(study, opened, keeps=keeps)
    if reason is not None:
        raise StudyChanged(
            f"study {opened.study_name!r} was made with EPOCHS {stored.epochs}, now {now.epochs}: "
            f"{reason}. Put that back to go on, or start afresh with another RUNS or a renamed "
            "study file"
        )


def _find_obstacle(study: Study, opened: optuna.Study, *, keeps: bool) -> str | None:
    """Return why a study cannot have more epochs; None: it can."""
    trials = opened.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if complete and not keeps:
        return (
            f"its {format_count(len(complete), 'complete trial')} kept no checkpoint to go on "
            "from; with KEEP=checkpoints or PRUNER=asha from its start, a study keeps them"
        )
    for trial, config in _configurations(study, trials):
        if config.is_stretched:
            return (
                f"in trial {trial.number} something is stretched over all epochs (a schedule of "
                "the learning rate, or noise that fades), so that its first epochs would be others"
            )
        if not _says_when_settled(study.spec.model, config):
            return (
                f"begin_epoch of {study.spec.model.__name__} may stretch something over all "
                f"epochs; {type(config).__name__}.settled_in has to say from which epoch on "
                "nothing changes"
            )
    return None


def _configurations(
    study: Study, trials: list[FrozenTrial]
) -> list[tuple[FrozenTrial, ModelConfig]]:
    """Return the trials that have values, with their configurations."""
    found = []
    with mistakes_of(study.path):
        for trial in trials:
            fixed = FixedTrial(trial.params, number=trial.number)
            with suppress(TrialPruned):
                if trial.intermediate_values:
                    found.append((trial, study.spec.suggest(fixed)))
    return found


def _says_when_settled(model: type[Model], config: ModelConfig) -> bool:
    """Whether a user's own family that overrides ``begin_epoch`` says until when it changes
    anything."""
    setter = next(each for each in model.__mro__ if "begin_epoch" in vars(each))
    teller = next(each for each in type(config).__mro__ if "settled_in" in vars(each))
    return _is_ours(setter) or not _is_ours(teller)


def _is_ours(kind: type) -> bool:
    """Whether a class comes with genstudy."""
    return kind.__module__.startswith(Model.__module__.removesuffix("base"))


def extend_epochs(queue: TrialQueue, run: StudyRun, *, filed: int) -> list[str]:
    """Give the stored study the epochs of the run, and let complete trials go on; returns lines
    about it.

    filed: the epochs in the study file

    All of it is one transaction. Raises `StudyChanged` while a trial of fewer epochs runs.
    """
    stored = read_identity(queue.study)
    if stored is None or stored.epochs >= run.epochs:
        return []
    queue.reclaim_abandoned()
    with study_lock(queue.engine, queue.study_id):
        stored = read_identity(queue.study) or stored
        if stored.epochs >= run.epochs:  # another call has come first
            return []
        _check_that_none_runs(queue, stored)
        complete = queue.storage.get_all_trials(
            queue.study_id, deepcopy=False, states=(TrialState.COMPLETE,)
        )
        identity = replace(stored, epochs=run.epochs, file_epochs=filed)
        paused = _let_go_on(queue, run, complete, identity)
    queue.read_again()
    return _describe(queue, run, complete, paused=paused, before=stored.epochs)


def _check_that_none_runs(queue: TrialQueue, stored: StudyIdentity) -> None:
    """Raise `StudyChanged` while a worker trains a trial of fewer epochs."""
    with read(queue.engine) as connection:
        running = read_running(connection, queue.study_id)
    if running:
        where = f" on {running[0].host}" if running[0].host else ""
        raise StudyChanged(
            f"study {queue.study.study_name!r} is at work with EPOCHS={stored.epochs}: trial "
            f"{running[0].number} runs{where}. End that run first; a machine that is gone counts "
            "as such after a minute"
        )


def _let_go_on(
    queue: TrialQueue, run: StudyRun, complete: list[FrozenTrial], identity: StudyIdentity
) -> list[FrozenTrial]:
    """Let complete trials go on, or end them at a rung; returns those that ended at a rung."""
    value = json.dumps(json.dumps(asdict(identity)))
    paused = []
    with write(queue.engine) as connection:
        for trial in complete:
            steps = trial.intermediate_values
            done = max(steps, default=-1) + 1
            is_rung = done in queue.rung_epochs(run.epochs, trial)
            if not is_rung or trial.value is None:
                let_return(connection, trial._trial_id)
                continue
            last = steps[max(steps)]
            end_at_rung(connection, trial._trial_id, rung=done, best=trial.value, last=last)
            paused.append(trial)
        connection.execute(
            WRITE_IDENTITY, {"value": value, "study_id": queue.study_id, "key": ATTRIBUTE}
        )
    return paused


def _describe(
    queue: TrialQueue,
    run: StudyRun,
    complete: list[FrozenTrial],
    *,
    paused: list[FrozenTrial],
    before: int,
) -> list[str]:
    """Return lines on what goes on, and on what is trained again."""
    lines = [f"EPOCHS={run.epochs}, after {before} until now"]
    if goes_on := len(complete) - len(paused):
        go = "goes" if goes_on == 1 else "go"
        lines[0] += f": {format_count(goes_on, 'complete trial')} {go} on"
    elif paused:
        lines[0] += f": of {format_count(len(paused), 'complete trial')} the best go on"
    there = set[str]()
    if run.files is not None:
        there.update(file_names(queue.engine, run.token))
    lost = [
        trial.number
        for trial in complete
        if trial_file(trial.number) not in there
        and not run.paths.trial_checkpoint(run.study, trial.number).exists()
    ]
    if lost:
        begin = "begins" if len(lost) == 1 else "begin"
        lines.append(
            f"{format_count(len(lost), 'complete trial')} without a checkpoint here {begin} at "
            f"epoch 1 if they go on: {', '.join(str(number) for number in lost)}"
        )
    return lines
