"""What the epochs of a trial have to say, and whether they may go on.

An epoch's value goes to Optuna (its steps count from 0, epochs from 1), all that was measured
to a table beside it, and both to the supervisor. While the database is away, reports wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from optuna.trial import Trial

from models.evaluation.gan_diagnosis import Health
from models.training.loop import EpochResult
from search.worker import diagnosis
from search.worker.context import WorkerContext
from search.worker.device import gpu_memory


@dataclass(frozen=True)
class Report:
    """What an epoch has to say: its value, and all that was measured."""

    epoch: int
    value: float
    measured: dict[str, float]


@dataclass
class TrialProgress:
    """What is known of a running trial: epochs done, the best value so far, seconds spent."""

    epoch: int = 0
    seconds: float = 0.0
    best: float | None = None
    reported: dict[int, float] = field(default_factory=dict)  # by Optuna's step, from 0
    unwritten: list[Report] = field(default_factory=list)  # while the database is away
    left_behind: int = 0  # bytes of earlier trials
    history: list[Health] = field(default_factory=list)  # of epochs, where samples are judged
    missing: dict[str, str] = field(default_factory=dict)  # what could not be written, and why
    picture: str | None = None  # id of the last one that was attached


def report(
    context: WorkerContext, trial: Trial, progress: TrialProgress, result: EpochResult
) -> bool:
    """Tell the database (Optuna's steps count from 0, epochs from 1) and the supervisor.

    False: the database is away, and will be told with a later epoch.
    """
    value = progress.reported.setdefault(result.number - 1, result.valid[context.spec.metric])
    measured = {f"train_{name}": number for name, number in result.train.items()}
    measured |= {f"valid_{name}": number for name, number in result.valid.items()}
    measured["epoch_seconds"] = result.seconds
    if context.judge is not None:
        measured["judge_seconds"] = result.judging
        progress.history.append(diagnosis.health(result))
    progress.unwritten.append(Report(result.number, value, measured))
    progress.epoch = result.number
    if context.spec.better(value, progress.best):
        progress.best = value
    context.say(
        "epoch",
        number=trial.number,
        epoch=result.number,
        epochs=context.run.epochs,
        value=value,
        seconds=result.seconds,
        **gpu_memory(context.device),
    )
    try:
        write(context, trial, progress)
    except Exception as error:
        if not context.queue.retry.away(error):
            raise
        return False
    return True


def write(context: WorkerContext, trial: Trial, progress: TrialProgress) -> None:
    """Write the reports that are not written, in their order."""
    while progress.unwritten:
        report = progress.unwritten[0]
        context.queue.report(trial, report.epoch, report.value, report.measured)
        del progress.unwritten[0]
        context.queue.retry.back()


def should_prune(context: WorkerContext, trial: Trial) -> bool:
    """What the pruner says; no, while the database that it looks at is away."""
    try:
        return trial.should_prune()
    except Exception as error:
        if not context.queue.retry.away(error):
            raise
        return False
