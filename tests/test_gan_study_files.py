"""What the studies of GANs search, try first, and conclude."""

from __future__ import annotations

import pandas as pd
import pytest
from optuna.trial import FixedTrial

from models.acgan import ACGANConfig
from models.gan import GANConfig
from models.stargan import StarGANConfig
from search.setup.loading import load_study
from search.studies import acgan, gan, gan_balance, gan_balances, gan_wide, stargan

BALANCE = {
    "lr_g", "lr_d", "d_steps", "g_steps", "extra_g_steps", "threshold", "beta1", "smoothing",
    "instance_noise", "normalization", "r1", "ema", "pack",
}  # fmt: skip


def test_the_balance_study_searches_the_balance_and_nothing_else() -> None:
    assert set(load_study("gan_balance").space) == BALANCE


@pytest.mark.parametrize(
    "name", ["gan", "gan_balance", "gan_dropout", "gan_faces", "gan_wide", "acgan", "stargan"]
)
def test_every_gan_is_searched_with_its_balance_by_the_distance_of_its_samples(name: str) -> None:
    study = load_study(name)
    assert set(study.space) >= BALANCE - {"pack"}
    metric = "label_frechet" if study.spec.model.labelled else "frechet"
    assert (study.spec.metric, study.spec.direction) == (metric, "minimize")


def test_the_adaptive_rule_is_searched_where_it_acts() -> None:
    rule = load_study("gan_balance").space["threshold"]
    assert (rule.low, rule.high) == (-0.7, 2.0)  # type: ignore[attr-defined]
    off = gan_balance.suggest(FixedTrial({**gan.BALANCES["equal rates"]}))
    assert not off.adaptive
    reported = acgan.suggest(FixedTrial(dict(acgan.STUDY.references["reported"])))
    assert (reported.adaptive, reported.threshold) == (True, 0.0)


def test_the_balances_of_the_reports_are_tried_first() -> None:
    tried = [gan.suggest(FixedTrial(dict(p))) for p in gan.STUDY.references.values()]
    rates = [(c.lr_g, c.lr_d, c.d_steps, c.g_steps) for c in tried]
    assert rates == [
        (2e-4, 2e-4, 1, 1), (4e-4, 2e-4, 1, 1), (2e-4, 2e-4, 4, 1), (2e-3, 2e-4, 1, 1),
        (5e-4, 5e-4, 1, 1),
    ]  # fmt: skip
    assert list(gan_balance.STUDY.references) == list(gan.STUDY.references)
    assert all((c.width, c.latent, c.beta1, c.r1, c.ema) == (1.0, 90, 0.5, 0, 0) for c in tried)


def test_references_are_the_reported_configurations() -> None:
    reported = acgan.suggest(FixedTrial(dict(acgan.STUDY.references["reported"])))
    assert reported == ACGANConfig()
    translated = stargan.suggest(FixedTrial(dict(stargan.STUDY.references["reported"])))
    assert translated == StarGANConfig()
    wide = gan_wide.suggest(FixedTrial(dict(gan_wide.STUDY.references["reported"])))
    assert wide == GANConfig(architecture="512", batch_size=16)


def test_balances_are_compared_by_means_over_their_repeats() -> None:
    rows = [
        (0, "equal rates", 200.0, "healthy"), (1, "equal rates", 220.0, "d_won"),
        (2, gan_balances.FOUND, 20.0, "healthy"), (3, gan_balances.FOUND, 22.0, "healthy"),
    ]  # fmt: skip
    trials = pd.DataFrame(rows, columns=["number", "balance", "value", "verdict"])
    trials["state"] = "COMPLETE"
    epochs = [
        {"number": number, "epoch": epoch, "value": value, "epoch_seconds": 10.0 * (number + 1),
         "valid_modes": 8.0 + epoch, "valid_coverage": 0.5}
        for number, _, value, _ in rows for epoch in (1, 2)
    ]  # fmt: skip
    table = gan_balances.summary(trials, pd.DataFrame(epochs))
    assert table.columns[:4] == ("balance", "runs", "Fréchet", "found / this")
    equal, found = table.rows
    assert equal[:4] == ("equal rates", 2, "210.0 ± 14.1", "0.10")
    assert found[:4] == (gan_balances.FOUND, 2, "21.0 ± 1.4", "1.00")
    assert equal[4:] == ("10.0 ± 0.0", "0.500 ± 0.000", 15, "1 healthy, 1 D won")
