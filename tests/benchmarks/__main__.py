"""`make bench`: measure, show the table, write it as CSV and as a picture.

ROWS=training,start-up   these sections alone (default: all)
FULL=1                   with repeats, and the whole study (default: a short form)
DATA_ROOT=path           where Fashion-MNIST lies (default: data)
OUT=folder               results.csv and benchmarks.png go there (default: where the README
                         shows them)
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from search.console import open_console, shorten_path
from search.errors import BadVariable, unknown_name
from search.supervisor.devices import count_cores
from tests.benchmarks import picture, rows, table
from tests.benchmarks.processes import ROOT
from tests.benchmarks.sizes import FULL, SHORT, TINY, Settings, Sizes
from tests.benchmarks.steps import Section, run

VARIABLES = ("ROWS", "FULL", "DATA_ROOT", "OUT")
FORMS = {"": SHORT, "0": SHORT, "1": FULL, "tiny": TINY}
CSV = ROOT / "tests" / "benchmarks" / "results.csv"
PICTURE = ROOT / ".github" / "benchmarks.png"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for on make's command line."""

    rows: tuple[str, ...]
    sizes: Sizes
    data_root: Path
    csv: Path
    picture: Path


def main() -> int:
    try:
        wanted = read(os.environ)
    except BadVariable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = open_console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinding ends what was started
    try:
        return measure(wanted, console)
    except KeyboardInterrupt:
        return 130


def measure(wanted: Wanted, console: Console) -> int:
    """Run the sections, show and write what they found; 1 when one has failed."""
    with TemporaryDirectory(prefix="bench-") as folder:
        settings = Settings(
            sizes=wanted.sizes, data_root=wanted.data_root, folder=Path(folder), cores=count_cores()
        )
        found, failed = run([SECTIONS[name](settings) for name in wanted.rows], console)
    found = rows.stamped(found, form=wanted.sizes.form)
    table.show(found, console)
    if found:
        everything = rows.write_csv(wanted.csv, found)
        picture.draw(wanted.picture, everything)
        console.print(f"written: {shorten_path(wanted.csv)}, {shorten_path(wanted.picture)}")
    for name in failed:
        console.print(f"{name} was not measured to the end", style="red")
    return 1 if failed else 0


def read(given: Mapping[str, str]) -> Wanted:
    """The variables, checked; raises `BadVariable`."""
    for name in given.get("GENSTUDY_GIVEN", "").split():
        if name not in VARIABLES:
            raise BadVariable(unknown_name("variable of make bench", name, VARIABLES))
    chosen = [name.strip() for name in given.get("ROWS", "").split(",") if name.strip()]
    for name in chosen:
        if name not in SECTIONS:
            raise BadVariable(unknown_name("row", name, SECTIONS))
    full = given.get("FULL", "").strip()
    if full not in FORMS:
        raise BadVariable(f"FULL={full!r} is not 1")
    out = given.get("OUT", "").strip()
    if FORMS[full] is TINY and not out:
        raise BadVariable("FULL=tiny measures nothing that may be kept: give it OUT=folder")
    folder = Path(out).expanduser().absolute() if out else None
    return Wanted(
        rows=tuple(name for name in SECTIONS if name in chosen or not chosen),
        sizes=FORMS[full],
        data_root=Path(given.get("DATA_ROOT", "").strip() or "data").expanduser().absolute(),
        csv=CSV if folder is None else folder / CSV.name,
        picture=PICTURE if folder is None else folder / PICTURE.name,
    )


def training(settings: Settings) -> Section:
    from tests.benchmarks.training import Training

    return Training(settings)


def frameworks(settings: Settings) -> Section:
    from tests.benchmarks.frameworks import Frameworks

    return Frameworks(settings)


def study(settings: Settings) -> Section:
    from tests.benchmarks.study import WholeStudy

    return WholeStudy(settings)


def startup(settings: Settings) -> Section:
    from tests.benchmarks.startup import StartUp

    return StartUp(settings)


def trial_database(name: str) -> Callable[[Settings], Section]:
    def measured(settings: Settings) -> Section:
        from tests.benchmarks.trial_database import TrialDatabase

        return TrialDatabase(name, settings)

    return measured


def scale(settings: Settings) -> Section:
    from tests.benchmarks.scale import Scale

    return Scale(settings)


SECTIONS: dict[str, Callable[[Settings], Section]] = {
    "training": training,
    "frameworks": frameworks,
    "study": study,
    "start-up": startup,
    **{name: trial_database(name) for name in ("growth", "pandas", "workers")},
    "scale": scale,
}

if __name__ == "__main__":
    sys.exit(main())
