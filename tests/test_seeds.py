"""The winner is no lucky run: seeds, their race, certificates, and what each says of noise."""

from __future__ import annotations

import doctest
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from models.base import ModelConfig
from models.cae import CAEConfig
from models.gan import GANConfig
from models.tensor_files import write_tensors
from models.vae import VAEConfig
from search.events import EpochEnded, Released, Resumed
from search.setup.remembered import remember_seeds
from search.setup.stored_study import StudyIdentity, write_identity
from search.trials import seed_race, seed_statistics
from search.trials.certificate import Compared, certify
from search.trials.leaderboard import Leaderboard
from search.trials.retraining_record import FailedRetraining, RetrainingRecord, read_record
from search.trials.seed_race import LEVEL, run_race
from search.trials.seed_statistics import clearly_worse, probabilities_best
from search.trials.standings import race_of, standings_of
from search.worker.context import WorkerContext
from search.worker.retrained_model import retraining_seed
from search.worker.retraining import retrain
from search.worker.retraining_progress import RetrainingProgress
from storage.files.certificate_words import certificate_lines, chance_of, format_spread, mean_of
from storage.files.exports import read_provenance
from storage.files.model_card import describe_scores, model_card
from storage.paths import RunPaths
from tests.benchmarks.winner import WAYS, gan_noise, play, read_noise
from tests.test_earlier_exports import RECORD
from tests.trials import MakeContext, run_one
from tests.user import User

FEW_DIGITS = True

# ---- statistics ----


