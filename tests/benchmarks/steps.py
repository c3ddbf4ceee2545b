"""A section of the benchmarks as steps, so that what is left to do has a known length.

    class Section: name; steps() -> what to do, in order; rows() -> what came out; close()

A step says what it did in a few words; its expected seconds are for two cores of 2024 and are
scaled by what the steps so far have taken.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console

from search.words import format_duration
from tests.benchmarks.processes import MeasurementFailed
from tests.benchmarks.rows import Row


@dataclass(frozen=True, kw_only=True)
class Step:
    """One measurement of one side; ``run`` returns what it found, for the reader."""

    what: str
    seconds: float
    run: Callable[[], str]


class Section(Protocol):
    """What a file of rows gives: measurements in order, then the rows made of them."""

    name: str

    def steps(self) -> Sequence[Step]: ...

    def rows(self) -> list[Row]: ...

    def close(self) -> None: ...


def run(sections: Sequence[Section], console: Console) -> tuple[list[Row], list[str]]:
    """Do all steps, saying how long the rest takes; the rows, and the sections that failed.

    One that fails does not end the others: a run may have taken an hour by then.
    """
    plans = [(section, list(section.steps())) for section in sections]
    left = sum(step.seconds for _, steps in plans for step in steps)
    count = sum(len(steps) for _, steps in plans)
    console.print(f"{count} measurements, about {format_duration(left)}")
    expected = spent = 0.0
    number = 0
    rows: list[Row] = []
    failed: list[str] = []
    for section, steps in plans:
        try:
            for step in steps:
                number += 1
                place = f"[{number}/{count}] {section.name}: {step.what}"
                console.print(f"{place} ...", style="dim", markup=False)
                began = time.perf_counter()
                found = step.run()
                spent += time.perf_counter() - began
                expected += step.seconds
                left -= step.seconds
                pace = spent / expected if expected else 1.0
                remaining = f"{format_duration(left * pace)} left"
                console.print(f"{place}: {found}  ({remaining})", markup=False)
            rows += section.rows()
        except MeasurementFailed as error:
            failed.append(section.name)
            console.print(f"{section.name} failed: {error}", style="red", markup=False)
        except Exception:
            failed.append(section.name)
            console.print(traceback.format_exc(), style="red", markup=False)
        finally:
            with suppress(Exception):
                section.close()
            if section.name in failed:
                done = {id(step) for step in steps}
                left = sum(s.seconds for _, plan in plans for s in plan if id(s) not in done)
    return rows, failed
