"""Many workers that train nothing, on one Postgres: what they ask of it, and what it takes.

    python -m tests.benchmarks.scale_loops --url postgresql://me@host/scratch --workers 64

A worker is a thread with a queue and a connection of its own, as a worker's process has them. It
claims a trial, sleeps through its epochs, reports each, asks the pruner and ends the trial: by the
product's own code, or by plain Optuna's. A few processes hold the threads, so that neither memory
nor imports are the limit before the database is. Their CPU time is a figure, too: where it and the
server's fill the cores of the machine, the machine was the limit.

All is counted in a window of time, in which every worker is at work. Printed is a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import fmean
from typing import Any

import optuna
import psutil
import psycopg
from optuna.trial import TrialState
from sqlalchemy import make_url

from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.trials.epoch_report import EpochReport
from search.trials.outcomes import Ending
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue, open_queue
from storage.database.address import parse_url
from storage.database.connection import open_storage
from tests.benchmarks.database import GOOD, MEDIAN, suggest
from tests.benchmarks.filled import METRICS, SPACE, attributes

PROCESSES = 4  # that hold the threads
SETTLING = 8.0  # seconds until connections are open and the first trials began
STUDY = "scale"
PRUNER = "median(n_startup_trials=3, n_warmup_steps=2)"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the workers do. between: seconds that an epoch lasts; begin, end: of the window"""

    url: str
    side: str
    workers: int
    epochs: int
    between: float
    seconds: float
    begin: float = 0.0
    end: float = 0.0

    def counts(self, moment: float) -> bool:
        """Whether what ended then is counted."""
        return self.begin <= moment < self.end


@dataclass
class Heard:
    """What the threads of one process have seen in the window: seconds, each."""

    claims: list[float]
    reports: list[float]
    locked: list[float] = field(default_factory=list)  # under the lock of the study
    trials: int = 0
    spent: float = 0.0  # in calls of the database, all together

    def time_call(self, load: Load, kept: list[float] | None, call: Callable[[], Any]) -> Any:
        began = time.monotonic()
        found = call()
        ended = time.monotonic()
        if load.counts(ended):
            self.spent += ended - began
            if kept is not None:
                kept.append(ended - began)
        return found


def run_trial(queue: TrialQueue, load: Load, heard: Heard) -> None:
    """What a worker asks of its database in one trial."""
    trial = heard.time_call(load, heard.claims, lambda: queue.claim(sys.maxsize))
    with queue.keep_lease(trial.number):
        about = {**attributes(trial.number), "revision": "0" * 12}
        heard.time_call(load, None, lambda: queue.set_attributes(trial, about))
        heard.time_call(load, None, lambda: suggest(trial))
        for epoch in range(1, load.epochs + 1):
            time.sleep(load.between)
            if time.monotonic() > load.end:
                queue.release(trial.number)
                return
            report = EpochReport(epoch, GOOD / epoch, dict.fromkeys(METRICS, 1.0))
            heard.time_call(load, heard.reports, partial(queue.report, trial, report))
            heard.time_call(load, None, lambda: queue.try_should_prune(trial))
        ending = Ending.complete(GOOD / load.epochs, load.epochs)
        heard.time_call(load, None, lambda: queue.renew(trial.number))
        heard.time_call(load, None, lambda: queue.end(trial, ending))
    heard.trials += load.counts(time.monotonic())


def run_trial_of_optuna(study: optuna.Study, load: Load, heard: Heard) -> None:
    """The same by plain Optuna."""
    trial = heard.time_call(load, heard.claims, study.ask)
    for key, value in {**attributes(trial.number), "revision": "0" * 12}.items():
        heard.time_call(load, None, partial(trial.set_user_attr, key, value))
    heard.time_call(load, None, lambda: suggest(trial))
    for step in range(load.epochs):
        time.sleep(load.between)
        if time.monotonic() > load.end:
            return
        value = GOOD / (step + 1)
        heard.time_call(load, heard.reports, partial(trial.report, value, step))
        heard.time_call(load, None, trial.should_prune)
    for key, value in {"outcome": "complete", "epochs": load.epochs}.items():
        heard.time_call(load, None, partial(trial.set_user_attr, key, value))
    value = GOOD / load.epochs
    heard.time_call(load, None, lambda: study.tell(trial, value, state=TrialState.COMPLETE))
    heard.trials += load.counts(time.monotonic())


def time_lock(queue: TrialQueue, load: Load, heard: Heard) -> None:
    """Let ``heard`` know how long the queue holds the lock of its study."""
    lock = queue._locked

    @contextmanager
    def timed() -> Iterator[None]:
        with lock():
            began = time.monotonic()
            yield
        if load.counts(ended := time.monotonic()):
            heard.locked.append(ended - began)

    queue._locked = timed  # type: ignore[method-assign]


