"""`make replay NAME=cae TRIAL=7`: train a trial again from its record, and compare.

    exit code    0     every epoch and the value come out again, bit for bit
                 1     they differ: one line says since which epoch, and by how much
                 2     a mistake, or a trial without a curve

`make` turns 1 into its own 2; `genstudy replay` leaves it.

Parameters, seed, epochs and images are those of the trial database; the study's file is that of
this machine, and what differs from the one that trained the trial is named. A trial that was pruned
is compared as far as it came. Nothing is written into the study. A trial of a CPU is trained on the
CPU with one thread, as workers do; GPUS chooses another device.
"""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from functools import partial

import optuna
from rich.console import Console

from search.console import is_live, open_console, print_line, print_loud, shorten_path
from search.errors import BadVariable
from search.run import StudyRun
from search.setup.code_digest import describe_environment
from search.setup.inputs import RunInputs, find_inputs, open_base
from search.setup.joining import JoinedStudy, find_joined, joined_variables, load_joined
from search.setup.prepare import identify_run
from search.setup.record_changes import Surroundings, describe_changes
from search.setup.revision import code_revision
from search.spelling import spell
from search.study import Study
from search.supervisor.devices import find_devices
from search.trials.queue import TrialQueue
from search.trials.recorded_trial import Comparison, RecordedTrial, read_recorded
from search.trials.study_code import StudyCode, read_codes
from search.variables import Variables, read_variables
from search.words import format_count, format_duration, format_pace
from search.worker.context import WorkerContext
from search.worker.device import use_device
from search.worker.evaluator import StudyEvaluators
from search.worker.fusing_choice import may_train_together
from search.worker.replaying import ReplayedEpoch, train_again
from storage.database.address import redact_url
from storage.database.connection import open_storage
from storage.database.optuna_storage import TrialStorage

LINE_EVERY = 30.0  # seconds between two lines of a log


def replay() -> int:
    """Train trial TRIAL of the study NAME again; returns the exit code."""
    console, variables = open_console(), read_variables()
    name = variables.need_name("replay")
    if variables.trial is None:
        raise BadVariable(
            f"TRIAL is not set; say which trial: {spell('replay', NAME=name, TRIAL='0')}"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(variables.storage_url, create=False)
    try:
        return _replay(console, variables, storage, variables.trial)
    finally:
        storage.engine.dispose()


def _replay(console: Console, variables: Variables, storage: TrialStorage, number: int) -> int:
    name = variables.need_name("replay")
    place = shorten_path(redact_url(variables.storage_url))
    joined = find_joined(storage, name, place, variables.data)
    quality = joined.identity.metric.partition(", ")[0]  # the first of several goals
    recorded = read_recorded(joined.opened, number, metric=quality)
    study = load_joined(name, joined, "replay")
    # seed and epochs are the stored ones, whatever a shell has in SEED and EPOCHS
    given = replace(joined_variables(variables, joined, study), seed=None, epochs=None)
    device = _choose_device(recorded, variables, console)
    inputs = find_inputs(given, study, console, stored_shape=joined.shape)
    context = _open_context(given, joined, study, inputs, storage, device)
    here = Surroundings(
        identity=identify_run(given, study, inputs, joined.identity),
        code=StudyCode(version=study.version, files=study.code),
        revision=code_revision(),
        environment=describe_environment(),
        device=context.device_name,
        host=socket.gethostname(),
    )
    changes = describe_changes(recorded, joined.identity, here, read_codes(joined.opened))
    print_line(console, _announcement(recorded, context))
    for line in changes:
        print_line(console, f"  {line}")
    compared = _train(console, context, recorded)
    print_line(console, f"trial {number}: {compared.line}")
    if not compared.is_equal and not changes:
        print_line(console, "nothing that the study keeps of code and environment differs")
    return 0 if compared.is_equal else 1


def _choose_device(recorded: RecordedTrial, variables: Variables, console: Console) -> str:
    """Return what the trial is trained on: the kind of device that it was trained on, or GPUS."""
    if variables.gpus is None and recorded.attributes.get("device") == "cpu":
        return "cpu"
    return find_devices(variables, partial(print_loud, console))[0]


def _open_context(
    variables: Variables,
    joined: JoinedStudy,
    study: Study,
    inputs: RunInputs,
    storage: TrialStorage,
    device: str,
) -> WorkerContext:
    """Return the context of a worker of the study that has no supervisor."""
    stored = joined.identity
    queue = TrialQueue(joined.opened, storage, owner="", version=study.version)
    run = StudyRun(
        name=study.reference,
        study=joined.name,
        storage=variables.storage_url,
        runs=str(variables.runs),
        images=str(inputs.cached),
        seed=stored.seed,
        trials=joined.record.trials,
        epochs=stored.epochs,
        retrain_epochs=joined.record.retrain_epochs,
        revision="",
        token=stored.token,
        least_steps=stored.least_steps,
    )
    images = inputs.images.to(device)
    fuses = may_train_together(variables.fuse, study.spec.model, device)
    device_name = use_device(device, fuses=fuses)
    evaluators = None
    if study.spec.judges_samples:
        evaluators = StudyEvaluators(
            run,
            images,
            queue,
            encoder=open_base(inputs.encoder),
            labelled=study.spec.model.labelled,
            keeps=False,
        )
    return WorkerContext(
        run=run,
        spec=study.spec,
        queue=queue,
        images=images,
        base=open_base(inputs.base),
        device=device,
        device_name=device_name,
        send=lambda event: None,
        interrupted=lambda: False,
        evaluators=evaluators,
    )


def _announcement(recorded: RecordedTrial, context: WorkerContext) -> str:
    """Return what is trained again, as the record has it."""
    of = "" if recorded.epochs == context.run.epochs else f" of {context.run.epochs}"
    epochs = format_count(recorded.epochs, "epoch")
    return (
        f"{recorded.title} ({recorded.outcome}) is trained again: {epochs}{of} on "
        f"{context.device_name}, {recorded.metric}"
    )


def _train(console: Console, context: WorkerContext, recorded: RecordedTrial) -> Comparison:
    """Train it, and say how far that is."""
    again: dict[int, float] = {}
    diverged = None
    said = time.monotonic()
    with console.status(f"trial {recorded.number}: epoch 0 of {recorded.epochs} ...") as status:
        for epoch in train_again(context, recorded):
            if epoch.value is None:
                diverged = epoch.number
                break
            again[epoch.number] = epoch.value
            line = _progress_line(recorded, epoch)
            status.update(line)
            if not is_live(console) and time.monotonic() - said > LINE_EVERY:
                print_line(console, line)
                said = time.monotonic()
    return recorded.compare(again, diverged)


def _progress_line(recorded: RecordedTrial, epoch: ReplayedEpoch) -> str:
    left = (recorded.epochs - epoch.number) * epoch.seconds
    return (
        f"trial {recorded.number}: epoch {epoch.number} of {recorded.epochs}, "
        f"{format_pace(epoch.seconds)}, about {format_duration(left)} left"
    )
