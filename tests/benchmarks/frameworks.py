"""Rows `frameworks`: a small study, four fixed configurations, wall time with all cores.

    make bench ROWS=frameworks

From the start of the command to the end of the last trial, by the time that each side notes for
it: imports, data and bookkeeping included, retraining and exports not. Nobody prunes. Ours is
`python -m search study` with `four.py`. Optuna's example and Lightning run as a process a core
on one SQLite database; in full, Optuna's example also runs with `n_jobs`, and the better of the
two counts. Ray Tune gives each trial a core.
"""

from __future__ import annotations

import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median

import optuna

from tests.benchmarks.processes import PYTHON, MeasurementFailed, environment, run_all, start, tail
from tests.benchmarks.rows import Row, paired_agreement
from tests.benchmarks.sizes import Settings
from tests.benchmarks.steps import Step
from tests.benchmarks.work import FOUR

TARGET = 3.0
PEERS = "tests.benchmarks.peers"
SIDES = {  # name -> what the table calls it
    "ours": "ours",
    "optuna": "Optuna's PyTorch example",
    "n_jobs": "Optuna's PyTorch example",
    "lightning": "Lightning with Optuna's callback",
    "ray": "Ray Tune with OptunaSearch",
}
EXPECTED = {"ours": 20.0, "optuna": 75.0, "n_jobs": 100.0, "lightning": 85.0, "ray": 90.0}

Ends = dict[int, tuple[float, float]]
"""Line of the list -> (Unix time of the trial's end, its validation error)."""


class Frameworks:
    name = "frameworks"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: dict[str, dict[int, float]] = {}

    def steps(self) -> list[Step]:
        sizes = self.settings.sizes
        sides = [side for side in SIDES if side != "n_jobs" or sizes.form == "full"]
        epochs = sizes.framework_epochs / 3
        return [
            Step(
                what=f"{len(FOUR)} trials of {sizes.framework_epochs} epochs, {side}",
                seconds=EXPECTED[side] * epochs,
                run=functools.partial(self._measure, side, repeat),
            )
            for repeat in range(sizes.framework_repeats)
            for side in sides
        ]

    def _measure(self, side: str, repeat: int) -> str:
        folder = self.settings.folder / f"{side}-{repeat}"
        folder.mkdir()
        sides: dict[str, Callable[[Path], tuple[float, Ends]]] = {
            "ours": self._ours,
            "optuna": functools.partial(self._example, "optuna_example", self.settings.cores),
            "n_jobs": functools.partial(self._example, "optuna_example", 1),
            "lightning": functools.partial(self._example, "lightning_example", self.settings.cores),
            "ray": self._ray,
        }
        began, ends = sides[side](folder)
        if len(ends) != len(FOUR):
            raise MeasurementFailed(f"{side} did {len(ends)} of {len(FOUR)} configurations")
        seconds = max(ended for ended, _ in ends.values()) - began
        self.seconds[side].append(seconds)
        self.errors[side] = {line: value for line, (_, value) in ends.items()}
        return f"{seconds:.1f} s, best MSE {min(self.errors[side].values()):.4f}"

    def _ours(self, folder: Path) -> tuple[float, Ends]:
        """TOP=1 is the least: the retraining comes after the last trial and does not count."""
        sizes = self.settings.sizes
        given = {
            "NAME": "tests/benchmarks/four.py",
            "RUNS": folder,
            "EPOCHS": sizes.framework_epochs,
            "RETRAIN_EPOCHS": 1,
            "TOP": 1,
            "GPUS": "none",
            "DATA_ROOT": self.settings.data_root,
        }
        if self.settings.our_data != "fashion_mnist":
            given["DATA"] = self.settings.our_data
        log = folder / "log"
        began = time.time()
        command = [PYTHON, "-m", "search", "study"]
        run_all([start(command, log=log, env=environment(given), piped=False)], log)
        return began, read_ends(f"sqlite:///{folder}/studies.db")

    def _example(self, module: str, processes: int, folder: Path) -> tuple[float, Ends]:
        """Every process does its share of the waiting trials."""
        settings = self.settings
        url = f"sqlite:///{folder}/peer.db"
        enqueue_four(url)
        shares = [len(FOUR) // processes] * processes
        for index in range(len(FOUR) % processes):
            shares[index] += 1
        log = folder / "log"
        began = time.time()
        running = [
            start(
                [
                    PYTHON, "-m", f"{PEERS}.{module}",
                    "--data-root", str(settings.data_root), "--storage", url,
                    "--trials", str(share), "--epochs", str(settings.sizes.framework_epochs),
                    *self._fewer_images(),
                    *(["--threads", "1"] if processes > 1 else ["--n-jobs", str(settings.cores)]),
                ],
                log=log, env=environment(threads=1 if processes > 1 else None), piped=False,
            )
            for share in shares if share
        ]  # fmt: skip
        run_all(running, log)
        return began, read_ends(url)

    def _ray(self, folder: Path) -> tuple[float, Ends]:
        settings = self.settings
        command = [
            PYTHON, "-m", f"{PEERS}.ray_tune", "--data-root", str(settings.data_root),
            "--folder", str(folder), "--cores", str(settings.cores),
            "--epochs", str(settings.sizes.framework_epochs),
            *self._fewer_images(),
        ]  # fmt: skip
        log = folder / "log"
        # Nothing of this run is sent anywhere or left in the home folder.
        env = environment({"RAY_USAGE_STATS_ENABLED": 0, "RAY_AUTH_MODE": "disabled"})
        began = time.time()
        run_all([start(command, log=log, env=env, piped=False)], log)
        for line in tail(log, 100).splitlines():
            if line.startswith("{"):
                found = json.loads(line)
                return began, {int(k): (v["ended"], v["mse"]) for k, v in found.items()}
        raise MeasurementFailed(tail(log))

    def _fewer_images(self) -> list[str]:
        images = self.settings.sizes.images
        return [] if images is None else ["--images", str(images)]

    def rows(self) -> list[Row]:
        optuna_side = min(
            (side for side in ("optuna", "n_jobs") if self.seconds[side]),
            key=lambda side: median(self.seconds[side]),
        )
        return [self._row(side) for side in (optuna_side, "lightning", "ray")]

    def _row(self, side: str) -> Row:
        layout = {
            "optuna": f", {self.settings.cores} processes x 1 thread",
            "n_jobs": f", n_jobs={self.settings.cores}",
            "lightning": f", {self.settings.cores} processes x 1 thread",
            "ray": f", {self.settings.cores} trials at once",
        }
        epochs = self.settings.sizes.framework_epochs
        return Row(
            section=self.name,
            what=f"{len(FOUR)} trials of {epochs} epochs",
            peer=SIDES[side] + layout[side],
            ours=median(self.seconds["ours"]),
            theirs=median(self.seconds[side]),
            unit="s",
            more_is_better=False,
            target=TARGET,
            note=paired_agreement(self.errors["ours"], self.errors[side]),
        )

    def close(self) -> None:
        pass


def enqueue_four(url: str) -> None:
    """The study of a peer with the fixed list waiting in it; not part of what is measured."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(study_name="peer", storage=url, direction="minimize")
    for line in range(len(FOUR)):
        study.enqueue_trial({"line": line})


def read_ends(url: str) -> Ends:
    """When each trial of the only study in a database ended, and with what value."""
    storage = optuna.storages.get_storage(url)
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    return {
        trial.params["line"]: (trial.datetime_complete.timestamp(), trial.value)
        for trial in trials
        if trial.datetime_complete is not None and trial.value is not None
    }
