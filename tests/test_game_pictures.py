"""How a game went and how a generator learned, as pictures: alone, of a trial, in an export."""

from __future__ import annotations

import errno
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from optuna.artifacts import get_all_artifact_meta
from PIL import Image

from models.acgan import ACGAN, ACGANConfig
from models.base import Model, build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.evaluation.gan_diagnosis import STALLED, Health, Kind, epoch_verdicts
from models.evaluation.gan_figure import BANDS, draw_game, move_apart
from models.evaluation.quality_table import Judged, quality_table
from models.evaluation.sample_evaluator import SampleEvaluator
from models.figures.sample_history import (
    choose_epochs,
    draw_learned,
    read_row,
    write_animation,
    write_row,
)
from models.gan import GAN
from models.stargan import StarGAN, StarGANConfig
from search.events import EpochEnded, Warned
from search.trials.retraining_record import RetrainingRecord
from search.worker import pictures
from search.worker.context import WorkerContext
from search.worker.export_pictures import draw_pictures
from search.worker.exporting import make_tables
from search.worker.retraining import retrain
from search.worker.trial import run_trial
from storage.files.model_card import model_card
from tests.test_verdicts import FLOOR, GOOD, NOISE, game, improving
from tests.trials import SMALL, Breaking, MakeContext, Perfect, ThreeModes, run_one

FEW_DIGITS = True

MODES = {**GOOD, "modes": 2.0}
BROKEN = dict.fromkeys(GOOD, math.nan)


def kinds(*qualities: dict[str, float], real: float = 0.85) -> list[Kind]:
    return epoch_verdicts(game(*qualities, real=real, fake=real), FLOOR)


def test_each_epoch_has_the_verdict_that_it_had_then() -> None:
    found = kinds(*improving(3), MODES, GOOD, BROKEN)
    assert found == ["healthy"] * 3 + ["collapsed", "healthy", "diverged"]
    assert kinds(*[NOISE] * 5, real=1.0)[STALLED:] == ["d_won"] * (5 - STALLED)


def test_noise_at_the_beginning_is_no_collapse_once_it_mends() -> None:
    assert kinds(MODES, MODES, GOOD) == ["healthy"] * 3
    assert kinds(MODES, MODES) == ["collapsed"] * 2
    assert kinds(MODES, BROKEN) == ["collapsed", "diverged"]


def colors(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        counted = picture.convert("RGB").getcolors(1 << 20)
    assert counted
    return {color for count, color in counted if count > 500}  # type: ignore[misc]


def band(kind: Kind) -> tuple[int, ...]:
    code = BANDS[kind]
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (game(GOOD), set()),
        (game(GOOD, MODES), {"collapsed"}),
        (game(GOOD, BROKEN), {"diverged"}),
        (game(BROKEN), {"diverged"}),
        (game(*[NOISE] * 5, real=1.0, fake=1.0), {"d_won"}),
        (game(*[NOISE] * 5, real=0.5, fake=0.5), {"g_won"}),
        ([Health(epoch=3)], set()),
        ([Health(epoch=1, loss_d=0.0, loss_g=math.inf)], {"diverged"}),
        ([Health(epoch=1, quality={"frechet": 0.0, "coverage": 0.95})], set()),
        ([Health(epoch=n, loss_d=10.0**-n, loss_g=1e6) for n in range(1, 60)], set()),
    ],
)
def test_epochs_that_went_wrong_stand_on_a_colour(
    tmp_path: Path, history: list[Health], expected: set[Kind]
) -> None:
    path = tmp_path / "game.png"
    draw_game(path, history, FLOOR, "trial 7 costs $5 and $6")
    found = colors(path)
    assert {kind for kind in BANDS if band(kind) in found} == expected


def test_samples_that_are_to_show_labels_have_a_panel_more(tmp_path: Path) -> None:
    labels = {"label_frechet": 90.0, "label_accuracy": 0.9, "label_worst": 0.8}
    heights = []
    for quality in (GOOD, {**GOOD, **labels}):
        draw_game(tmp_path / "game.png", game(quality, quality), FLOOR, "trial 7")
        with Image.open(tmp_path / "game.png") as drawn:
            heights.append(drawn.height)
    assert heights[1] > heights[0] + 100


def test_no_epoch_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no epoch has ended"):
        draw_game(tmp_path / "game.png", [], FLOOR, "")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4).map(sorted))
def test_names_of_lines_stand_apart_and_as_near_as_can_be(places: list[float]) -> None:
    moved = move_apart(places, 0.2)
    assert all(b - a >= 0.2 - 1e-9 for a, b in pairwise(moved))
    if all(b - a >= 0.2 for a, b in pairwise(places)):
        assert moved == pytest.approx(places)


