"""Losses of single steps: which are sampled, how many are kept, and what is drawn of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.acgan import ACGAN, ACGANConfig
from models.base import Metrics, Model, ModelConfig, build
from models.cae import CAE, CAEConfig
from models.data.images import Batch, ImageSplits
from models.evaluation.step_losses import draw_step_losses, running_mean
from models.gan import GAN
from models.stargan import StarGAN, StarGANConfig
from models.training import step_curve
from models.training.loop import fit
from models.training.step_curve import SampledSteps, StepCurve, StepSampler
from search.events import EpochEnded
from search.trials.retraining_record import RetrainingRecord
from search.worker.export_pictures import draw_training
from search.worker.retraining import retrain
from search.worker.trial import run_trial
from storage.files.artifacts import listed_artifacts, trial_pictures
from tests.trials import SMALL, MakeContext, run_one

FEW_DIGITS = True

NAMES = ("loss_g", "loss_d")


def sampled(steps: int) -> SampledSteps:
    """An epoch of ``steps`` whose losses are the number of the step."""
    sampler = StepSampler(NAMES, steps)
    for step in range(1, steps + 1):
        sampler.add(step, {name: torch.tensor(float(step)) for name in (*NAMES, "spread")})
    found = sampler.on_host()
    assert found is not None
    return found


@pytest.mark.parametrize("steps", [1, 7, 50, 51, 100, 375, 10_000])
def test_an_epoch_has_fifty_samples_at_most_at_equal_intervals(steps: int) -> None:
    found = sampled(steps)
    assert found.steps == steps
    assert min(steps, step_curve.PER_EPOCH // 2) <= len(found.at) <= step_curve.PER_EPOCH
    assert found.at[0] == 1
    assert len(set(np.diff(found.at).tolist())) <= 1
    assert found.values == {name: tuple(map(float, found.at)) for name in NAMES}


def test_a_sample_is_a_copy() -> None:
    """A recorded graph writes the metrics of its next step into the same tensors."""
    sampler, loss = StepSampler(("loss_g",), 2), torch.tensor(1.0)
    for step in (1, 2):
        loss.fill_(step)
        sampler.add(step, {"loss_g": loss})
    found = sampler.on_host()
    assert found is not None
    assert found.values["loss_g"] == (1.0, 2.0)


@pytest.mark.parametrize("epochs", [1, 20, 21, 300])
def test_a_curve_is_bounded_and_spans_all_epochs(epochs: int) -> None:
    curve = StepCurve()
    for epoch in range(1, epochs + 1):
        curve.add(epoch, sampled(375))
    assert len(curve.at) <= step_curve.MOST
    assert len(curve.at) > step_curve.MOST / 2 or curve.every == 1
    assert curve.at[0] == 1
    assert curve.at[-1] > 375 * epochs - 2 * curve.every * 8
    assert np.diff(curve.at).max() <= 2 * curve.every * 8
    within = [(step - 1) % 375 + 1 for step in curve.at]
    assert curve.values == dict.fromkeys(NAMES, within)
    assert len(json.dumps(curve.to_plain())) < 40_000


def test_a_curve_that_goes_on_from_json_is_the_same() -> None:
    whole, part = StepCurve(), StepCurve()
    for epoch in range(1, 31):
        whole.add(epoch, sampled(375))
        part.add(epoch, sampled(375))
        part = StepCurve.from_plain(json.loads(json.dumps(part.to_plain())))
    assert part == whole


def test_a_curve_that_begins_late_counts_from_the_first_epoch() -> None:
    """A checkpoint of an older version has none."""
    curve = StepCurve.from_plain(None)
    curve.add(3, sampled(10))
    assert curve.at == list(range(21, 31))


@pytest.mark.parametrize(
    "plain",
    [
        {}, [], 7, {"per_epoch": 1, "seen": 1, "every": 1, "at": [1], "values": [2.0]},
        {"per_epoch": 1, "seen": 1, "every": 1, "at": [1], "values": {"loss_g": []}},
        {"per_epoch": 1, "seen": 1, "every": 1, "at": 1, "values": {}},
    ],
)  # fmt: skip
def test_what_is_no_curve_is_refused(plain: Any) -> None:
    with pytest.raises(ValueError, match="curve of steps"):
        StepCurve.from_plain(plain)


def test_numbers_are_written_with_their_step_and_epoch(tmp_path: Path) -> None:
    curve = StepCurve()
    for epoch in (1, 2):
        curve.add(epoch, sampled(2))
    curve.write(tmp_path / "losses.csv")
    assert (tmp_path / "losses.csv").read_text() == (
        "step,epoch,loss_g,loss_d\n1,1,1,1\n2,1,2,2\n3,2,1,1\n4,2,2,2\n"
    )


FAMILIES: list[tuple[type[Model], ModelConfig]] = [
    (GAN, replace(SMALL, extra_g_steps=1)),
    (ACGAN, ACGANConfig(width=0.02, latent=4, batch_size=64)),
    (StarGAN, StarGANConfig(width=0.05, blocks=1, batch_size=16)),
]


@pytest.mark.parametrize(("family", "config"), FAMILIES, ids=["gan", "acgan", "stargan"])
def test_every_gan_keeps_the_losses_of_its_steps(
    digits: ImageSplits, family: type[Model], config: ModelConfig
) -> None:
    """As many as there were steps, with the epoch's means."""
    few = replace(digits, train=digits.train.take(torch.arange(256)))
    config = family.fitted(config, few)
    model = build(family, config, few.shape, seed=0)
    (result,) = fit(model, replace(few, valid=few.valid.take(torch.arange(64))), epochs=1, seed=0)
    steps = 256 // config.images_per_step
    assert result.sampled is not None
    assert result.sampled.at == tuple(range(1, steps + 1))
    for name in NAMES:
        values = result.sampled.values[name]
        assert np.mean(values) == pytest.approx(result.train[name], rel=1e-5)
        assert len(set(values)) == steps


