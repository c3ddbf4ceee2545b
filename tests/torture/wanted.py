"""The variables of `make torture`, read and checked.

MINUTES=10               how long faults fall, over all turns together
DATABASE=sqlite          this database alone; or postgres
LAYOUT=1x4               4 workers on one machine alone; or 2x2: 2 machines with 2 workers each;
                         or 2x2-files: the same, which share their files, too (FILES)
PRUNER=asha              trials pause at rungs, and the best go on; with its arguments
SEED=0                   repeats which faults fall in which order; their moments are the machine's
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.pruners import NopPruner

from search.errors import BadVariable, unknown_name
from search.strategies.promotion import AshaPruner
from search.strategies.pruners import make_pruner

DATABASES = ("sqlite", "postgres")
LAYOUTS = {"1x4": (1, 4), "2x2": (2, 2), "2x2-files": (2, 2)}  # machines, and workers on each
SHARING = "-files"  # ends the names of layouts whose machines have one FILES
VARIABLES = ("MINUTES", "DATABASE", "LAYOUT", "PRUNER", "SEED")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for on make's command line."""

    minutes: float
    databases: tuple[str, ...]
    layouts: tuple[str, ...]
    seed: int
    pruner: str = "none"

    @property
    def rungs(self) -> AshaPruner | None:
        """What says where trials pause; None: they do not."""
        pruner = make_pruner(self.pruner)
        return pruner if isinstance(pruner, AshaPruner) else None

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Return each database with each layout."""
        return [(database, layout) for database in self.databases for layout in self.layouts]


def read(given: Mapping[str, str]) -> Wanted:
    """Return the variables, checked; raises `BadVariable`."""
    typed = given.get("GENSTUDY_GIVEN", "").split()
    for name in typed:
        if name not in VARIABLES:
            raise BadVariable(unknown_name("variable of make torture", name, VARIABLES))
    texts = {name: given.get(name, "").strip() for name in VARIABLES}
    if "GENSTUDY_GIVEN" in given:  # make passes on what a shell exports, too
        texts = {name: text if name in typed else "" for name, text in texts.items()}
    return Wanted(
        minutes=_read_minutes(texts["MINUTES"] or "10"),
        databases=_choose("DATABASE", texts["DATABASE"], DATABASES),
        layouts=_choose("LAYOUT", texts["LAYOUT"], tuple(LAYOUTS)),
        seed=_read_seed(texts["SEED"] or "0"),
        pruner=_read_pruner(texts["PRUNER"] or "none"),
    )


def _choose(name: str, written: str, among: Sequence[str]) -> tuple[str, ...]:
    """Return the one that is written; all where nothing is."""
    if not written:
        return tuple(among)
    if written.lower() not in among:
        raise BadVariable(unknown_name(name, written, among))
    return (written.lower(),)


def _read_minutes(written: str) -> float:
    try:
        minutes = float(written)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes <= 10_000:
        raise BadVariable(f"MINUTES={written!r} is not a number of minutes from 0 to 10000")
    return minutes


def _read_pruner(written: str) -> str:
    if not isinstance(make_pruner(written), AshaPruner | NopPruner):
        raise BadVariable(
            f"PRUNER={written!r} ends trials by what others had reached before, which faults "
            "change: nothing would be the same; take asha or none"
        )
    return written


def _read_seed(written: str) -> int:
    if not (written.isascii() and written.isdigit()):
        raise BadVariable(f"SEED={written!r} is not a whole number from 0")
    return int(written)
