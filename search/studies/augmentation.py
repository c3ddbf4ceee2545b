"""Does a GAN on few MNIST images collapse, and what helps? Reference section C is measured.

    make study NAME=augmentation

A GAN is trained in each of eleven ways with several seeds. All are judged against the same
validation images. The table in the end says what became of them, beside what was reported. The
sampler is a grid, so that every row has equally many runs, and each run is a trial with weights and
random numbers of its own.

    all                   every training image: 48,000 here (the report had 55,000)
    5,000                 the first 5,000 of them
    + drawn, L layers     and 5,000 drawn from an autoencoder with L layers each side
    + reconstructions, L  and what such an autoencoder makes of each of the 5,000
    + noisy copies        and three noisy copies of each
    + DiffAugment         alone, but D sees all that is real or made moved, with a square cut out
    + ADA                 the same with a probability that follows how sure D is of real images

The report says of the third row "drawn from an autoencoder", and not how. So both readings are
measured: new codes, drawn from the Gaussian that fits the codes, and the codes of the images. The
last two rows are what the field does about few images; no report has them.

Every row sees `EPOCH_IMAGES` an epoch, so that all make the same number of steps. On a set with
fewer than 5,000 training images, such as the digits, "5,000" are all there are.

The network is ``dropout-28`` of reference system B1, narrow enough for a CPU. For the reported
width set `WIDTH` to 1.0 and `EPOCHS` to 50.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial

from models.augmentation import AugmentedGAN, AugmentedGANConfig
from search.repeats import at_epoch, counted, judged_on, over_repeats, spread
from search.study import StudySpec, Table

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 0.125  # of the reference's channels
BATCH_SIZE = 64
EPOCHS = 8
EPOCH_IMAGES = 16_000
# With the reported rates the samples are still noise after so few steps.
RATES: dict[str, Any] = {"lr_g": 1e-3, "lr_d": 1e-3, "ema": 0.99}
REPEATS = 3  # seeds of each row: `trials` of STUDY is eleven times as many
CLASSES = 10
LOOKS_REAL = 0.03  # a twentieth of the realism of MNIST images; below it a class means nothing

FEW = {"real": 5_000}
DRAWN = {**FEW, "extra": "autoencoder"}
REMADE = {**FEW, "extra": "reconstructions"}
BASELINE = "5,000"
READINGS = {"autoencoder": "drawn codes", "reconstructions": "codes of the images"}
MOVED = "translation,cutout"
UNREPORTED = "-"

# What is trained on, and what was reported of it.
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "all": ({}, "covers"),
    BASELINE: (FEW, "collapse"),
    "5,000 + drawn, 1 layer": ({**DRAWN, "layers": 1}, "collapse"),
    "5,000 + drawn, 2 layers": ({**DRAWN, "layers": 2}, "better"),
    "5,000 + drawn, 3 layers": ({**DRAWN, "layers": 3}, "covers"),
    "5,000 + reconstructions, 1 layer": ({**REMADE, "layers": 1}, "collapse"),
    "5,000 + reconstructions, 2 layers": ({**REMADE, "layers": 2}, "better"),
    "5,000 + reconstructions, 3 layers": ({**REMADE, "layers": 3}, "covers"),
    "5,000 + noisy copies": ({**FEW, "extra": "noise"}, "collapse"),
    "5,000 + DiffAugment": ({**FEW, "augment": MOVED}, UNREPORTED),
    "5,000 + ADA": ({**FEW, "augment": MOVED, "ada_target": 0.6, "ada_images": 50_000}, UNREPORTED),
}

RULE = (
    "Means ± standard deviations over complete runs, of the last epoch's samples. "
    f"Measured, in this order: noise: most runs have a realism below {LOOKS_REAL}; collapse: most "
    f"end with the verdict collapsed; covers: the samples of most show all {CLASSES} classes; "
    "between: none of these. A row is better that covers more of the real images than "
    f"{BASELINE!r} by more than both standard deviations together, and does not collapse. The "
    "images of an autoencoder that the report speaks of are read in two ways: decoded from codes "
    "drawn from the Gaussian of all codes, and from the codes of the 5,000 images themselves."
)


def suggest(trial: BaseTrial) -> AugmentedGANConfig:
    row = trial.suggest_categorical("row", list(ROWS))
    trial.suggest_int("repeat", 0, REPEATS - 1)  # a trial's seed follows from its number
    return AugmentedGANConfig(
        architecture="dropout-28",
        width=WIDTH,
        batch_size=BATCH_SIZE,
        epoch_images=EPOCH_IMAGES,
        **RATES,
        **ROWS[row][0],
    )


MEASURES = {  # of the samples: heading and digits
    "valid_modes": ("modes", 1),
    "valid_class_kl": ("class KL, nats", 2),
    "valid_coverage": ("coverage", 3),
    "valid_recall": ("recall", 3),
    "valid_realism": ("realism", 3),
    "valid_frechet": ("Fréchet", 1),
}


def summary(trials: pd.DataFrame, curves: pd.DataFrame) -> Table:
    """Return for each training set what the last samples were like, and whether that agrees with
    the report."""
    runs = at_epoch(trials, curves, "last")
    means = over_repeats(runs, "row", list(MEASURES)).set_index("row").to_dict("index")
    rows: list[tuple[str | int, ...]] = []
    for name, (values, reported) in ROWS.items():
        if name not in means:
            continue
        mean, of_row = means[name], runs[runs["row"] == name]
        shown = (
            spread(mean[measure], mean[f"{measure}_sd"], digits)
            for measure, (_, digits) in MEASURES.items()
        )
        verdicts = counted(trials[trials["row"] == name]["verdict"])
        measured = outcome(of_row)
        agrees = agreement(reported, measured, is_better(mean, means.get(BASELINE)))
        reading = READINGS.get(values.get("extra", ""), "-")
        rows.append((name, reading, len(of_row), *shown, verdicts, measured, reported, agrees))
    headings = (heading for heading, _ in MEASURES.values())
    return Table(
        name="augmentation",
        title="Mode collapse by what the GAN was trained on",
        columns=(
            "trained on",
            "the autoencoder decodes",
            "runs",
            *headings,
            "verdicts",
            "measured",
            "reported",
            "agrees",
        ),
        rows=tuple(rows),
        note=RULE,
        seeds="runs",
        measured_on=judged_on(runs),
    )


def outcome(runs: pd.DataFrame) -> str:
    """Return what the runs of one row show: ``noise``, ``collapse``, ``covers`` or ``between``."""
    half = len(runs) / 2
    if (runs["valid_realism"] < LOOKS_REAL).sum() > half:
        return "noise"
    if (runs["verdict"] == "collapsed").sum() > half:
        return "collapse"
    return "covers" if (runs["valid_modes"] >= CLASSES).sum() > half else "between"


def is_better(row: Mapping[Hashable, Any], baseline: Mapping[Hashable, Any] | None) -> bool | None:
    """Return whether a row covers clearly more than the baseline; None: too few runs to say."""
    if baseline is None:
        return None
    noise = math.hypot(row["valid_coverage_sd"], baseline["valid_coverage_sd"])
    if math.isnan(noise):
        return None
    return bool(row["valid_coverage"] - baseline["valid_coverage"] > noise)


def agreement(reported: str, measured: str, better: bool | None) -> str:
    """Return ``yes`` or ``no``, or why neither can be said.

    better: whether the row is better than the baseline, as `is_better` says
    """
    if reported == UNREPORTED:
        return UNREPORTED
    if measured == "noise":
        return "unknown"
    if reported != "better":
        return "yes" if measured == reported else "no"
    if better is None:
        return "too few runs"
    return "yes" if better and measured != "collapse" else "no"


STUDY = StudySpec(
    model=AugmentedGAN,
    suggest=suggest,
    data="mnist",
    shape=(1, 28, 28),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="grid",
    pruner="none",  # also no verdict ends a trial: rows compare after the same number of steps
    trials=33,
    epochs=EPOCHS,
    retrain_epochs=EPOCHS,
    seeds=1,  # its trials repeat each row with other seeds
    summary=summary,
)
