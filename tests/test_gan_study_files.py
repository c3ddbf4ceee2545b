"""What the studies of GANs search, try first, and conclude."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from optuna.trial import FixedTrial

from models.acgan import ACGANConfig
from models.gan import GANConfig
from models.stargan import StarGANConfig
from models.training.gan_losses import LOSSES
from search.setup.loading import load_study
from search.studies import (
    acgan,
    acgan_few,
    few_images,
    gan,
    gan_balance,
    gan_balances,
    gan_losses,
    gan_rates,
    gan_wide,
    stargan,
    stargan_few,
)

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


def test_few_images_are_tried_with_what_worked_on_emoji() -> None:
    tried = stargan_few.suggest(FixedTrial(dict(stargan_few.STUDY.references["emoji"])))
    assert (tried.projection, tried.normalization, tried.augment) == (
        1.0,
        "spectral",
        "translation",
    )
    assert (tried.width, tried.blocks, tried.schedule) == (0.25, 6, "cosine_decay")
    made = acgan_few.suggest(FixedTrial(dict(acgan_few.STUDY.references["emoji"])))
    assert (made.projection, made.label_fakes, made.augment) == (1.0, False, "translation")
    assert {acgan_few.STUDY.metric, stargan_few.STUDY.metric} == {"label_frechet"}


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


def test_rates_alone_are_given_a_search_of_the_same_cost() -> None:
    rates, balance = load_study("gan_rates"), load_study("gan_balance")
    assert set(rates.space) == {"lr_g", "lr_d"}
    assert all(rates.space[name] == balance.space[name] for name in rates.space)
    differing = {
        name for name, value in vars(rates.spec).items() if value != vars(balance.spec)[name]
    }
    assert differing == {"suggest", "references"}
    assert list(rates.spec.references) == [
        "equal rates", "G twice D", "G ten times D", "equal rates 5e-4", "equal rates 1e-3",
    ]  # fmt: skip
    tried = gan_rates.suggest(FixedTrial({"lr_g": 4e-4, "lr_d": 2e-4}))
    reported = gan_balance.suggest(FixedTrial(gan.BALANCES["G twice D"]))
    assert tried == replace(reported, ema=0.999), "weights are averaged, and nothing else differs"


def test_balances_are_compared_with_rates_alone() -> None:
    row = FixedTrial({"balance": "equal rates 1e-3, averaged", "repeat": 0})
    expected = gan_rates.suggest(FixedTrial({"lr_g": 1e-3, "lr_d": 1e-3}))
    assert gan_balances.suggest(row) == expected
    assert gan_balances.STUDY.trials == gan_balances.REPEATS * len(gan_balances.EVERY)
    searched = gan_balances.suggest(FixedTrial({"balance": gan_balances.RATES, "repeat": 0}))
    best = {"lr_g": searched.lr_g, "lr_d": searched.lr_d}
    assert searched == gan_rates.suggest(FixedTrial(best))
    frame = pd.DataFrame(
        [(0, gan_balances.FOUND, 20.0, "healthy"), (1, gan_balances.RATES, 40.0, "healthy")],
        columns=["number", "balance", "value", "verdict"],
    ).assign(state="COMPLETE")
    epochs = frame[["number", "value"]].assign(epoch=1, epoch_seconds=9.0)
    table = gan_balances.summary(frame, epochs)
    ahead = {row[0]: row[3] for row in table.rows}
    assert ahead == {gan_balances.RATES: "0.50", gan_balances.FOUND: "1.00"}


def test_each_loss_is_tried_as_it_was_published_at_the_same_rates() -> None:
    tried = [gan_losses.suggest(FixedTrial(dict(p))) for p in gan_losses.STUDY.references.values()]
    assert [config.loss for config in tried] == [
        "non_saturating",
        "hinge", "least_squares", "wasserstein", "relativistic",
    ]  # fmt: skip
    assert {(config.lr_g, config.lr_d, config.ema) for config in tried} == {(1e-3, 1e-3, 0.99)}
    found = [(c.normalization, c.r1, c.r2, c.gradient_penalty, c.d_steps) for c in tried]
    assert found == [
        ("batch", 0, 0, 0, 1), ("spectral", 0, 0, 0, 1), ("batch", 0, 0, 0, 1),
        ("none", 0, 0, 10, 5), ("none", 1, 1, 0, 1),
    ]  # fmt: skip


def test_a_loss_asks_only_for_what_means_something_to_it() -> None:
    study = load_study("gan_losses")
    assert {"gradient_penalty", "r1_and_r2", "ada_target"} <= set(study.space)
    asked = {}
    for loss in LOSSES:
        given = {
            "loss": loss, "normalization": "batch", "r1": 0.0, "smoothing": 0.1,
            "gradient_penalty": 1.0, "r1_and_r2": 0.1,
        }  # fmt: skip
        trial = FixedTrial(given)
        gan_losses.suggest_loss(trial)
        asked[loss] = set(trial.params) - {"loss", "normalization"}
    assert asked == {
        "non_saturating": {"r1", "smoothing"},
        "hinge": {"r1"},
        "least_squares": {"r1", "smoothing"},
        "wasserstein": {"gradient_penalty"},
        "relativistic": {"r1_and_r2"},
    }


def test_few_images_are_compared_with_the_plain_gan_on_as_many() -> None:
    values = {
        (1_000, "plain"): (80.0, 100.0),
        (1_000, "R1, moved"): (40.0, 50.0),
        (5_000, "R1, moved"): (20.0,),
    }
    rows = [(*key, value) for key, found in values.items() for value in found]
    trials = pd.DataFrame(rows, columns=["real", "row", "value"])
    trials["number"], trials["state"], trials["verdict"] = range(len(rows)), "COMPLETE", "healthy"
    epochs = [
        {"number": i, "epoch": epoch, "value": value, "epoch_seconds": 9.0, "valid_coverage": 0.5,
         "valid_frechet": value * (3 - epoch)}
        for i, (_, _, value) in enumerate(rows) for epoch in (1, 2)
    ]  # fmt: skip
    table = few_images.summary(trials, pd.DataFrame(epochs))
    columns = ("images", "D is held back by", "runs", "Fréchet", "of plain", "verdicts")
    found = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [tuple(row[name] for name in columns) for row in found] == [
        ("1,000", "plain", 2, "90.0 ± 14.1", "1.00", "2 healthy"),
        ("1,000", "R1, moved", 2, "45.0 ± 7.1", "0.50", "2 healthy"),
        ("5,000", "R1, moved", 1, "20.0", "-", "1 healthy"),
    ]


def test_rows_of_few_images_differ_only_in_what_holds_d_back() -> None:
    assert few_images.STUDY.trials == len(few_images.ROWS) * len(few_images.FEW) * 3
    own = {"loss", "r1", "r2", "normalization", "augment", "ada_target", "ada_images"}
    shared = []
    for row in few_images.ROWS:
        config = few_images.suggest(FixedTrial({"row": row, "real": 1_000, "repeat": 0}))
        shared.append({k: v for k, v in vars(config).items() if k not in own})
    assert all(each == shared[0] for each in shared)
