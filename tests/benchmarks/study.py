"""Rows `study`: the whole study, wall time until the validation error that the peer ends with.

    make bench ROWS=study FULL=1

The peer goes first: Optuna's PyTorch example with a random sampler and its median pruner, a
process a core on one SQLite database. Then `make study NAME=cae` with its own settings, until
all its trials have ended (and, if it is not as good by then, until it has retrained and exported
its best). Both draw their own configurations: that is what a search is. In the short form there
are too few of them to say more than that it works.

Both sides are judged by what a reader of their trial database sees, half a second late at most.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
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
        self.peer, self.ours = Course(), Course()
        self.retrained: tuple[float, float] | None = None  # ours: (seconds, value), if waited for

    def steps(self) -> list[Step]:
        work = self.trials * self.epochs * (1.0 if self.epochs < 10 else 0.5)  # half is pruned
        return [
            Step(what=f"{self.trials} trials, peer", seconds=10 + 5.0 * work, run=self._peer),
            Step(what=f"{self.trials} trials, ours", seconds=20 + 2.0 * work, run=self._ours),
        ]

    def _peer(self) -> str:
        folder = self.settings.folder / "study-peer"
        folder.mkdir()
        url = f"sqlite:///{folder}/peer.db"
        create_empty(url)
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

    def _ours(self) -> str:
        folder = self.settings.folder / "study-ours"
        folder.mkdir()
        given = {
            "RUNS": folder,
            "DATA_ROOT": self.settings.data_root,
            "GPUS": "none",
            "NAME": "cae",
        }
        if self.settings.sizes.form != "full":
            given |= {"TRIALS": self.trials, "EPOCHS": self.epochs, "RETRAIN_EPOCHS": self.epochs}
        if self.settings.our_data != "fashion_mnist":
            given["DATA"] = self.settings.our_data
        words = [f"{name}={value}" for name, value in given.items()]
        command = ["make", "--no-print-directory", "study", f"VENV={venv()}", *words]
        paths = RunPaths(folder)

        def enough() -> bool:
            return self.ours.all_ended is not None and self.ours.best <= self.peer.best

        began = time.perf_counter()
        self._watch([command], environment(), paths.database, self.ours, enough)
        for provenance in (folder / "exports").glob("*/1/provenance.json"):
            value = json.loads(provenance.read_text())["valid"]["mse"]
            self.retrained = (time.perf_counter() - began, value)
        return self._told(self.ours)

    def _watch(
        self,
        commands: Sequence[Sequence[str]],
        env: Any,
        database: Path,
        course: Course,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run ``commands`` side by side, noting what stands in ``database``, until they end."""
        log = database.with_name("log")
        began = time.perf_counter()
        processes = [start(command, log=log, env=env, piped=False) for command in commands]
        try:
            running = True
            while running and not enough():
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
        both = max(self.ours.best, self.peer.best)
        reached = self.ours.reached(self.peer.best)
        if reached is None and self.retrained and self.retrained[1] <= self.peer.best:
            reached = self.retrained[0]
        note = (
            f"best MSE {self.ours.best:.5f} / {self.peer.best:.5f}; all of the peer's trials had "
            f"ended after {self.peer.all_ended or 0:.0f} s"
        )
        return [
            self._row(
                f"until the best of the peer's {self.trials} trials",
                reached,
                self.peer.reached(self.peer.best),  # like for like: not the end of its trials
                note,
                TARGET,
            ),
            self._row(
                "until both have the worse one's best",
                self.ours.reached(both),
                self.peer.reached(both),
                f"MSE {both:.5f}",
            ),
            self._row(f"{self.trials} trials", self.ours.all_ended, self.peer.all_ended, ""),
        ]

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


def create_empty(url: str) -> None:
    """The peer's database: processes that start at once would all make its tables."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    optuna.create_study(study_name="peer", storage=url, direction="minimize")


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
