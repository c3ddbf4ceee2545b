"""What helps a GAN on 1,000 and on 5,000 MNIST images? Three runs each of the plain one and others.

    make study NAME=few_images TOP=0

All rows have the same network (that of `gan_balance`), the same rates, averaged weights and number
of images seen, so that they cost nearly the same. They differ in what holds the discriminator D
back from learning few images by heart:

    plain          nothing: DCGAN's loss and batch norms
    DiffAugment    D sees real images and fakes moved and with a square cut out
    adaptive       the same with a probability that follows the sign statistic (ADA)
    R1, R2         the relativistic loss with both penalties and no batch norm, as in R3GAN
    R1, moved      DCGAN's loss and batch norms with R1, and images moved

Samples are measured beside all validation images, so that a generator that repeats its few
training images covers little. The table in the end says how far each row is ahead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial

from models.augmentation import AugmentedGAN, AugmentedGANConfig
from search.repeats import at_epoch, counted, judged_on, over_repeats, spread
from search.study import StudySpec, Table

if TYPE_CHECKING:
    import pandas as pd

FEW = (1_000, 5_000)
REPEATS = 3
EPOCH_IMAGES = 16_000
PLAIN = "plain"
MOVED = "translation,cutout"
R3GAN = {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "normalization": "none"}
ROWS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "DiffAugment": {"augment": MOVED},
    "adaptive": {"augment": MOVED, "ada_target": 0.6, "ada_images": 20_000},
    "R1, R2": R3GAN,
    "R1, moved": {"r1": 1.0, "augment": "translation"},
}
MEASURES = {  # heading and digits
    "valid_frechet": ("Fréchet", 1),
    "valid_coverage": ("coverage", 3),
    "valid_recall": ("recall", 3),
    "valid_kid": ("KID", 3),
    "epoch_seconds": ("s/epoch", 0),
}


def suggest(trial: BaseTrial) -> AugmentedGANConfig:
    row = trial.suggest_categorical("row", list(ROWS))
    real = trial.suggest_categorical("real", list(FEW))
    trial.suggest_int("repeat", 0, REPEATS - 1)  # a trial's seed follows from its number
    return AugmentedGANConfig(
        architecture="32",
        width=0.125,
        batch_size=64,
        lr_g=1e-3,
        lr_d=1e-3,
        ema=0.99,
        real=real,
        epoch_images=EPOCH_IMAGES,
        **ROWS[row],
    )


def summary(trials: pd.DataFrame, curves: pd.DataFrame) -> Table:
    """Return for each number of images and row what the last epoch's samples were like."""
    runs = at_epoch(trials, curves, "last")
    known = [name for name in MEASURES if name in runs]
    means = over_repeats(runs, ["real", "row"], known).set_index(["real", "row"]).to_dict("index")
    rows: list[tuple[str | int, ...]] = []
    for real in FEW:
        plain = means.get((real, PLAIN), {}).get("valid_frechet", math.nan)
        for row in ROWS:
            if (real, row) not in means:
                continue
            mean = means[real, row]
            same = runs[(runs["real"] == real) & (runs["row"] == row)]
            shown = (spread(mean[m], mean[f"{m}_sd"], MEASURES[m][1]) for m in known)
            share = mean["valid_frechet"] / plain
            ahead = "-" if math.isnan(share) else f"{share:.2f}"
            verdicts = counted(same["verdict"])
            rows.append((f"{real:,}", row, len(same), *shown, ahead, verdicts))
    headings = [MEASURES[name][0] for name in known]
    return Table(
        name="few_images",
        title="A GAN on few images",
        columns=("images", "D is held back by", "runs", *headings, "of plain", "verdicts"),
        rows=tuple(rows),
        note="Means ± standard deviations over complete runs, of the last epoch's samples beside "
        "all validation images. Of plain: the mean Fréchet distance over that of the plain GAN on "
        "as many images.",
        seeds="runs",
        measured_on=judged_on(runs),
    )


STUDY = StudySpec(
    model=AugmentedGAN,
    suggest=suggest,
    data="mnist",
    shape=(1, 32, 32),
    adapts=True,
    metric="frechet",
    direction="minimize",
    sampler="grid",
    pruner="none",  # rows compare after the same number of images
    trials=30,  # REPEATS of each row and number of images
    epochs=6,
    retrain_epochs=6,
    seeds=1,  # its trials repeat each row with other seeds
    patience=6,
    summary=summary,
)
