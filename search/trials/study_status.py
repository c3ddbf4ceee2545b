"""How far a stored study is, and who works at it, from the database alone.

    status = read_status(connection, "cae")
    status.running                    # `storage.database.running.RunningTrial`, one a trial
    status.seconds_left()             # of the search; None while that cannot be said
    status.machine_seconds_left()     # the same for one worker, also where nobody works

It loads no torch, and asks no machine: every worker of every machine writes into the database what
it does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, inspect

from search.errors import BadVariable
from search.pace import WorkerStatus, epoch_pace, seconds_left
from search.strategies.promotion import AshaPruner
from search.strategies.pruners import make_pruner
from search.strategies.repeating import REPEATED
from search.trials.rung_work import RungWork, stretches_left
from search.trials.shared_exports import EXPORT
from search.trials.study_record import KEY, parse_record
from search.trials.trial_attributes import is_sound
from search.words import name_seed
from storage.database.finishes import Finish, find_finish
from storage.database.job_claims import claims, read_claims
from storage.database.json_texts import parse_json
from storage.database.leases import GRACE
from storage.database.rows import fetch_rows
from storage.database.rungs import read_arrivals
from storage.database.running import (
    RunningTrial,
    count_turns,
    find_running_with,
    read_running,
)
from storage.database.schema import metrics, rungs
from storage.database.trial_states import count_outcomes
from storage.frames import find_study
from storage.paths import RETRAINING

LATEST = 50  # trials that have ended: what a trial costs is their mean
DEFINITION, NAMES = "definition", "study:metric_names"  # attributes: what is searched; Optuna's
NOT_ENDED = ("running", "waiting", "paused", "retried")
ATTRIBUTES = (
    "SELECT key, value_json FROM study_{kind}_attributes WHERE study_id = :study_id "
    "AND key IN (:definition, :record, :names)"
)
SECONDS = (
    "SELECT value_json FROM trial_user_attributes AS about "
    "JOIN trials ON trials.trial_id = about.trial_id "
    "WHERE study_id = :study_id AND key = 'seconds' "
    f"ORDER BY about.trial_id DESC LIMIT {LATEST}"
)
PACES = (
    "SELECT value FROM genstudy_metrics AS measured "
    "JOIN trials ON trials.trial_id = measured.trial_id "
    "WHERE study_id = :study_id AND name = 'epoch_seconds' "
    f"ORDER BY measured.trial_id DESC, epoch DESC LIMIT {LATEST}"
)
DIRECTION = (
    "SELECT CAST(direction AS VARCHAR) FROM study_directions "
    "WHERE study_id = :study_id AND objective = 0"
)


@dataclass(frozen=True, kw_only=True)
class StudyStatus:
    """How far a study is.

    total, epochs: trials in all, and of each; None where genstudy has not begun the study
    counts: trials by the words of `OUTCOMES`, and those that pause at a rung as ``paused``
    running: those that run, by number
    costs: seconds that each of the latest trials took
    finish: who retrains and exports the best; None: it was never begun
    jobs: with FILES, the retrainings and exports that machines have claimed, in words
    stretches: where trials pause at rungs, how often one is to be trained to its next rung; None:
        they do not pause; stretch_seconds: how long that takes on average
    stops: where each running trial pauses or ends, by its number; without rungs after all epochs
    """

    name: str
    metric: str
    total: int | None
    epochs: int | None
    counts: Counter[str]
    running: Sequence[RunningTrial]
    costs: Sequence[float]
    finish: Finish | None
    jobs: Sequence[str] = ()
    stretches: int | None = None
    stretch_seconds: float = 0.0
    stops: Mapping[int, int] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        """How many trials have ended."""
        return self.counts.total() - sum(self.counts[word] for word in NOT_ENDED)

    @property
    def alive(self) -> list[RunningTrial]:
        """The trials of whose workers something was heard lately."""
        return [trial for trial in self.running if not is_silent(trial)]

    def pace(self) -> float | None:
        """Return the seconds from one epoch to the next, all workers together."""
        return epoch_pace(self._workers(), now=0.0)

    def seconds_left(self) -> float | None:
        """Return how long the search still takes; None while nobody works, or all have ended."""
        if self.total is None:
            return None
        unstarted = max(0, self.total - self.ended - self.counts["paused"] - len(self.alive))
        costs = self.costs
        if self.stretches is not None:
            costs, unstarted = [self.stretch_seconds], self.stretches
        turns = count_turns(self.alive)
        costs = [turns * cost for cost in costs]
        return seconds_left(self._workers(), costs=costs, unstarted=unstarted, others=0, now=0.0)

    def machine_seconds_left(self) -> float | None:
        """Return how long one worker would take for all that is left; None if nobody can tell.

        It counts the trials that are not begun, those that wait for a worker, and the paused
        ones that are promoted. It is None before a trial has ended, and when none is left.
        """
        if self.stretches is not None:
            return self.stretches * self.stretch_seconds or None
        if self.total is None or not self.costs:
            return None
        left = self.total - self.ended - self.counts["paused"]
        return left * sum(self.costs) / len(self.costs) if left > 0 else None

    def _workers(self) -> list[WorkerStatus]:
        """Return what the workers are at, as `search.pace` has it; the present is 0."""
        return [
            WorkerStatus(
                trial.device or "",
                "trial",
                trial.number,
                epoch=trial.epoch,
                epochs=max(self.stops.get(trial.number, self.epochs or 0), trial.epoch),
                value=trial.value,
                since=-trial.seconds,
                turned=-1e-9 if trial.pace else 0.0,  # when the last epoch ended is not known
                pace=trial.pace or 0.0,
            )
            for trial in self.alive
        ]


def is_silent(trial: RunningTrial) -> bool:
    """Whether the worker of a trial seems to be gone, so that others take over its trial."""
    return trial.silent is not None and trial.silent > GRACE


def read_status(connection: Connection, name: str) -> StudyStatus:
    """Return how far the study is. Raises `StudyNotFound`."""
    study_id = find_study(connection, name)
    system = _read(connection, study_id, "system")
    record, names = parse_record(system.get(KEY)), system.get(NAMES)
    definition = _definition(_read(connection, study_id, "user").get(DEFINITION))
    epochs = definition.get("epochs")
    found = StudyStatus(
        name=name,
        metric=_first_name(names),
        total=None if record is None else record.trials,
        epochs=epochs if isinstance(epochs, int) else None,
        counts=_count(connection, name, study_id),
        running=read_running(connection, study_id),
        costs=_read_costs(connection, study_id),
        finish=find_finish(connection.engine, definition.get("token")),
        jobs=_read_jobs(connection, definition.get("token")),
    )
    return found if record is None else _with_rungs(connection, study_id, found, record.pruner)


def _with_rungs(
    connection: Connection, study_id: int, found: StudyStatus, pruner: str
) -> StudyStatus:
    """Return the status with what is left between rungs, where trials pause at them."""
    rule = _read_rule(pruner)
    paces = _read_paces(connection, study_id) if rule is not None else []
    if rule is None or not paces or found.epochs is None or found.total is None:
        return found
    pace = sum(paces) / len(paces)
    running = [trial.number for trial in found.alive]
    begun = found.counts.total() - found.counts["retried"]
    whole = find_running_with(connection, study_id, REPEATED)
    left = stretches_left(
        read_arrivals(connection, study_id),
        rule,
        epochs=found.epochs,
        fresh=range(begun, found.total),
        running=set(running) - whole,
        # what a killed worker was at waits, too
        waiting=found.counts["waiting"] + len(found.running) - len(running),
        minimize=_is_minimized(connection, study_id),
        has_complete=found.counts["complete"] > 0,
    )
    work = RungWork(stretches=left, pruner=rule, epochs=found.epochs, whole=whole)
    stops = {trial.number: work.stop_of(trial.number, trial.epoch) for trial in found.alive}
    return replace(
        found, stretches=left.total(), stretch_seconds=pace * work.mean_epochs, stops=stops
    )


def _read_rule(written: str) -> AshaPruner | None:
    """Return what says where trials pause; None: they do not, or nobody can tell."""
    try:
        pruner = make_pruner(written)
    except BadVariable:  # the object of a file, or what anybody has written
        return None
    return pruner if isinstance(pruner, AshaPruner) else None


def _read_paces(connection: Connection, study_id: int) -> list[float]:
    """Return the seconds of the latest epochs."""
    if not inspect(connection).has_table(metrics.name):
        return []
    found = fetch_rows(connection, PACES, study_id=study_id)
    return [value for (value,) in found if value is not None and math.isfinite(value)]


def _is_minimized(connection: Connection, study_id: int) -> bool:
    found = fetch_rows(connection, DIRECTION, study_id=study_id)
    return not found or found[0][0] != "MAXIMIZE"


def _first_name(names: object) -> str:
    """Return the name of the quality, the first of several goals."""
    found = names[0] if isinstance(names, list) and names else None
    return found if isinstance(found, str) else "value"


def _read(connection: Connection, study_id: int, kind: str) -> dict[str, Any]:
    """Return those attributes of the study that say how far it is. Anybody may have written
    them."""
    keys = {"definition": DEFINITION, "record": KEY, "names": NAMES}
    rows = fetch_rows(connection, ATTRIBUTES.format(kind=kind), study_id=study_id, **keys)
    found: dict[str, Any] = {}
    for key, written in rows:
        try:
            found[key] = parse_json(written)
        except ValueError:
            continue
    return found


def _definition(written: Any) -> dict[str, Any]:
    try:
        found = parse_json(written)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _count(connection: Connection, name: str, study_id: int) -> Counter[str]:
    """Count the trials; those that pause do not wait for a worker."""
    counts = count_outcomes(connection).get(name, Counter())
    if counts["waiting"] and inspect(connection).has_table(rungs.name):
        counts["paused"] = sum(each.is_paused for each in read_arrivals(connection, study_id))
        counts["waiting"] -= counts["paused"]
    return counts


def _read_costs(connection: Connection, study_id: int) -> list[float]:
    found = fetch_rows(connection, SECONDS, study_id=study_id)
    values = [parse_json(written) for (written,) in found]
    return [float(value) for value in values if is_sound("seconds", value)]


def _read_jobs(connection: Connection, token: object) -> list[str]:
    if not isinstance(token, str) or not inspect(connection).has_table(claims.name):
        return []
    found = read_claims(connection.engine, token)
    return [_describe_job(name) for name, claim in sorted(found.items()) if claim.owner is not None]


def _describe_job(name: str) -> str:
    """Return what a job does, by its name; see `search.supervisor.shared_jobs`."""
    if export := EXPORT.fullmatch(name):
        return f"export of rank {export[1]}"
    if retraining := RETRAINING.fullmatch(name):
        return f"retraining of trial {retraining[1]}{name_seed(int(retraining[2] or 1))}"
    return "another job"  # anybody may write there
