"""Rows `study`: the whole study, wall time until the validation error that the peer ends with.

    make bench ROWS=study FULL=1

The peer goes first: Optuna's PyTorch example with its median pruner, a process a core on one
SQLite database. Then `make study NAME=cae` with its own settings, and once more with
``PRUNER=asha``, until all trials have ended. All of them try the parameters that our random sampler
draws, in one order: which side happens to draw a good trial early is luck, and says nothing of
either. Their seeds differ, and with them the value of the best: so both are timed until they have
what the worse one ends with.

All sides are judged by what a reader of their trial database sees, half a second late at most.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from storage.paths import RunPaths
from tests.benchmarks.processes import (
    PATIENCE,
    PYTHON,
    MeasurementFailed,
    end,
    environment,
    start,
    tail,
)
from tests.benchmarks.rows import Row
from tests.benchmarks.sizes import Settings
from tests.benchmarks.startup import venv
from tests.benchmarks.steps import Step

TARGET = 4.0
LOOK = 0.5  # seconds between two looks at a database
PEER = "Optuna's PyTorch example"
BEST = (
    "SELECT min(v.intermediate_value) FROM trial_intermediate_values v "
    "WHERE v.intermediate_value_type = 'FINITE'"
)
ENDED = "SELECT count(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"


@dataclass
class Course:
    """What one side had, and when: seconds after its start."""

    bests: list[tuple[float, float]] = field(default_factory=list)  # (seconds, best value so far)
    all_ended: float | None = None

    @property
    def best(self) -> float:
        return self.bests[-1][1] if self.bests else float("inf")

    def reached(self, value: float) -> float | None:
        """When the best was first as good as ``value``."""
        return next((seconds for seconds, best in self.bests if best <= value), None)

    def see(self, seconds: float, best: float | None) -> None:
        if best is not None and best < self.best:
            self.bests.append((seconds, best))


class WholeStudy:
    name = "study"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.trials = settings.sizes.study_trials
        self.epochs = settings.sizes.study_epochs
        self.peer, self.ours, self.paused = Course(), Course(), Course()

    def steps(self) -> list[Step]:
        work = self.trials * self.epochs * (1.0 if self.epochs < 10 else 0.5)  # half is pruned
        return [
            Step(what=f"{self.trials} trials, peer", seconds=10 + 5.0 * work, run=self._peer),
            Step(
                what=f"{self.trials} trials, ours",
                seconds=20 + 2.0 * work,
                run=lambda: self._ours(self.ours),
            ),
            Step(
                what=f"{self.trials} trials, ours with asha",
                seconds=20 + 1.0 * work,
                run=lambda: self._ours(self.paused, PRUNER="asha"),
            ),
        ]

    def _peer(self) -> str:
        folder = self.settings.folder / "study-peer"
        folder.mkdir()
        url = f"sqlite:///{folder}/peer.db"
        create_with_draws(url, self.trials)
        cores = self.settings.cores
        shares = [self.trials // cores + (index < self.trials % cores) for index in range(cores)]
        images = self.settings.sizes.images
        commands = [
            [
                PYTHON, "-m", "tests.benchmarks.peers.optuna_example", "--space", "searched",
                "--prune", "--data-root", str(self.settings.data_root), "--storage", url,
                "--trials", str(share), "--epochs", str(self.epochs), "--threads", "1",
                "--seed", str(index), *([] if images is None else ["--images", str(images)]),
            ]
            for index, share in enumerate(shares) if share
        ]  # fmt: skip
        self._watch(commands, environment(threads=1), folder / "peer.db", self.peer)
        return self._told(self.peer)

    def _ours(self, course: Course, **more: str) -> str:
        folder = self.settings.folder / "-".join(["study-ours", *more.values()])
        folder.mkdir()
        given = {
            "RUNS": folder,
            "DATA_ROOT": self.settings.data_root,
            "GPUS": "none",
            "NAME": "cae",
            "TOP": 0,
            **more,
        }
        if self.settings.sizes.form != "full":
            given |= {"TRIALS": self.trials, "EPOCHS": self.epochs}
        if self.settings.our_data != "fashion_mnist":
            given["DATA"] = self.settings.our_data
        words = [f"{name}={value}" for name, value in given.items()]
        command = ["make", "--no-print-directory", "study", f"VENV={venv()}", *words]
        self._watch([command], environment(), RunPaths(folder).database, course)
        return self._told(course)

    def _watch(
        self,
        commands: Sequence[Sequence[str]],
        env: Any,
        database: Path,
        course: Course,
    ) -> None:
        """Run ``commands`` side by side, noting what stands in ``database``, until they end."""
        log = database.with_name("log")
        began = time.perf_counter()
        processes = [start(command, log=log, env=env, piped=False) for command in commands]
        try:
            running = True
            while running:
                time.sleep(LOOK)
                running = any(process.poll() is None for process in processes)
                best, ended = look(database)
                seconds = time.perf_counter() - began
                course.see(seconds, best)
                if ended >= self.trials and course.all_ended is None:
                    course.all_ended = seconds
                if seconds > 4 * PATIENCE:
                    break
        finally:
            for process in processes:
                end(process)
        if course.all_ended is None:
            raise MeasurementFailed(f"not all trials have ended\n{tail(log)}")

    def _told(self, course: Course) -> str:
        return f"best MSE {course.best:.5f}, all ended after {course.all_ended:.0f} s"

    def rows(self) -> list[Row]:
        return [
            self._until_both("", self.ours),
            self._until_both(", PRUNER=asha", self.paused),
            self._row(f"{self.trials} trials", self.ours.all_ended, self.peer.all_ended, ""),
            self._row(
                f"{self.trials} trials, PRUNER=asha",
                self.paused.all_ended,
                self.peer.all_ended,
                "",
            ),
        ]

    def _until_both(self, more: str, course: Course) -> Row:
        """Return the time until both sides have the worse one's best."""
        both = max(course.best, self.peer.best)
        return self._row(
            f"until both have the worse one's best{more}",
            course.reached(both),
            self.peer.reached(both),
            f"best MSE {course.best:.5f} / {self.peer.best:.5f}; the same draws on both sides",
            TARGET,
        )

    def _row(
        self,
        what: str,
        ours: float | None,
        theirs: float | None,
        note: str,
        target: float | None = None,
    ) -> Row:
        return Row(
            section=self.name,
            what=what,
            peer=f"{PEER}, {self.settings.cores} processes x 1 thread",
            ours=ours,
            theirs=theirs,
            unit="s",
            more_is_better=False,
            target=target,
            note=note,
        )

    def close(self) -> None:
        pass


def create_with_draws(url: str, trials: int) -> None:
    """Make the peer's study, which tries what our random sampler draws for ``trials`` trials."""
    import optuna

    from search.strategies.samplers import make_sampler
    from search.studies.cae import STUDY

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawing = optuna.create_study(sampler=make_sampler("random", seed=STUDY.seed, space={}))
    study = optuna.create_study(study_name="peer", storage=url, direction="minimize")
    for _ in range(trials):
        trial = drawing.ask()
        STUDY.suggest(trial)
        study.enqueue_trial(trial.params)


def look(database: Path) -> tuple[float | None, int]:
    """The best value that was reported and the trials that have ended, in any study of the file."""
    if not database.exists():
        return None, 0
    try:
        with closing(
            sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
        ) as connection:
            (best,) = connection.execute(BEST).fetchone()
            (ended,) = connection.execute(ENDED).fetchone()
    except sqlite3.OperationalError:  # its tables are being made
        return None, 0
    return best, ended
