"""The study without any fault, with which a study under torture is compared.

    peace = UndisturbedRun(study)
    peace.run(48)                                 # as many trials
    peace.read()                                  # what it has kept
    peace.find_export_like(export, 48)            # of the same trial

No trial of it pauses, so that each has all its epochs: one that paused elsewhere has the first of
them.
"""

from __future__ import annotations

from pathlib import Path

from storage.files.exports import read_provenance
from storage.paths import RunPaths, sqlite_url
from tests.torture.machines import Machine
from tests.torture.turn import STUDY
from tests.torture.verdict import Kept, read_kept

LONGEST = 3600.0  # seconds


class UndisturbedRun:
    """One machine with four workers, beside the study's file."""

    def __init__(self, study: Path) -> None:
        runs = study.parent / "runs"
        url = sqlite_url(runs / "studies.db")
        self.machine = Machine(
            name="undisturbed", study=study, runs=runs, url=url, workers_wanted=4
        )

    def run(self, count: int) -> bool:
        """Bring the study to so many trials; return whether that went well."""
        self.machine.start(count)
        assert self.machine.run is not None
        try:
            return self.machine.run.process.wait(LONGEST) == 0
        finally:
            self.machine.kill_all()

    def read(self) -> Kept:
        return read_kept(STUDY, self.machine.url)

    def find_export_like(self, export: Path, count: int) -> Path:
        """Return the export of the trial that ``export`` is of: the best, or one further down,
        where the best of all was never promoted; it is made then."""
        number = (read_provenance(export) or {}).get("trial")
        table = self.read().trials.sort_values(["value", "number"])
        numbers = [int(each) for each in table["number"]]
        paths = RunPaths(self.machine.runs)
        if number in numbers:
            self.machine.top = max(self.machine.top, numbers.index(number) + 1)
            self.run(count)
        for rank in range(1, self.machine.top + 1):
            found = paths.export(STUDY, rank)
            if (read_provenance(found) or {}).get("trial") == number:
                return found
        return paths.export(STUDY, 1)