@pytest.mark.parametrize("module", [seed_statistics, seed_race])
def test_the_examples_of_the_statistics_hold(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def race_noise(
    generator: np.random.Generator, true: Sequence[float], noise: Sequence[float], seeds: int
) -> tuple[dict[int, int], int]:
    """Race configurations with these true means; return the seeds of each, and the retrainings."""
    drawn = [
        mean + sd * generator.standard_normal(seeds) for mean, sd in zip(true, noise, strict=True)
    ]
    found: dict[int, dict[int, float | None]] = {n: {} for n in range(len(true))}
    while (race := run_race(found, seeds=seeds, minimize=True)).missing:
        for number, repeat in race.missing:
            found[number][repeat] = float(drawn[number][repeat - 1])
    return dict(race.counted), sum(map(len, found.values()))


@pytest.mark.parametrize(
    ("true", "noise"),
    [
        ([10.0] * 3, [1.0] * 3),  # nobody is better: each drop is a mistake
        ([10.0, 10.1, 10.2], [1.0] * 3),
        ([10.0, 10.0, 10.0], [1.5, 0.5, 0.5]),  # the best has the most noise
    ],
    ids=["equal", "close", "unequal-noise"],
)
def test_a_race_seldom_drops_the_truly_best(true: list[float], noise: list[float]) -> None:
    generator, repeats = np.random.default_rng(3), 400
    dropped = sum(race_noise(generator, true, noise, 3)[0][0] < 3 for _ in range(repeats))
    assert dropped / repeats <= LEVEL + 0.02  # what 400 repeats may be off by


def test_a_race_drops_clear_losers_early() -> None:
    generator = np.random.default_rng(4)
    runs = [race_noise(generator, [10.0, 10.1, 20.0, 30.0], [0.5] * 4, 3) for _ in range(50)]
    assert all(counted[2] == counted[3] == 2 for counted, _ in runs)
    assert np.mean([counted[0] for counted, _ in runs]) > 2.9
    assert np.mean([trained for _, trained in runs]) < 10.2  # of 12


def test_the_probability_to_be_the_best_is_calibrated() -> None:
    """Of the winners that are called the best with probability p, a share p is."""
    generator = np.random.default_rng(5)
    said, right = [], []
    for _ in range(300):
        true = 10 + generator.normal(0, 0.8, 3)
        values = true[:, None] + generator.standard_normal((3, 3))
        found = probabilities_best(values.tolist(), minimize=True, draws=800)
        assert found is not None
        assert sum(found) == pytest.approx(1)
        winner = int(values.mean(1).argmin())
        said.append(found[winner])
        right.append(winner == true.argmin())
    assert np.mean(said) == pytest.approx(np.mean(right), abs=0.07)
    sure = np.array(said) > 0.75
    assert np.mean(np.array(right)[sure]) > 0.7
    assert np.mean(np.array(right)[~sure]) < 0.7


def test_equal_values_say_nothing_and_one_seed_neither() -> None:
    assert clearly_worse([[0.5, 0.5], [0.6, 0.6]], minimize=True, level=0.05) == [False, False]
    assert probabilities_best([[0.5, 0.5], [0.5, 0.5], [0.6, 0.6]], minimize=True) is None
    # sums of equal values are rounded, and are no noise either
    rounded = [[0.1, 0.1, 0.1], [0.1, 0.1], [0.7, 0.7, 0.7]]
    assert clearly_worse(rounded, minimize=True, level=0.05) == [False] * 3
    assert probabilities_best(rounded, minimize=True) is None
    assert probabilities_best([[1.0], [2.0]], minimize=True) is None
    assert probabilities_best([[1.0, 1.1]], minimize=True) == [1.0]


def test_a_larger_value_is_better_where_the_study_says_so() -> None:
    values = [[0.91, 0.92, 0.90], [0.70, 0.71, 0.72]]
    assert clearly_worse(values, minimize=False, level=0.02) == [False, True]
    found = probabilities_best(values, minimize=False)
    assert found is not None
    assert found[0] > 0.99
    below = [[-1.0, -1.1, -0.9], [-9.0, -9.2, -9.1]]  # no value is a share of a negative mean
    assert clearly_worse(below, minimize=False, level=0.02) == [False, True]


def test_a_race_goes_on_from_whatever_stands() -> None:
    def missing(found: dict[int, dict[int, float | None]], seeds: int = 3) -> list[Any]:
        return [*run_race(found, seeds=seeds, minimize=True).missing]

    assert missing({4: {}, 2: {1: 5.0}}) == [(4, 1), (2, 2), (4, 2)]
    assert missing({4: {}, 2: {1: 5.0}}, seeds=1) == [(4, 1)]
    close: dict[int, dict[int, float | None]] = {2: {1: 5.0, 2: 5.2}, 4: {1: 5.1, 2: 5.3}}
    assert missing(close) == [(2, 3), (4, 3)]
    assert missing({2: {1: 5.0, 2: 5.2}, 4: {1: 5.1, 2: 5.3, 3: 5.2}}) == [(2, 3)]
    assert missing(close, seeds=2) == []
    far: dict[int, dict[int, float | None]] = {2: {1: 5.0, 2: 5.2}, 4: {1: 50.0, 2: 52.0}}
    assert missing(far) == [(2, 3)]
    everyone = run_race(far, seeds=3, minimize=True, drops=False)
    assert [*everyone.missing] == [(2, 3), (4, 3)], "a person ranks them"
    failed: dict[int, dict[int, float | None]] = {2: {1: 5.0, 2: None}, 4: {1: 5.1, 2: 5.3}}
    assert missing(failed) == [(4, 3)], "what fails gets no further seed"


# ---- certificates ----

THREE = [
    Compared(trial=7, searched=8.0, values=(9.0, 11.0, 10.0)),
    Compared(trial=2, searched=10.0, values=(10.5, 11.5, 11.0)),
    Compared(trial=5, searched=10.0, values=(30.0, 33.0)),
]


def about(certificate: Any, **more: Any) -> dict[str, Any]:
    return {
        **RECORD, "metric": "frechet", "valid": {"frechet": 10.0}, "rank": 1, "repeat": 3,
        "certificate": None if certificate is None else certificate.to_plain(), **more,
        "output_differences": {}, "pictures": {},
    }  # fmt: skip


def test_a_certificate_says_how_good_and_how_sure() -> None:
    first, second, last = certify(THREE, seeds=3, minimize=True)
    assert (first.mean, first.deviation) == (10.0, 1.0)
    assert first.probability is not None
    assert 0.6 < first.probability < 0.95
    assert sum(each.probability or 0 for each in (first, second, last)) == pytest.approx(
        1, abs=0.01
    )
    assert last.probability is not None
    assert last.probability < 0.01
    lines = certificate_lines(about(first, judge={"floor": {"frechet": 1.94}}))
    assert lines[0] == (
        "Over 3 seeds: frechet 10.0 ± 1.0 on the validation images (9, 11, 10). The weights are "
        "those of the median run."
    )
    assert f"with a probability of {first.probability * 100:.0f} %" in lines[1]
    assert lines[-1] == "Real images get frechet 1.94 (validation)."
    assert "led the next by 20.0 %; over the seeds it leads by 9.1 %: 55 % of" in lines[3]
    assert lines[3].endswith("of its lead was luck, as far as 3 seeds each can tell.")
    dropped = " ".join(certificate_lines(about(last)))
    assert "clearly worse than the best by then, and 1 further seed was not trained" in dropped
    assert mean_of(about(first)) == "10.0 ± 1.0"
    assert [chance_of(about(each)) for each in (last,)] == ["< 1 %"]


def test_luck_is_what_is_lost_of_the_lead() -> None:
    def words(first: tuple[float, ...], second: tuple[float, ...]) -> str:
        rows = [Compared(trial=1, searched=8.0, values=first),
                Compared(trial=2, searched=10.0, values=second)]  # fmt: skip
        return certificate_lines(about(certify(rows, seeds=2, minimize=True)[0]))[-1]

    assert "it leads by 10.0 %: 50 % of its lead was luck" in words((9.0, 9.0), (10.0, 10.0))
    assert "it is 10.0 % behind the best: all of its lead was luck" in words(
        (11.0, 11.0), (10.0, 10.0)
    )
    assert "it leads by 20.0 %: none of its lead was luck" in words((8.0, 8.0), (10.0, 10.0))


def test_equal_values_make_nobody_sure() -> None:
    rows = [Compared(trial=1, searched=0.9, values=(0.9, 0.9)),
            Compared(trial=2, searched=0.8, values=(0.8, 0.8))]  # fmt: skip
    (first, _) = certify(rows, seeds=2, minimize=False)
    assert chance_of(about(first)) == "-"
    line = "no measure of noise: how probable it is that it is the best of the 2 is not known."
    assert any(said.endswith(line) for said in certificate_lines(about(first)))
    failed = [rows[0], replace(rows[1], failed=("no memory",))]  # ranks last, whatever the noise
    for each in certify(failed, seeds=2, minimize=False):
        assert "no measure of noise" not in " ".join(certificate_lines(about(each)))


def test_a_trial_that_is_overtaken_has_no_lead_however_far_the_last_is_behind() -> None:
    rows = [Compared(trial=2, searched=10.0, values=(10.0, 10.0)),
            Compared(trial=1, searched=8.0, values=(12.0, 12.0)),
            Compared(trial=3, searched=11.0, values=(90.0, 90.0))]  # fmt: skip
    (*_, line) = certificate_lines(about(certify(rows, seeds=2, minimize=True)[0]))
    assert "trial 1, led the next by 20.0 %" in line
    assert "over the seeds it is 20.0 % behind the best: all of its lead was luck" in line


def test_one_seed_promises_nothing() -> None:
    (alone,) = certify([Compared(trial=7, searched=8.0, values=(9.0,))], seeds=1, minimize=True)
    assert (alone.deviation, alone.probability) == (None, None)
    lines = certificate_lines(about(alone, baseline={"what": "the mean image", "valid": 90.0}))
    assert "How far another seed would come is not known; SEEDS=3 says." in lines[0]
    assert lines[-1] == "The mean image has frechet 90 there."
    assert (mean_of(about(alone)), chance_of(about(alone))) == ("10", "-")
    two = [Compared(trial=7, searched=8.0, values=(9.0,)),
           Compared(trial=2, searched=9.0, values=(8.5,))]  # fmt: skip
    (first, _) = certify(two, seeds=1, minimize=True)
    assert not any("luck" in line for line in certificate_lines(about(first)))
    failed = Compared(trial=7, searched=8.0, values=(9.0,), failed=("NaN", "NaN"))
    (first, _) = certify([failed, two[1]], seeds=3, minimize=True)
    assert certificate_lines(about(first))[0].endswith("would come is not known.")


def test_of_very_many_seeds_some_values_are_shown() -> None:
    many = Compared(trial=7, searched=8.0, values=tuple(float(seed) for seed in range(1, 102)))
    (line, *_) = certificate_lines(about(certify([many], seeds=101, minimize=True)[0]))
    assert "Over 101 seeds: frechet 51 ± 29" in line
    assert "(1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 91 more)" in line


def test_a_person_s_choice_has_no_probability() -> None:
    assert all(
        each.probability is None for each in certify(THREE, seeds=3, minimize=True, by_value=False)
    )


def test_a_failed_seed_is_named() -> None:
    rows = [THREE[1], Compared(trial=7, searched=8.0, values=(9.0,), failed=("NaN",))]
    line = certificate_lines(about(certify(rows, seeds=3, minimize=True)[1]))[1]
    assert line == "1 seed of 2 has no model (NaN): this ranks behind those that never failed."


def test_the_card_and_older_exports() -> None:
    certificate = certify(THREE, seeds=3, minimize=True)[0]
    card = model_card(about(certificate), rest="provenance.json")
    assert "How sure that is:" in card
    assert "Over 3 seeds: frechet 10.0 ± 1.0" in card
    assert "(3 of 3)" in card
    images = RECORD["images"]
    assert f"Behind each value: 1 seed; {images['valid']:,} validation" in card
    judged = about(certificate, judge={"floor": {"frechet": 1.94}, "samples": 5000})
    assert describe_scores(judged) == (
        "Behind each value: 1 seed; 5,000 samples, of the exported run."
    )
    older = about(None)
    del older["certificate"], older["repeat"]
    assert "How sure that is" not in model_card(older, rest="provenance.json")


def test_an_export_says_enough_if_it_compared_as_many() -> None:
    certificate = certify(THREE, seeds=3, minimize=True)[0]
    kept = json.loads(json.dumps(certificate.to_plain()))
    assert certificate.is_said_by(kept)
    fewer = certify(THREE[:1], seeds=3, minimize=True)[0]
    assert fewer.is_said_by(kept), "TOP=1 leaves what TOP=3 has found"
    assert not certificate.is_said_by(fewer.to_plain())
    assert not certificate.is_said_by(None)
    one = certify([Compared(trial=7, searched=8.0, values=(9.0,))], seeds=1, minimize=True)[0]
    assert one.is_said_by(None), "an older version trained one seed"
    assert not one.is_said_by({"trial": 7})


@pytest.mark.parametrize(
    ("mean", "deviation", "said"),
    [
        (0.0234567, 0.00031, "0.02346 ± 0.00031"), (101.3, 8.14, "101.3 ± 8.1"),
        (6.0, 0.0, "6 ± 0"), (743.0, 89.2, "743 ± 89"), (12345.0, 1234.0, "12345 ± 1.2e+03"),
    ],
)  # fmt: skip
def test_a_spread_has_the_digits_that_matter(mean: float, deviation: float, said: str) -> None:
    assert format_spread(mean, deviation) == said


# ---- the simulation ----


def test_more_seeds_pick_better_configurations() -> None:
    noise = gan_noise(runs=16)
    assert noise.true == pytest.approx([1 + 0.05 * place for place in range(10)])
    worse = {}
    for way in (WAYS[1], WAYS[3]):  # three of one seed each, and of five
        generator = np.random.default_rng(0)
        played = [play(noise, way, generator) for _ in range(150)]
        worse[way.seeds] = np.mean([noise.true[game.picked] for game in played])
        assert all(game.trained <= way.top * way.seeds for game in played)
    assert worse[5] < worse[1]


def test_what_was_measured_is_whole() -> None:
    for noise in read_noise().values():
        assert noise.searched.shape == noise.retrained.shape
        assert len(noise.true) == 10
        assert (noise.retrained <= noise.searched).all(), "a retraining goes on where a trial ends"


# ---- ranks ----


@pytest.fixture
def ranked(make_context: MakeContext) -> Callable[..., Leaderboard]:
    """Trials 0 to 2 with these values of their seeds; a text is why one has no model."""

    def write(context: WorkerContext, number: int, repeat: int, value: float | str) -> None:
        paths = context.retraining_paths(number, repeat)
        paths.record.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, str):
            FailedRetraining(trial=number, token="t", failed=value, repeat=repeat).write(
                paths.record
            )
            return
        plain = {
            **RECORD, "trial": number, "repeat": repeat, "valid": {"mse": value}, "most_epochs": 5,
        }  # fmt: skip
        record = RetrainingRecord.from_plain(plain)
        record.write(paths.record)
        write_tensors(paths.best, {}, {"checkpoint": {}}, of=record.identity())

    def rank(values: dict[int, list[float | str]], seeds: int = 3) -> Leaderboard:
        context = make_context()
        for number, found in values.items():
            for repeat, value in enumerate(found, start=1):
                write(context, number, repeat, value)
        run = type(context.run)(**{**vars(context.run), "seeds": seeds})
        return Leaderboard(context.spec, run, context.queue.study)

    return rank


