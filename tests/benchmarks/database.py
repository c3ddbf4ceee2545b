"""What the trial database costs: growth, frames and several workers, beside plain Optuna.

    python -m tests.benchmarks.database growth --url sqlite:////tmp/bench.db
    python -m tests.benchmarks.database frames --url postgresql://me@host/scratch
    python -m tests.benchmarks.database workers --url sqlite:////tmp/bench.db

Every figure comes from a fresh process and is a line of JSON. The studies that are
measured on are made in the database when they are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.trials.epoch_report import EpochReport
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue, open_queue
from storage.database import leases
from storage.database.address import parse_url
from storage.database.connection import open_storage
from tests.benchmarks.filled import METRICS, SPACE, STEPS, attributes, fill_study

ROOT = Path(__file__).parents[2]
SIDES = ("genstudy", "optuna")
GOOD = 1e-3  # better than what the filled studies hold: such a trial is never pruned
MEDIAN = {"n_startup_trials": 3, "n_warmup_steps": 2}
WARM = 9  # trials whose median is a warm trial's cost


class Clock:
    """Seconds that were spent inside it, all together."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter() - self._began


def suggest(trial: Trial) -> None:
    trial.suggest_int("channels", 4, 10)
    trial.suggest_int("latent", 10, 60)
    trial.suggest_categorical("optimizer", ["adam", "sgd"])
    trial.suggest_float("lr", 5e-5, 5e-2, log=True)
    trial.suggest_float("weight_decay", 1e-6, 1e-4, log=True)
    trial.suggest_float("dropout", 0.0, 0.5)


def one_trial(queue: TrialQueue, *, steps: int = STEPS, between: float = 0.0) -> float:
    """All that a trial of the product asks of its database; the seconds that it took.

    between: seconds of other work before each report
    """
    clock = Clock()
    with clock:
        trial = queue.claim(sys.maxsize)
        assert trial is not None
    with queue.keep_lease(trial.number):
        with clock:
            queue.set_attributes(trial, {**attributes(trial.number), "revision": "0" * 12})
            suggest(trial)
            known = queue.storage.get_trial(queue.id_of(trial.number)).intermediate_values
            assert not known
        for epoch in range(1, steps + 1):
            time.sleep(between)
            with clock:
                queue.report(trial, EpochReport(epoch, GOOD / epoch, dict.fromkeys(METRICS, 1.0)))
                if epoch < steps and trial.should_prune():
                    raise AssertionError("a value this good is never pruned")
        with clock:
            assert queue.renew(trial.number)
            queue.set_attributes(trial, {"outcome": "complete", "epochs": steps, "seconds": 1.0})
            queue.study.tell(trial, GOOD / steps, state=TrialState.COMPLETE)
    with clock:
        leases.end_lease(queue.engine, queue.id_of(trial.number))
    return clock.seconds


def one_trial_optuna(study: optuna.Study, *, steps: int = STEPS, between: float = 0.0) -> float:
    """The same by plain Optuna: ask, suggest, report, should_prune, attributes, tell."""
    clock = Clock()
    with clock:
        trial = study.ask()
        for key, value in {**attributes(trial.number), "revision": "0" * 12}.items():
            trial.set_user_attr(key, value)
        suggest(trial)
    for step in range(steps):
        time.sleep(between)
        with clock:
            trial.report(GOOD / (step + 1), step)
            if step < steps - 1 and trial.should_prune():
                raise AssertionError("a value this good is never pruned")
    with clock:
        for key, value in {"outcome": "complete", "epochs": steps, "seconds": 1.0}.items():
            trial.set_user_attr(key, value)
        study.tell(trial, GOOD / steps)
    return clock.seconds


def open_product(url: str, study: str, sampler: str) -> TrialQueue:
    """As a worker opens its study."""
    queue = open_queue(study, url, owner=owner_name(os.getpid()))
    queue.study.sampler = make_sampler(sampler, seed=0, space=SPACE)
    queue.study.pruner = make_pruner(f"median({_written(MEDIAN)})")
    return queue


def open_optuna(url: str, study: str, sampler: str) -> optuna.Study:
    """As a user of Optuna does: a URL and a pruner, the rest as it is shipped."""
    seed = os.getpid()
    shipped = optuna.samplers.RandomSampler(seed=seed) if sampler == "random" else None
    return optuna.load_study(
        study_name=study,
        storage=parse_url(url).render_as_string(hide_password=False),
        sampler=shipped or optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(**MEDIAN),
    )


def measure_trial(url: str, study: str, side: str, sampler: str) -> dict[str, Any]:
    """Seconds to the end of a fresh process's first trial; milliseconds of a warm one."""
    with (first := Clock()):
        run = _runner(url, study, side, sampler)
        run()
    return {"first_s": first.seconds, "warm_ms": 1000 * median(run() for _ in range(WARM))}


