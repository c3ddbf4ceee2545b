"""Commands of genstudy as a person gives them, several beside each other on one device.

    person = Person(settings, "memory")
    done = person.run(NAME=file, TRIALS=4, MEMORY=4)
    yield from together(settings, [("memory", check_memory), ...], at_once=4)

A check is a function of the settings that returns rows. One that fails costs its own rows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from models.data.loading import prepare_images
from search.variables import VARIABLES
from storage import curves, trials
from tests.benchmarks.processes import environment
from tests.gpu.part import Row, Settings

ROOT = Path(__file__).parents[2]
PATIENCE = 140.0 if torch.cuda.is_available() else 900.0  # seconds that a command may take
SHAPE = (1, 28, 28)

Check = Callable[[Settings], Iterable[Row]]


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended: its exit code, what it printed, its wall seconds."""

    code: int
    out: str
    error: str
    seconds: float

    @property
    def brief(self) -> str:
        """The code and the end of what was said, in a line."""
        said = (self.error or self.out).strip().splitlines()[-1:]
        return f"exit code {self.code}, {' '.join(said)}"[:240]

    @property
    def is_error_line(self) -> bool:
        """Whether a mistake was answered by one line."""
        is_line = self.error.count("\n") == 1 and self.error.startswith("error: ")
        return self.code == 2 and is_line


class Person:
    """Gives commands that have a folder RUNS of their own, and images that all share.

    hidden: what the environment says besides, such as CUDA_VISIBLE_DEVICES
    """

    def __init__(self, settings: Settings, name: str, hidden: Mapping[str, str] | None = None):
        self.settings = settings
        self.runs = settings.work / name
        self.runs.mkdir(parents=True, exist_ok=True)
        cache = self.runs / "cache"
        if not cache.is_symlink():
            shared_cache(settings).mkdir(exist_ok=True)
            cache.symlink_to(shared_cache(settings))
        own = {*VARIABLES, "GENSTUDY_GIVEN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in own},
            "PYTHONPATH": python_path(),
            "COLUMNS": "200",
            "RUNS": str(self.runs),
            "DATA_ROOT": str(settings.data),
            "GPUS": gpus_of(settings),
            "SEEDS": "1",
            "TOP": "0",
            **(hidden or {}),
        }

    def start(self, **variables: object) -> subprocess.Popen[str]:
        """Start ``python -m search study``. An empty value leaves its variable unset."""
        given = {name: str(value) for name, value in variables.items()}
        with (self.runs / "out.txt").open("a") as out, (self.runs / "error.txt").open("a") as error:
            return subprocess.Popen(
                [sys.executable, "-m", "search", "study"],
                env={**self.environment, **given},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                text=True,
                cwd=ROOT,
            )

    def run(self, patience: float = PATIENCE, **variables: object) -> Done:
        """Give the command and wait for its end."""
        before = self.said()
        began = time.monotonic()
        process = self.start(**variables)
        return self.wait(process, before, began, patience)

    def wait(
        self,
        process: subprocess.Popen[str],
        before: tuple[str, str] = ("", ""),
        began: float | None = None,
        patience: float = PATIENCE,
    ) -> Done:
        """Wait for the end of a command; one that takes too long is killed."""
        began = time.monotonic() if began is None else began
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        out, error = self.said()
        return Done(
            code=process.returncode,
            out=out[len(before[0]) :],
            error=error[len(before[1]) :],
            seconds=time.monotonic() - began,
        )

    def said(self) -> tuple[str, str]:
        """Return all that the commands have printed so far."""
        texts = []
        for name in ("out.txt", "error.txt"):
            file = self.runs / name
            text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
            texts.append(text)
        return texts[0], texts[1]

    @property
    def url(self) -> str:
        return f"sqlite:///{self.runs / 'studies.db'}"

    def trials(self, study: str) -> pd.DataFrame:
        """Return the study's trials; none while there is no such study."""
        return self._read(trials, study)

    def curves(self, study: str) -> pd.DataFrame:
        """Return the epochs of all trials."""
        return self._read(curves, study)

    def _read(self, read: Callable[..., pd.DataFrame], study: str) -> pd.DataFrame:
        try:
            return read(study, storage=self.url)
        except Exception:  # it is being made
            return pd.DataFrame()

    def logs(self) -> str:
        """Return what all workers have logged."""
        found = sorted((self.runs / "logs").rglob("*.log"))
        return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in found)

    def traceback(self) -> str:
        """Return the last line of the first traceback that a user or a log has seen; or none."""
        text = "\n".join([*self.said(), self.logs()])
        if "Traceback" not in text:
            return ""
        lines = text[text.index("Traceback") :].splitlines()
        last = next((line for line in lines[1:] if re.match(r"[A-Za-z_]", line)), lines[-1])
        return last[:160]


def python_path() -> str:
    """Return where commands import from: this folder, and where this process finds the rest."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def measured_environment(given: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of processes that are measured: one thread each."""
    return {**environment(given, threads=1), "PYTHONPATH": python_path()}


def shared_cache(settings: Settings) -> Path:
    """Where images, extractors and evaluators of all commands of a part lie."""
    return settings.work / "cache"


def gpus_of(settings: Settings) -> str:
    """Return the variable GPUS for the device that is checked."""
    return settings.device.partition(":")[2] or "0" if settings.on_gpu else "none"


def data_of(settings: Settings) -> str:
    """Return the set that is trained on: with the tiny form, one of few images."""
    return "digits" if settings.tiny else "fashion_mnist"


def prepare(settings: Settings) -> Path:
    """Prepare the images once, for all commands; returns their cached file."""
    place = shared_cache(settings)
    place.mkdir(parents=True, exist_ok=True)
    return prepare_images(data_of(settings), root=settings.data, cache=place, shape=SHAPE)


def together(
    settings: Settings, checks: Sequence[tuple[str, Check]], *, at_once: int
) -> Iterator[Row]:
    """Yield the rows of all checks, ``at_once`` of which run beside each other.

    CHECKS in the environment keeps those whose names begin with one of its words (with commas
    between them).
    """
    at_once = 2 if settings.tiny else at_once
    if words := os.environ.get("CHECKS"):
        checks = [check for check in checks if check[0].startswith(tuple(words.split(",")))]
    with ThreadPoolExecutor(at_once) as pool:
        running = {pool.submit(_do, check, settings): name for name, check in checks}
        for done in as_completed(running):
            name = running[done]
            try:
                yield from done.result()
            except Exception as error:
                print(f"{name} failed:", *traceback.format_exception(error))
                found = f"{type(error).__name__}: {error}"[:240]
                yield Row(name=name, found=found, ok=False)


def _do(check: Check, settings: Settings) -> list[Row]:
    """Return the rows of a check; pandas has truth values of its own, which JSON has not."""
    rows = check(settings)
    return [replace(row, ok=None if row.ok is None else bool(row.ok)) for row in rows]


def wait_until(true: Callable[[], Any], *, what: str) -> None:
    """Wait until ``true()``; raises `TimeoutError` that names what it has waited for."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} in {PATIENCE:.0f} s")
        time.sleep(0.1)