@pytest.mark.parametrize("shape", [(7, 1, 8, 8), (3, 3, 20, 10), (2, 3, 8, 8)])
def test_a_row_is_read_as_it_was_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    write_row(tmp_path / "row", images)
    found = read_row(tmp_path / "row")
    assert found.shape == shape
    assert (found - images).abs().max() <= 0.5 / 255 + 1e-6


def test_a_row_of_large_images_is_small(tmp_path: Path) -> None:
    write_row(tmp_path / "row", torch.rand(2, 3, 256, 512))
    assert read_row(tmp_path / "row").shape == (2, 3, 48, 96)


def test_a_row_holds_no_nan(tmp_path: Path) -> None:
    write_row(tmp_path / "row", torch.full((2, 1, 8, 8), math.nan))
    assert not read_row(tmp_path / "row").any()


@given(st.integers(1, 60), st.integers(2, 12))
def test_epochs_are_chosen_evenly_with_the_first_and_the_last(count: int, most: int) -> None:
    epochs = list(range(5, 5 + count))
    found = choose_epochs(epochs, most)
    assert found == sorted(set(found))
    assert len(found) == min(count, most)
    assert (found[0], found[-1]) == (epochs[0], epochs[-1])
    steps = np.diff(found)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1


def rows(folder: Path, epochs: int, side: int = 8) -> dict[int, Path]:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for epoch in range(1, epochs + 1):
        found[epoch] = folder / f"{epoch}.png"
        write_row(found[epoch], torch.rand(36, 1, side, side, generator=generator))
    return found


def test_the_best_epoch_is_always_among_those_that_are_shown(tmp_path: Path) -> None:
    found = rows(tmp_path, 25)
    draw_learned(tmp_path / "without.png", found, "trial 7")
    draw_learned(tmp_path / "with.png", found, "trial 7", best=9)
    with Image.open(tmp_path / "without.png") as one, Image.open(tmp_path / "with.png") as other:
        assert one.height == other.height  # ten rows
        assert one.tobytes() != other.tobytes()


def frames(path: Path) -> int:
    with Image.open(path) as animation:
        return getattr(animation, "n_frames", 1)


def test_an_animation_has_a_frame_an_epoch(tmp_path: Path) -> None:
    write_animation(tmp_path / "all.gif", rows(tmp_path, 7))
    assert frames(tmp_path / "all.gif") == 7
    write_animation(tmp_path / "one.gif", rows(tmp_path, 1))
    assert frames(tmp_path / "one.gif") == 1


def test_an_animation_leaves_epochs_out_rather_than_grow(tmp_path: Path) -> None:
    path = tmp_path / "learned.gif"
    write_animation(path, rows(tmp_path, 12), most=150_000)
    assert path.stat().st_size <= 150_000
    assert 2 <= frames(path) < 12