def test_the_mean_ranks_and_the_median_run_is_exported(
    ranked: Callable[..., Leaderboard],
) -> None:
    leaderboard = ranked({0: [0.1, 0.9, 0.2], 1: [0.35, 0.3, 0.31]})
    assert race_of(leaderboard, [0, 1]).missing == ()
    first, second = standings_of(leaderboard, [0, 1])
    assert (first.number, first.repeat) == (1, 3)
    assert (second.number, second.repeat) == (0, 3)
    assert first.certificate.values == (0.35, 0.3, 0.31)
    even = ranked({0: [0.4, 0.1, 0.2, 0.3], 1: [0.5, 0.5, 0.5, 0.5]}, seeds=4)
    assert standings_of(even, [0, 1])[0].repeat == 3, "the lower of the two middle ones"


def test_one_seed_ranks_as_before(ranked: Callable[..., Leaderboard]) -> None:
    leaderboard = ranked({0: [0.5, 0.1], 1: [0.4, 0.9]}, seeds=1)
    assert [(each.number, each.repeat) for each in standings_of(leaderboard, [0, 1])] == [
        (1, 1), (0, 1),
    ]  # fmt: skip


def test_what_fails_ranks_behind(ranked: Callable[..., Leaderboard]) -> None:
    leaderboard = ranked({0: [0.1, "NaN in epoch 1"], 1: [0.4, 0.42, 0.41]})
    assert race_of(leaderboard, [0, 1]).missing == ()
    standings = standings_of(leaderboard, [0, 1])
    assert [each.number for each in standings] == [1, 0]
    assert standings[1].certificate.failed == ("NaN in epoch 1",)
    assert standings[1].repeat == 1
    assert standings[0].certificate.probability is None, "there is nobody else to compare with"


