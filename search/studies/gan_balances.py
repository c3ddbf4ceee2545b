"""Is the balance that a search found better than those of the reports, or was it luck?

Each balance is trained three times, with other weights and other random numbers, in the network and
on the images of `gan_balance`. The table in the end has means and deviations, and says how far the
found balance is ahead.

Nobody has tuned the balances of the reports, so that a lead over them says little. Two controls say
what the lead is made of: equal rates of 1e-3 with averaged weights and nothing else, and the best
rates that a search of the same cost found (`gan_rates`).

    make study NAME=gan_balances
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial

from models.gan import GAN, GANConfig
from search.repeats import at_epoch, counted, judged_on, over_repeats, spread
from search.studies.gan import BALANCES
from search.studies.gan_rates import AVERAGED
from search.study import StudySpec, Table

if TYPE_CHECKING:
    import pandas as pd

REPEATS = 3
FOUND = "found by the search"  # trial 19 of 20 of `gan_balance`, seed 0
RATES = "rates alone, found by a search"  # trial 13 of 20 of `gan_rates`, seed 0

EVERY: dict[str, dict[str, Any]] = {
    **BALANCES,
    "equal rates 1e-3, averaged": {**AVERAGED, "lr_g": 1e-3, "lr_d": 1e-3},
    RATES: {**AVERAGED, "lr_g": 0.00232, "lr_d": 0.00971},
    FOUND: {
        "lr_g": 0.00129, "lr_d": 0.00272, "d_steps": 1, "g_steps": 2, "extra_g_steps": 1,
        "threshold": 1.0,
        "beta1": 0.5, "smoothing": 0.0, "instance_noise": 0.1, "normalization": "batch",
        "r1": 1.0, "ema": 0.999, "pack": 1,
    },
}  # fmt: skip
MEASURES = {  # heading and digits
    "valid_modes": ("modes", 1),
    "valid_coverage": ("coverage", 3),
    "valid_precision": ("precision", 3),
    "valid_recall": ("recall", 3),
    "second_frechet": ("Fréchet, second judge", 1),
}


def suggest(trial: BaseTrial) -> GANConfig:
    balance = trial.suggest_categorical("balance", list(EVERY))
    trial.suggest_int("repeat", 0, REPEATS - 1)  # a trial's seed follows from its number
    return GANConfig(architecture="32", width=0.125, batch_size=64, **EVERY[balance])


def summary(trials: pd.DataFrame, curves: pd.DataFrame) -> Table:
    """Return for each balance the best epoch's distance and the measures of the last samples."""
    runs = at_epoch(trials, curves, "last")
    known = [name for name in MEASURES if name in runs]
    means = (
        over_repeats(runs, "balance", ["value", "epoch_seconds", *known])
        .set_index("balance")
        .to_dict("index")
    )
    found = means[FOUND]["value"] if FOUND in means else math.nan
    rows: list[tuple[str | int, ...]] = []
    for name in (name for name in EVERY if name in means):
        mean, of_balance = means[name], runs[runs["balance"] == name]
        distance = spread(mean["value"], mean["value_sd"], 1)
        shown = (spread(mean[m], mean[f"{m}_sd"], MEASURES[m][1]) for m in known)
        verdicts = counted(of_balance["verdict"])
        ahead = "-" if math.isnan(found) else f"{found / mean['value']:.2f}"
        seconds = round(mean["epoch_seconds"])
        rows.append((name, len(of_balance), distance, ahead, *shown, seconds, verdicts))
    headings = [MEASURES[name][0] for name in known]
    return Table(
        name="balances",
        title="Balances of G and D",
        columns=("balance", "runs", "Fréchet", "found / this", *headings, "s/epoch", "verdicts"),
        rows=tuple(rows),
        note="Means and standard deviations over runs: Fréchet of the best epoch, the rest of the "
        "last one's samples. Only what a search found was tuned.",
        seeds="runs",
        measured_on=judged_on(runs),
    )


STUDY = StudySpec(
    model=GAN,
    suggest=suggest,
    data="mnist",
    shape=(1, 32, 32),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="grid",
    pruner="none",
    trials=24,  # REPEATS of each
    epochs=5,
    retrain_epochs=5,
    seeds=1,  # its trials repeat each row with other seeds
    patience=5,
    second_judge=True,
    summary=summary,
)