def test_a_model_that_is_no_gan_keeps_none(digits: ImageSplits) -> None:
    model = build(CAE, CAEConfig(channels=1, latent=2), digits.shape, seed=0)
    (result,) = fit(model, digits, epochs=1, seed=0)
    assert result.sampled is None


def artifacts(context: Any, name: str) -> bytes:
    """The content of the trial's artifact of that name."""
    storage, trial = context.queue.storage, context.queue.id_of(0)
    (about,) = [
        about
        for about in listed_artifacts(storage.get_trial_system_attrs(trial))
        if about.filename == name
    ]
    content: bytes = (context.run.paths.artifacts / about.artifact_id).read_bytes()
    return content


def test_an_interrupted_trial_ends_with_the_curve_of_an_undisturbed_one(
    make_gan_context: MakeContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("search.worker.trial_epochs.CHECKPOINT_EVERY", 0.0)
    monkeypatch.setattr("search.worker.trial_epochs.SHORT_EPOCH", 0.0)
    monkeypatch.setattr(step_curve, "MOST", 12)  # of 6 steps an epoch
    asked = [0]

    def soon() -> bool:
        asked[0] += 1
        return asked[0] > 14  # in the third epoch

    context = make_gan_context(epochs=4, interrupted=soon, pruner="none")
    trial = context.queue.claim(9)
    assert trial is not None
    run_trial(context, trial)
    again = make_gan_context(epochs=4, pruner="none")
    run_one(again)
    rows = artifacts(again, "losses.csv").decode().splitlines()
    assert rows[0] == "step,epoch,loss_g,loss_d"
    found = [line.split(",")[:2] for line in rows[1:]]
    assert 6 < len(found) <= 12
    assert {epoch for _, epoch in found} == {"1", "2", "3", "4"}
    assert list(trial_pictures(again.queue.storage, again.queue.id_of(0))) == [
        "samples.png", "game.png", "losses.png", "learned.png",
    ]  # fmt: skip

    model = build(GAN, again.spec.suggest(trial), again.images.shape, seed=trial_seed(again))
    whole = StepCurve()
    for epoch in fit(model, again.images, epochs=4, seed=trial_seed(again)):
        whole.add(epoch.number, epoch.sampled)
    whole.write(tmp_path / "whole.csv")
    assert (tmp_path / "whole.csv").read_text().splitlines() == rows


def trial_seed(context: Any) -> int:
    """The seed of the trial's weights and order."""
    return int(context.queue.study.trials[0].user_attrs["seed"])


def test_an_interrupted_retraining_has_the_curve_of_an_undisturbed_one(
    make_gan_context: MakeContext, tmp_path: Path
) -> None:
    context = make_gan_context()
    run_one(context)
    asked = [0]

    def soon() -> bool:
        asked[0] += 1
        return asked[0] > 8  # in the second epoch

    context.interrupted = soon
    retrain(context, 0)
    record = context.run.paths.retraining("small", 0).record
    assert not record.exists()
    context.interrupted = lambda: False
    said: list[int] = []
    context.send = lambda event: said.append(event.epoch) if isinstance(event, EpochEnded) else None
    retrain(context, 0)
    assert said == [2], "the first epoch was kept"
    found = RetrainingRecord.from_plain(json.loads(record.read_text()))
    assert found.steps is not None
    assert all("sampled" not in epoch for epoch in found.curve)
    curve = StepCurve.from_plain(found.steps)
    assert curve.at == list(range(1, 2 * curve.per_epoch + 1))
    for epoch, start in zip(found.curve, (0, curve.per_epoch), strict=True):
        losses = curve.values["loss_d"][start : start + curve.per_epoch]
        assert np.mean(losses) == pytest.approx(epoch["train"]["loss_d"], rel=1e-4)
    captions = draw_training(context, found, tmp_path, "small trial 0")
    assert "losses.png" in captions
    assert (tmp_path / "losses.png").stat().st_size > 5000
    assert "losses.png" not in draw_training(context, replace(found, steps=None), tmp_path, "old")


def test_an_own_model_names_what_it_keeps(digits: ImageSplits) -> None:
    class Own(CAE):
        step_metrics = ("mse", "brightness")

        def train_step(self, batch: Batch) -> Metrics:
            return super().train_step(batch) | {"brightness": batch.images.mean()}

    model = build(Own, CAEConfig(channels=1, latent=2, batch_size=128), digits.shape, seed=0)
    (result,) = fit(model, digits, epochs=1, seed=0)
    assert result.sampled is not None
    assert list(result.sampled.values) == ["mse", "brightness"]


def curve_of(*losses: Sequence[float]) -> StepCurve:
    """A curve of one epoch."""
    curve = StepCurve(per_epoch=len(losses[0]), at=list(range(1, len(losses[0]) + 1)))
    curve.values = {name: [*values] for name, values in zip(NAMES, losses, strict=True)}
    return curve


CURVES = {
    "one step": curve_of([1.0], [2.0]),
    "few": curve_of([1.0, 3.0, 2.0], [2.0, 2.0, 2.0]),
    "zeros": curve_of([0.0] * 100, [0.0] * 100),
    "negative": curve_of([-50.0 + i for i in range(100)], [3.0] * 100),  # Wasserstein
    "far apart": curve_of(
        [10.0 + i % 3 for i in range(100)], [0.01 + i * 1e-4 for i in range(100)]
    ),
    "a spike": curve_of([1.0] * 999 + [1e6], [0.5] * 1000),
}


@pytest.mark.parametrize("name", CURVES)
def test_any_curve_is_drawn(tmp_path: Path, name: str) -> None:
    draw_step_losses(tmp_path / "losses.png", CURVES[name], f"{name} costs $5 and $6")
    with Image.open(tmp_path / "losses.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int)
    for color in ((0xC2, 0x41, 0x0C), (0x1D, 0x4E, 0xD8)):
        assert (np.abs(pixels - color).sum(1) < 60).sum() > 30, "both lines are seen"


def test_no_curve_is_not_drawn(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_step_losses(tmp_path / "losses.png", StepCurve(), "none")


def test_a_running_mean_keeps_what_is_constant_or_straight() -> None:
    assert np.allclose(running_mean([2.0] * 200), 2)
    line = np.arange(200.0)
    half = round(0.03 * 200 / 2)
    assert np.allclose(running_mean(line.tolist())[half:-half], line[half:-half])
    assert running_mean([1.0, 5.0]) == [1.0, 5.0]


def test_sampling_waits_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the samples of an epoch, no number is read from a tensor."""
    sampler = StepSampler(NAMES, 4)
    for name in ("item", "tolist", "cpu", "__float__"):
        monkeypatch.setattr(Tensor, name, lambda *_: pytest.fail("a step waits"))
    for step in range(1, 5):
        sampler.add(step, {name: torch.ones(()) for name in NAMES})