def test_a_record_of_another_seed_is_none_of_this(ranked: Callable[..., Leaderboard]) -> None:
    leaderboard = ranked({0: [0.1, 0.2]})
    paths = leaderboard.run.paths.retraining("small", 0, 2)
    assert leaderboard.record(0, 2) is not None
    paths.record.replace(leaderboard.run.paths.retraining("small", 0).record)
    assert leaderboard.record(0) is None


# ---- retrainings ----


def test_each_seed_is_a_training_of_its_own(make_context: MakeContext) -> None:
    context = make_context(epochs=1)
    run_one(context)
    retrain(context, 0)
    first = context.retraining_paths(0)
    kept = first.best.read_bytes()
    retrain(context, 0, 2)
    second = context.retraining_paths(0, 2)
    assert first.best.read_bytes() == kept
    records = [
        read_record(context.retraining_paths(0, repeat).record, token="t", trial=0, repeat=repeat)
        for repeat in (1, 2)
    ]
    assert all(isinstance(record, RetrainingRecord) for record in records)
    assert [record.repeat for record in records if record] == [1, 2]
    assert first.rows().keys() == second.rows().keys()
    assert records[0] != records[1]
    values = [record.valid for record in records if isinstance(record, RetrainingRecord)]
    assert values[0] != values[1]
    seeds = [record.seed for record in records if isinstance(record, RetrainingRecord)]
    assert seeds == [retraining_seed(0, 0, 1), retraining_seed(0, 0, 2)]