@pytest.mark.parametrize(
    ("family", "config"),
    [
        (GAN, SMALL),
        (ACGAN, ACGANConfig(width=0.05, labels=10, exclusive=True)),
        (StarGAN, StarGANConfig(width=0.03, blocks=0, labels=10, exclusive=True)),
    ],
)
def test_models_make_the_same_images_of_the_same_noise(
    digits: ImageSplits, family: type[Model], config: object
) -> None:
    model = build(family, config, (1, 28, 28), seed=0)  # type: ignore[arg-type]
    before = torch.get_rng_state()
    with evaluating(model):
        first, second = (model.fixed_samples(digits, "valid", 12) for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(before, torch.get_rng_state())
    assert first.shape == (12, 1, 28, 28)
    assert torch.equal(first, second)
    assert (first[0] != first[1]).any()
    assert 0 <= float(first.min()) < float(first.max()) <= 1


def test_a_model_that_makes_no_images_of_noise_has_no_row(digits: ImageSplits) -> None:
    assert CAE(CAEConfig(), (1, 28, 28)).fixed_samples(digits, "valid", 3) is None


def shown(context: WorkerContext, number: int = 0) -> list[str]:
    trial = context.queue.study.trials[number]
    return [meta.filename for meta in get_all_artifact_meta(trial, storage=context.queue.storage)]


def kept(context: WorkerContext) -> list[str]:
    return sorted(path.name for path in context.run.paths.checkpoints("small").glob("*-row-*"))


def test_a_trial_shows_its_samples_then_the_game_then_how_it_learned(
    make_gan_context: MakeContext,
) -> None:
    context = make_gan_context(Perfect)
    run_one(context)
    assert shown(context) == ["samples.png", "game.png", "losses.png", "losses.csv", "learned.png"]
    assert kept(context) == []


def test_a_trial_that_diverges_shows_what_came_before(make_gan_context: MakeContext) -> None:
    context = make_gan_context(Breaking)
    assert run_one(context)["outcome"] == "diverged"
    assert shown(context) == ["game.png", "losses.png", "losses.csv", "learned.png"]
    assert kept(context) == []


def test_an_interrupted_trial_keeps_the_rows_of_its_checkpoint_and_no_others(
    make_gan_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.worker.trial_epochs.CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr("search.worker.trial_epochs.SHORT_EPOCH", 0.0)  # none is worth finishing
    asked = [0]

    def soon() -> bool:
        asked[0] += 1
        return asked[0] > 14  # in the third epoch

    context = make_gan_context(ThreeModes, epochs=4, interrupted=soon, pruner="none")
    stale = context.run.paths.trial_row("small", 0, 7)  # of a deleted namesake
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"another study's")
    trial = context.queue.claim(9)
    assert trial is not None
    run_trial(context, trial)
    assert kept(context) == ["trial-0-row-0001.png", "trial-0-row-0002.png"]
    first = {name: (stale.parent / name).stat().st_mtime_ns for name in kept(context)}
    context.run.paths.trial_row("small", 0, 3).write_bytes(b"of an epoch that counts no more")
    seen: dict[str, int] = {}

    def look(*_: object) -> None:
        seen.update({name: (stale.parent / name).stat().st_mtime_ns for name in kept(context)})

    again = make_gan_context(ThreeModes, epochs=4, pruner="none")
    again.send = lambda event: (
        look() if isinstance(event, EpochEnded) and event.epoch == 3 else None
    )
    run_one(again)
    assert seen == first
    assert shown(again) == ["samples.png", "game.png", "losses.png", "losses.csv", "learned.png"]


def test_rows_that_cannot_be_written_do_not_cost_the_trial(
    make_gan_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, images: torch.Tensor) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(pictures, "write_row", full)
    context = make_gan_context(Perfect)
    said: list[object] = []
    context.send = lambda event: said.append(event.what) if isinstance(event, Warned) else None
    assert run_one(context)["outcome"] == "complete"
    assert "rows of samples" in said
    assert shown(context) == ["samples.png", "game.png", "losses.png", "losses.csv"]


def test_a_judged_export_shows_the_game_and_how_it_learned(
    make_gan_context: MakeContext, tmp_path: Path, judge: SampleEvaluator
) -> None:
    context = make_gan_context()
    run_one(context)
    paths = context.run.paths.retraining("small", 0)
    paths.row(9).parent.mkdir(parents=True, exist_ok=True)
    paths.row(9).write_bytes(b"of an earlier training")
    retrain(context, 0)
    assert sorted(paths.rows()) == [1, 2]
    record = json.loads(paths.record.read_text())
    folder = tmp_path / "export"
    folder.mkdir()
    model = build(GAN, SMALL, (1, 28, 28), seed=0)
    typed = RetrainingRecord.from_plain(record)
    captions = draw_pictures(context, model, typed, folder)
    assert [*captions] == [
        "learning_curve.png", "samples.png", "interpolations.png", "game.png", "losses.png",
        "learned.png", "learned.gif",
    ]  # fmt: skip
    assert all((folder / file).stat().st_size > 1000 for file in captions)
    assert frames(folder / "learned.gif") == 2

    (table,) = make_tables(context, model, typed)
    assert table["columns"][:3] == ("measure", "validation", "real images (validation)")
    first = table["rows"][0]
    assert first[:3] == ("frechet", record["valid"]["frechet"], judge.floor["frechet"])
    about = {"rank": 1, "usage": "", "output_differences": {"a": 0.0}, "sha256": []}
    card = model_card(
        {**record, **about, "pictures": captions, "tables": [table]}, rest="provenance.json"
    )
    assert f" epoch {record['verdict']['verdict_epoch']}. " in card
    assert "| frechet | " in card
    assert "(learned.gif)" in card


def test_the_winner_is_measured_by_the_test_images_too(judge: SampleEvaluator) -> None:
    record = replace_floor(judge, 0.5)
    valid = Judged(part="validation", measured=judge.floor, record=judge.record)
    table = quality_table(valid, Judged(part="test", measured=judge.floor, record=record))
    assert table.columns == (
        "measure", "validation", "real images (validation)", "test", "real images (test)",
        "what it says",
    )  # fmt: skip
    floor = judge.floor["recall"]
    (recall,) = [row for row in table.rows if row[0] == "recall"]
    assert recall[1:5] == (floor, floor, floor, 0.5)
    assert "modes" in [row[0] for row in table.rows]
    assert f"{judge.count:,} samples" in table.note
    assert "held-out" not in table.note


def test_the_table_says_of_which_real_images_the_shares_of_labels_are(
    judge: SampleEvaluator,
) -> None:
    shares = {"label_accuracy": 0.9}
    record = {**judge.record, "floor": {**judge.floor, **shares}}
    table = quality_table(Judged(part="test", measured={**judge.floor, **shares}, record=record))
    assert "as many training images, held-out images for the shares of labels;" in table.note


def replace_floor(judge: SampleEvaluator, recall: float) -> dict[str, object]:
    return {**judge.record, "floor": {**judge.floor, "recall": recall}}
