"""The verdict: what a study under torture has, beside the same study that ran undisturbed.

    compare(found, wanted, 24, journal)           # of two `Kept`: every difference is a failure

Every trial that was asked for must be there once and complete, with the same parameters, the same
learning curve and the same value, to the last bit. One that paused and was never promoted has the
first epochs of that curve, up to one of its rungs; none that is to be promoted is left. The best
must be exported alike where the database says that it is; and no training was measured on the test
images twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file
from sqlalchemy import select, text

from search.strategies.promotion import AshaPruner
from storage import curves, trials
from storage.database.connection import open_engine
from storage.database.finishes import Finish, read_finish
from storage.database.rungs import list_promoted, read_arrivals
from storage.database.schema import finishes
from tests.torture.journal import Harm, Journal

SAME = ("state", "value", "channels", "latent", "lr", "epochs", "seed", "outcome")  # of a trial
LEARNED = ("epoch", "value", "train_mse", "valid_mse")  # of an epoch
EXPORTED = ("trial", "config", "best_epoch", "epochs", "valid", "test", "data")  # of an export


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What a study has kept: a row a trial, a row a trial and epoch."""

    trials: pd.DataFrame
    curves: pd.DataFrame


def read_kept(study: str, url: str) -> Kept:
    return Kept(trials=trials(study, storage=url), curves=curves(study, storage=url))


def read_finishes(url: str) -> list[Finish]:
    """Return who has retrained and exported, of each study of this database."""
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            tokens = connection.execute(select(finishes.c.token)).scalars().all()
        found = [read_finish(engine, token) for token in tokens]
    finally:
        engine.dispose()
    return [each for each in found if each is not None]


def judge_tests(found: Iterable[Finish], journal: Journal) -> None:
    """Report each training that was measured on the test images in more than one place."""
    for finish in found:
        measured = Counter(each.training for each in finish.tests if each.measured)
        for training, times in measured.items():
            if times > 1:
                where = [each.place for each in finish.tests if each.training == training]
                words = f"one training was measured on the test images {times} times: {where}"
                journal.fail(Harm.DOUBLED, words)


Ends = Callable[[int], Collection[int]]
"""Trial's number -> the epochs after which it may have ended without being promoted."""


def ends_of(pruner: AshaPruner | None, epochs: int) -> Ends:
    """Return where trials of a study may end early."""
    return lambda number: () if pruner is None else pruner.rung_epochs(epochs, number)


def compare(
    found: Kept,
    wanted: Kept,
    count: int,
    journal: Journal,
    *,
    ends: Ends = lambda number: (),
) -> None:
    """Report each of ``count`` trials that is lost, doubled or different, and those beyond."""
    numbers = [int(number) for number in found.trials["number"]]
    if beyond := [number for number in numbers if number >= count]:
        journal.fail(Harm.TOO_MANY, f"trials {beyond} of {count}")
    for number in range(count):
        if number not in numbers:
            journal.fail(Harm.LOST, f"trial {number} is not there")
        elif numbers.count(number) > 1:
            journal.fail(Harm.DOUBLED, f"trial {number} is there {numbers.count(number)} times")
        else:
            _compare_trial(found, wanted, number, journal, ends(number))


def judge_promotions(url: str, pruner: AshaPruner | None, journal: Journal) -> None:
    """Report each trial that is among the best of its rung, and has ended there all the same."""
    if pruner is None:
        return
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            study_id = connection.scalar(text("SELECT min(study_id) FROM studies"))
            left = list_promoted(
                read_arrivals(connection, int(study_id or 0)),
                factor=pruner.reduction_factor,
                minimize=True,
                bracket_of=pruner.bracket_of,
            )
    finally:
        engine.dispose()
    for trial_id in left:
        journal.fail(Harm.LOST, f"the trial with id {trial_id} was to go on, and has ended")


def _compare_trial(
    found: Kept, wanted: Kept, number: int, journal: Journal, ends: Collection[int]
) -> None:
    ours, theirs = (_curve(kept, number) for kept in (found, wanted))
    if repeated := sorted(set(ours["epoch"][ours["epoch"].duplicated()])):
        journal.fail(Harm.DOUBLED, f"trial {number} has epochs {repeated} more than once")
        return
    one, other = (_row(kept, number) for kept in (found, wanted))
    if one.get("outcome") == "pruned" and one.get("epochs") in ends:
        theirs = theirs.head(int(one["epochs"]))
        last = None if theirs.empty else theirs["value"].iloc[-1]  # what Optuna keeps
        other |= {"state": "PRUNED", "outcome": "pruned", "value": last, "epochs": one["epochs"]}
    if differences := _differences(one, other, SAME):
        journal.fail(Harm.DIFFERENT, f"trial {number}: {differences}")
    elif not ours.equals(theirs):
        where = _first_difference(ours, theirs)
        journal.fail(Harm.DIFFERENT, f"trial {number} has another learning curve: {where}")


def _row(kept: Kept, number: int) -> dict[str, Any]:
    (row,) = kept.trials[kept.trials["number"] == number].to_dict("records")
    return {str(name): value for name, value in row.items()}


def _curve(kept: Kept, number: int) -> pd.DataFrame:
    rows = kept.curves.loc[kept.curves["number"] == number, [*LEARNED]]
    return rows.reset_index(drop=True)


def _differences(ours: dict[str, Any], theirs: dict[str, Any], names: Iterable[str]) -> str:
    return ", ".join(
        f"{name} is {ours.get(name)!r} and not {theirs.get(name)!r}"
        for name in names
        if ours.get(name) != theirs.get(name)
    )


def _first_difference(ours: pd.DataFrame, theirs: pd.DataFrame) -> str:
    if [*ours["epoch"]] != [*theirs["epoch"]]:
        return f"epochs {[*ours['epoch']]} and not {[*theirs['epoch']]}"
    for one, other in zip(ours.to_dict("records"), theirs.to_dict("records"), strict=True):
        if one != other:
            return f"{one} and not {other}"
    return "other kinds of numbers"


def compare_exports(found: Path, wanted: Path, journal: Journal) -> None:
    """Report where the best trial's export is not there, or is another."""
    try:
        ours, theirs = (
            json.loads((place / "provenance.json").read_text()) for place in (found, wanted)
        )
        weights, expected = (load_file(place / "weights.safetensors") for place in (found, wanted))
    except (OSError, ValueError, SafetensorError) as error:
        journal.fail(Harm.LOST, f"the export {found} cannot be read: {error}")
        return
    # the undisturbed study tests its own best alone, and this one may stand further down there
    names = [name for name in EXPORTED if name != "test" or theirs.get("rank") == 1]
    if differences := _differences(ours, theirs, names):
        journal.fail(Harm.DIFFERENT, f"the export {found}: {differences}")
    elif weights.keys() != expected.keys() or not all(
        weights[name].equal(expected[name]) for name in expected
    ):
        journal.fail(Harm.DIFFERENT, f"the export {found} has other weights")