def measure_worker(url: str, study: str, side: str, between: float, steps: int) -> dict[str, Any]:
    """A warm process whose trial reports every ``between`` seconds: what the database took of it.

    It says when it is ready, waits for all others, and begins at a moment of its own.
    """
    run = _runner(url, study, side, "random")
    run()
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(random.Random(os.getpid()).uniform(0.0, between))
    began = time.perf_counter()
    spent = run(steps=steps, between=between)
    return {"share": spent / (time.perf_counter() - began), "ms_a_report": 1000 * spent / steps}


def measure_frame(url: str, study: str, side: str) -> dict[str, Any]:
    """Seconds and MiB (peak, beyond what the imports took) of a study as a frame."""
    began = time.perf_counter()
    import storage.frames  # and pandas

    imports = time.perf_counter() - began
    before = _memory("VmRSS")
    with (clock := Clock()):
        if side == "optuna":
            place = parse_url(url).render_as_string(hide_password=False)
            frame = optuna.load_study(study_name=study, storage=place).trials_dataframe()
        else:
            frame = getattr(storage.frames, side)(study, storage=url)
    return {
        "seconds": clock.seconds,
        "imports_s": imports,
        "extra_mib": _memory("VmHWM") - before,
        "rows": len(frame),
    }


def _runner(url: str, study: str, side: str, sampler: str) -> Any:
    if side == "genstudy":
        queue = open_product(url, study, sampler)
        return lambda **given: one_trial(queue, **given)
    plain = open_optuna(url, study, sampler)
    return lambda **given: one_trial_optuna(plain, **given)


def growth(url: str, trials: int) -> Iterator[dict[str, Any]]:
    """A trial in a study of 100 and in one of ``trials``."""
    for count in (100, trials):
        study = filled(url, count)
        for sampler in ("random", "tpe"):
            for side in SIDES:
                (found,) = fresh("trial", [{"url": url, "study": study, "side": side,
                                            "sampler": sampler}])  # fmt: skip
                yield {"trials": count, "sampler": sampler, "side": side, **found}


def frames(url: str, trials: int) -> Iterator[dict[str, Any]]:
    """A study of ``trials`` as a frame: ours, Optuna's, and our frame of all epochs."""
    study = filled(url, trials)
    for side in ("trials", "optuna", "curves"):
        (found,) = fresh("frame", [{"url": url, "study": study, "side": side}])
        yield {"trials": trials, "side": side, **found}


def workers(url: str, trials: int) -> Iterator[dict[str, Any]]:
    """1 to 8 processes on a study of ``trials``, each reporting once a second."""
    study = filled(url, trials)
    for count in (1, 2, 4, 8):
        for side in SIDES:
            one = {"url": url, "study": study, "side": side, "between": 1.0, "steps": STEPS}
            found = fresh("worker", [one] * count)
            yield {
                "workers": count,
                "side": side,
                "share": median(each["share"] for each in found),
                "ms_a_report": median(each["ms_a_report"] for each in found),
                "slowest_ms_a_report": max(each["ms_a_report"] for each in found),
            }


def filled(url: str, trials: int) -> str:
    """The name of the study of so many trials, made if it is not there."""
    name = f"bench-{trials}"
    storage = open_storage(url)
    known = {study.study_name for study in storage.get_all_studies()}
    storage.engine.dispose()
    if name not in known:
        fill_study(url, name, trials)
    return name


def fresh(measure: str, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each in a process of its own; workers go off together, when the last of them is ready."""
    command = [sys.executable, "-m", "tests.benchmarks.database", "measure", measure]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started: list[Any] = [
        subprocess.Popen([*command, json.dumps(one)], cwd=ROOT, **pipes) for one in given
    ]
    if measure == "worker":
        for process in started:
            process.stdout.readline()
        for process in started:
            process.stdin.write("go\n")
            process.stdin.flush()
    outputs = [process.communicate()[0] for process in started]
    for process in started:
        if process.returncode:
            raise RuntimeError(f"{measure} ended with code {process.returncode}: see above")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def _memory(name: str) -> float:
    """MiB, as the kernel counts this process: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _written(arguments: dict[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


MEASURES: dict[str, Any] = {
    "trial": measure_trial,
    "worker": measure_worker,
    "frame": measure_frame,
}
FIGURES = {"growth": growth, "frames": frames, "workers": workers}


def main() -> int:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["measure"]:
        _, _, measure, given = sys.argv
        print(json.dumps(MEASURES[measure](**json.loads(given))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figure", choices=FIGURES)
    parser.add_argument("--url", required=True, help="a database that may be written to")
    parser.add_argument("--trials", type=int, default=10_000)
    asked = parser.parse_args()
    for line in FIGURES[asked.figure](asked.url, asked.trials):
        print(json.dumps({"figure": asked.figure, **line}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