def open_worker(load: Load, seed: int, heard: Heard) -> Callable[[], None]:
    """Return what runs one trial, with a connection of its own."""
    if load.side == "genstudy":
        queue = open_queue(STUDY, load.url, owner=owner_name(os.getpid()))
        queue.study.sampler = make_sampler("random", seed=0, space=SPACE)
        queue.study.pruner = make_pruner(PRUNER)
        time_lock(queue, load, heard)
        return partial(run_trial, queue, load, heard)
    place = parse_url(load.url).render_as_string(hide_password=False)
    study = optuna.load_study(
        study_name=STUDY,
        storage=place,
        sampler=optuna.samplers.RandomSampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(**MEDIAN),
    )
    return partial(run_trial_of_optuna, study, load, heard)


def hold_threads(load: Load, threads: int, first: int, pipe: Any) -> None:
    """One process: its threads work until the window has ended; then it sends what they heard."""
    heard = [Heard(claims=[], reports=[]) for _ in range(threads)]
    errors: list[str] = []

    def work(own: Heard, seed: int) -> None:
        try:
            run = open_worker(load, seed, own)
            time.sleep(random.Random(seed).uniform(0.0, max(load.epochs * load.between, 1.0)))
            while time.monotonic() < load.end:
                run()
        except Exception as error:
            errors.append(repr(error.__cause__ or error))

    working = [
        threading.Thread(target=work, args=(own, first + index)) for index, own in enumerate(heard)
    ]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    pipe.send(([asdict(own) for own in heard], errors))


class Server:
    """The server's processes, on this machine."""

    def __init__(self, url: str) -> None:
        place = make_url(parse_url(url)).set(drivername="postgresql")
        address = place.render_as_string(hide_password=False)
        self.connection = psycopg.connect(address, autocommit=True, prepare_threshold=None)
        (own,) = self.connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        parent = psutil.Process(own).parent()
        assert parent is not None
        self.postmaster = parent

    def count_connections(self) -> int:
        found = self.connection.execute(
            "SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'"
        ).fetchone()
        return int(found[0]) if found else 0

    def cpu_seconds(self) -> float:
        """Return what the server has taken: of those that live, and of those that have ended."""
        times = self.postmaster.cpu_times()
        total = times.user + times.system + times.children_user + times.children_system
        for child in self.postmaster.children():
            with suppress(psutil.NoSuchProcess):
                of_child = child.cpu_times()
                total += of_child.user + of_child.system
        return float(total)


def measure(load: Load, server_url: str) -> dict[str, Any]:
    """Let the workers run, and return what they did in the window and what it took."""
    storage = open_storage(load.url)
    optuna.create_study(study_name=STUDY, storage=storage, direction="minimize")
    storage.engine.dispose()
    server = Server(server_url)
    begin = time.monotonic() + SETTLING + load.epochs * load.between
    load = replace(load, begin=begin, end=begin + load.seconds)
    forks = multiprocessing.get_context("fork")
    started, pipes = [], []
    for index in range(PROCESSES):
        threads = len(range(index, load.workers, PROCESSES))
        ours, theirs = forks.Pipe()
        arguments = (load, threads, 1000 * index, theirs)
        started.append(forks.Process(target=hold_threads, args=arguments, daemon=True))
        started[-1].start()
        pipes.append(ours)
    time.sleep(max(0.0, load.begin - time.monotonic()))
    clients = [psutil.Process(process.pid) for process in started]
    before = server.cpu_seconds(), sum(sum(each.cpu_times()[:2]) for each in clients)
    most = 0
    while (left := load.end - time.monotonic()) > 0:
        most = max(most, server.count_connections())
        time.sleep(min(0.5, left))
    after = server.cpu_seconds(), sum(sum(each.cpu_times()[:2]) for each in clients)
    found = [pipe.recv() for pipe in pipes]
    for process in started:
        process.join()
    if errors := [error for _, some in found for error in some]:
        raise RuntimeError(f"{len(errors)} of {load.workers} workers failed: {errors[0]}")
    heard = [Heard(**one) for some, _ in found for one in some]
    return summarise(load, heard, after[0] - before[0], after[1] - before[1], most)


def summarise(
    load: Load, heard: list[Heard], server: float, clients: float, connections: int
) -> dict[str, Any]:
    """Return the figures of a window. A trial stands for its share of all that was done."""
    reports = [seconds for one in heard for seconds in one.reports]
    claims = [seconds for one in heard for seconds in one.claims]
    locked = [seconds for one in heard for seconds in one.locked]
    trials = len(reports) / load.epochs  # whole ones may be few in a short window
    return {
        "side": load.side,
        "workers": load.workers,
        "between": load.between,
        "trials_a_s": trials / load.seconds,
        "ended": sum(one.trials for one in heard),
        "server_ms": 1000 * server / trials,
        "client_ms": 1000 * clients / trials,
        "wait_ms": 1000 * sum(one.spent for one in heard) / trials,
        "claim_ms": 1000 * fmean(claims) if claims else None,
        "lock_ms": 1000 * fmean(locked) if locked else None,
        "report_ms": 1000 * fmean(reports),
        "connections": connections,
        "busy_cores": (server + clients) / load.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--server", help="the server's own address, where --url is a pooler's")
    parser.add_argument("--side", choices=("genstudy", "optuna"), default="genstudy")
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--between", type=float, default=1.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = vars(parser.parse_args())
    server = given.pop("server") or given["url"]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(json.dumps(measure(Load(**given), server)), flush=True)


if __name__ == "__main__":
    main()
