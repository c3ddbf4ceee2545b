"""One process on one device: takes trials until none is left, then retrains the best.

    python -m search worker        (started by the supervisor, not by hand)

It reads jobs and writes events, one JSON object a line each:

    in   {"job": "setup", "run": ..., "device": "cuda:0"}  first
         {"job": "search"} | {"job": "retrain", "number": 7}
         {"job": "export", "number": 7, "rank": 1} | {"job": "stop"}
    out  ready, started, epoch, ended, released, retrained, exported, idle, error

The end of its input means that the supervisor is gone: the worker then stops as
if told to. What a model or study prints goes to the worker's log.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import IO, Any

from search.errors import SearchError

log = logging.getLogger("genstudy")

STOP = {"job": "stop"}


class Control:
    """The two pipes to the supervisor."""

    def __init__(self, jobs: IO[str], events: IO[str]) -> None:
        self._input = jobs
        self._events = events
        self._jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopped = threading.Event()
        threading.Thread(target=self._listen, name="jobs", daemon=True).start()

    def _listen(self) -> None:
        for line in self._input:
            job = json.loads(line)
            if job == STOP:
                break
            self._jobs.put(job)
        self.stopped.set()
        self._jobs.put(STOP)

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Jobs as they come, until told to stop."""
        while not self.stopped.is_set():
            job = self._jobs.get()
            if job == STOP:
                return
            yield job

    def say(self, event: str, **values: Any) -> None:
        try:
            self._events.write(json.dumps({"event": event, **values}) + "\n")
            self._events.flush()
        except (BrokenPipeError, ValueError):
            self.stopped.set()  # nobody listens any more


def main() -> int:
    control = Control(sys.stdin, _own_output())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    signal.signal(signal.SIGTERM, lambda *_: control.stopped.set())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    try:
        _work(control)
    except (SearchError, OSError) as error:
        control.say("error", message=str(error))
        log.error("%s", error)
        return 2
    except Exception as error:
        control.say("error", message=f"{type(error).__name__}: {error}")
        log.error("%s", traceback.format_exc())
        return 1
    return 0


def _work(control: Control) -> None:
    import torch  # the slow part of starting: done while the supervisor checks the study

    import search.objective
    import search.winner

    torch.set_num_threads(1)
    bench: search.objective.Bench | None = None
    for job in control.jobs():
        if job["job"] == "setup":
            bench = _set_up(control, job)
            control.say("ready", device=bench.device_name)
            continue
        assert bench is not None, "the first job is always setup"
        if job["job"] == "search":
            _search(bench)
        elif job["job"] == "retrain":
            search.winner.retrain(bench, job["number"])
        elif job["job"] == "export":
            search.winner.export(bench, job["number"], job["rank"])
        control.say("idle")


def _set_up(control: Control, job: dict[str, Any]) -> Any:
    """Load study, images and database once, for all trials of this process."""
    import optuna
    from optuna.exceptions import ExperimentalWarning

    from models.images import open_images
    from search.claims import open_claims, owner_name
    from search.devices import use_device
    from search.objective import Bench
    from search.pruners import make_pruner
    from search.run import StudyRun
    from search.samplers import make_sampler
    from search.study import load_study

    warnings.simplefilter("ignore", ExperimentalWarning)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run = StudyRun(**job["run"])
    study = load_study(run.name)
    claims = open_claims(run.study, run.storage, owner_name(os.getpid()))
    claims.study.sampler = make_sampler(
        run.sampler or study.spec.sampler, seed=run.seed, space=study.space
    )
    claims.study.pruner = make_pruner(run.pruner or study.spec.pruner)
    name = use_device(job["device"])
    from pathlib import Path

    return Bench(
        run=run,
        spec=study.spec,
        claims=claims,
        images=open_images(Path(run.images)).to(job["device"]),
        device=job["device"],
        device_name=name,
        say=control.say,
        interrupted=control.stopped.is_set,
    )


def _search(bench: Any) -> None:
    """Trials until none is left to take, or until told to stop."""
    from search.objective import run_trial

    while not bench.interrupted():
        trial = bench.claims.claim(bench.run.trials)
        if trial is None:
            return
        run_trial(bench, trial)


def _own_output() -> IO[str]:
    """Keep standard output for events; whatever else prints there goes to the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return events