def test_an_interrupted_seed_goes_on_where_it_was(make_context: MakeContext) -> None:
    heard: list[Any] = []
    context = make_context(
        epochs=1, interrupted=lambda: sum(isinstance(each, EpochEnded) for each in heard) == 2
    )
    run_one(make_context(epochs=1))
    context.send = heard.append
    retrain(context, 0, 2)
    assert isinstance(heard[-1], Released)
    again = make_context(epochs=1)
    retrain(again, 0, 2)
    resumed = [each for each in again.heard if isinstance(each, Resumed)]  # type: ignore[attr-defined]
    assert resumed == [Resumed(number=0, repeat=2, epoch=2)]
    other = make_context(epochs=1, runs="undisturbed")
    run_one(other)
    retrain(other, 0, 2)
    curves = [
        [epoch["valid"] for epoch in json.loads(each.read_text())["curve"]]
        for each in (again.retraining_paths(0, 2).record, other.retraining_paths(0, 2).record)
    ]
    assert curves[0] == curves[1]


def test_places_of_the_first_seed_are_those_of_older_versions(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert paths.retraining("s", 7).record.name == "retrain-7.json"
    assert paths.retraining("s", 7, 2).record.name == "retrain-7-repeat-2.json"
    further = paths.retraining("s", 7, 2)
    further.folder.mkdir(parents=True)
    further.row(3).write_bytes(b"")
    further.picture(3).write_bytes(b"")
    first = paths.retraining("s", 7)
    assert (first.rows(), first.pictures()) == ({}, [])
    assert (list(further.rows()), further.pictures()) == ([3], [further.picture(3)])


def test_the_number_of_seeds_is_remembered(make_context: MakeContext) -> None:
    study = make_context().queue.study
    assert remember_seeds(study, None, own=3, exported={}) == 3
    assert remember_seeds(study, 5, own=3, exported={}) == 5
    assert remember_seeds(study, None, own=3, exported={}) == 5
    assert remember_seeds(study, None, own=2, exported={}) == 2, "the study file has changed"


def test_what_an_older_version_exported_stays() -> None:
    """It was trained with one seed: three would train its best anew, and might crown another."""
    study = optuna.create_study()
    write_identity(study, identity_of(token="t"))
    assert remember_seeds(study, None, own=3, exported={"token": "a namesake's"}) == 3
    assert remember_seeds(study, None, own=3, exported={"token": "t", "certificate": {}}) == 3
    assert remember_seeds(study, None, own=3, exported={"token": "t"}) == 1
    assert remember_seeds(study, None, own=3, exported={"token": "t", "certificate": {}}) == 1
    assert remember_seeds(study, 3, own=3, exported={"token": "t"}) == 3


def identity_of(token: str) -> StudyIdentity:
    return StudyIdentity(
        model="m", metric="mse", direction="minimize", data="d", pixels="p", shape=(1, 8, 8),
        space={}, epochs=1, file_epochs=1, seed=0, file_seed=0, configurations="c", token=token,
    )  # fmt: skip


# ---- schedules ----


@pytest.mark.parametrize(
    ("config", "settled"),
    [
        (CAEConfig(), 1),
        (CAEConfig(schedule="cosine"), 9),
        (GANConfig(), 1),
        (GANConfig(instance_noise=0.1), 9),
        (VAEConfig(warm_up=4), 5),
        (VAEConfig(warm_up=40), 9),
    ],
    ids=["constant", "cosine", "gan", "noise", "warm-up", "long-warm-up"],
)
def test_when_schedules_have_ended(config: Any, settled: int) -> None:
    assert config.settled_in(9) == settled


class Curve(RetrainingProgress):
    """A retraining that has come so far, with these validation values."""

    def __init__(self, context: WorkerContext, values: Sequence[float], settled: int) -> None:
        self.context, self.settled = context, settled
        self.curve = [{"valid": {"mse": value}} for value in values]


def test_patience_counts_no_epoch_before_the_schedule_has_ended(make_context: MakeContext) -> None:
    context = make_context()  # its patience is 2, its retrainings have 5 epochs
    worse = [1.0, 2.0, 3.0, 4.0, 5.0]
    ends = {
        settled: [
            count
            for count in range(1, 6)
            if Curve(context, worse[:count], settled).is_out_of_patience()
        ]
        for settled in (1, 3, 5)
    }
    assert ends == {1: [3, 4, 5], 3: [4, 5], 5: []}


def test_a_schedule_goes_on_over_the_horizon_with_which_it_began(
    make_context: MakeContext,
) -> None:
    """With other RETRAIN_EPOCHS rates would fall otherwise: it is another training."""
    context = make_context(epochs=1)
    suggest = context.spec.suggest
    spec = {**vars(context.spec), "suggest": lambda t: _with_cosine(suggest(t))}
    context = type(context)(**{**vars_of(context), "spec": type(context.spec)(**spec)})
    run_one(context)
    retrain(context, 0)
    record = read_record(context.retraining_paths(0).record, token="t", trial=0)
    assert isinstance(record, RetrainingRecord)
    assert (record.horizon, record.epochs) == (5, 5), "patience 2 does not end it before"

    def known(retrain_epochs: int) -> object:
        run = type(context.run)(**{**vars(context.run), "retrain_epochs": retrain_epochs})
        return Leaderboard(context.spec, run, context.queue.study).record(0)

    assert known(5) is not None
    assert known(7) is None
    assert known(4) is None


def _with_cosine(config: ModelConfig) -> ModelConfig:
    return replace(config, schedule="cosine")


def vars_of(context: WorkerContext) -> dict[str, Any]:
    return {name: getattr(context, name) for name in context.__dataclass_fields__}


# ---- whole runs ----


def test_a_study_certifies_its_winner(user: User, study_file: Callable[..., Path]) -> None:
    name = study_file(replace={"seeds=1,": "seeds=3,"})
    del user.environment["SEEDS"]
    given: dict[str, Any] = {"NAME": name, "TRIALS": 3, "TOP": 2, "WORKERS": 2}
    code, out, error = user.run(**given)
    assert (code, error) == (0, "")
    heads = "rank +trial +epochs +seeds +validation mse +P.best. +test mse +export"
    assert re.search(heads, out), out
    assert "how sure rank 1 is:" in out
    assert "Over 3 seeds: mse " in out
    winner = read_provenance(user.runs / "exports" / "small" / "1")
    second = read_provenance(user.runs / "exports" / "small" / "2")
    assert winner is not None
    assert second is not None
    certificate = winner["certificate"]
    assert certificate["trial"] == winner["trial"]
    assert sorted(certificate["values"])[1] == winner["valid"]["mse"], "the median run"
    assert (winner["test"] is None, second["test"] is None) == (False, True)
    records = sorted((user.runs / "checkpoints" / "small").glob("retrain-*.json"))
    tested = [path.name for path in records if json.loads(path.read_text())["test"] is not None]
    assert len(tested) == 1, "the test images are measured once"
    card = (user.runs / "exports" / "small" / "1" / "README.md").read_text()
    assert "How sure that is" in card
    code, _, error = user.run("report", NAME="small")
    assert code == 0, error
    page = (user.runs / "reports" / "small" / "README.md").read_text()
    assert "How sure that is" in page
    assert "Over 3 seeds: mse" in page
    made = {path: path.stat().st_mtime_ns for path in (user.runs / "exports").rglob("*")}
    code, out, error = user.run(**given)
    assert (code, error) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in (user.runs / "exports").rglob("*")} == made
    assert "study small is done" in out
