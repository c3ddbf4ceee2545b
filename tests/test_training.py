"""The training loop: order, repeatability, resumption, divergence, several optimisers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.base import Metrics, Model, ModelConfig, Program, build
from models.cae import CAE, CAEConfig
from models.data.images import Batch, Images, ImageSplits, Shape
from models.errors import CheckpointError, DivergedError, StopRequested
from models.optimizers import SCHEDULES
from models.seeds import drawing
from models.training.checkpoint import load_checkpoint, save_checkpoint
from models.training.loop import evaluate, fit

SMALL = CAEConfig(channels=2, latent=4, batch_size=128)


def small(seed: int = 0, **changes: object) -> Model:
    config = CAEConfig(**{"channels": 2, "latent": 4, "batch_size": 128, **changes})  # type: ignore[arg-type]
    return build(CAE, config, (1, 28, 28), seed=seed)


class Duel(Model):
    """Two networks, two optimisers, several steps a batch: all of a GAN that the loop sees."""

    metrics = ("score",)
    config_type = ModelConfig

    def __init__(self, config: ModelConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        pixels = shape[0] * shape[1] * shape[2]
        self.maker = nn.Linear(2, pixels)
        self.judge = nn.Linear(pixels, 1)
        self.optimizers = {
            "maker": torch.optim.Adam(self.maker.parameters(), lr=1e-3, betas=(0.5, 0.999)),
            "judge": torch.optim.SGD(self.judge.parameters(), lr=1e-3, momentum=0.9),
        }

    def train_step(self, batch: Batch) -> Metrics:
        real = batch.images.flatten(1)
        for _ in range(2):
            made = self.maker(torch.randn(len(real), 2, device=real.device))
            judged = self.judge(real).mean() - self.judge(made.detach()).mean()
            self._step("judge", -judged)
        fooled = self.judge(self.maker(torch.randn(len(real), 2, device=real.device))).mean()
        self._step("maker", -fooled)
        return {"judged": judged.detach(), "fooled": fooled.detach()}

    def _step(self, name: str, loss: Tensor) -> None:
        self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers[name].step()

    def evaluate(self, batch: Batch) -> Metrics:
        return {"score": self.judge(batch.images.flatten(1)).mean()}

    def programs(self) -> dict[str, Program]:
        return {"maker": Program(module=self.maker, example=torch.zeros(2, 2))}


def test_epochs_count_from_one_and_carry_both_losses(digits: ImageSplits) -> None:
    results = list(fit(small(), digits, epochs=3, seed=0))
    assert [result.number for result in results] == [1, 2, 3]
    assert all(set(r.train) == set(r.valid) == {"mse"} and r.seconds > 0 for r in results)


def test_evaluation_is_a_mean_over_images_whatever_the_batches(digits: ImageSplits) -> None:
    model = small()
    images = digits.train  # 1,150: a whole batch of 1,000 and a ragged one
    pixels = images.pixels.float() / 255
    with torch.no_grad():
        expected = float(((model.eval()(pixels) - pixels) ** 2).mean())
    assert evaluate(model, images)["mse"] == pytest.approx(expected, rel=1e-5)


def test_every_training_image_is_seen_at_most_once_an_epoch(digits: ImageSplits) -> None:
    seen: list[Tensor] = []

    class Watching(CAE):
        def train_step(self, batch: Batch) -> Metrics:
            assert batch.labels is not None
            seen.append(batch.images.flatten(1).sum(1))
            return super().train_step(batch)

    list(fit(build(Watching, SMALL, (1, 28, 28), seed=0), digits, epochs=2, seed=0))
    assert {len(sums) for sums in seen} == {128}  # static shapes
    per_epoch = 1150 // 128
    first, second = torch.cat(seen[:per_epoch]), torch.cat(seen[per_epoch:])
    assert len(first) == len(second) == per_epoch * 128
    assert not torch.equal(first, second)  # another order each epoch


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(
    tmp_path: Path, digits: ImageSplits, optimizer: str
) -> None:
    whole = small(optimizer=optimizer)
    expected = [r.valid for r in fit(whole, digits, epochs=5, seed=3)]
    first = small(optimizer=optimizer)
    found = [r.valid for r in fit(first, digits, epochs=2, seed=3)]
    save_checkpoint(tmp_path / "c", first, epoch=2, note={"best": 0.5})
    second = small(seed=99, optimizer=optimizer)
    epoch, note = load_checkpoint(tmp_path / "c", second)
    assert (epoch, note) == (2, {"best": 0.5})
    found += [r.valid for r in fit(second, digits, epochs=5, seed=3, start=epoch)]
    assert found == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


def test_two_optimisers_train_and_resume_through_the_same_loop(
    tmp_path: Path, digits: ImageSplits
) -> None:
    def duel() -> Model:
        return build(Duel, ModelConfig(batch_size=64), (1, 28, 28), seed=0)

    whole = duel()
    expected = [(r.train, r.valid) for r in fit(whole, digits, epochs=4, seed=1)]
    assert set(expected[0][0]) == {"judged", "fooled"}
    part = duel()
    list(fit(part, digits, epochs=2, seed=1))
    save_checkpoint(tmp_path / "c", part, epoch=2, note={})
    resumed = duel()
    load_checkpoint(tmp_path / "c", resumed)
    found = [(r.train, r.valid) for r in fit(resumed, digits, epochs=4, seed=1, start=2)]
    assert found == expected[2:]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0]),
        ("cosine", [1 / 3, 0.855, 0.505, 0.155, 0.01]),
        ("cosine_decay", [1.0, 0.855, 0.505, 0.155, 0.01]),
    ],
)
def test_learning_rates_follow_the_schedule(schedule: str, rates: list[float]) -> None:
    found = [SCHEDULES[schedule](epoch, 5) for epoch in range(1, 6)]
    assert found == pytest.approx(rates, abs=1e-3)


def test_divergence_names_the_epoch_and_the_metric(digits: ImageSplits) -> None:
    model = small()
    epochs = fit(model, digits, epochs=3, seed=0)
    next(epochs)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="diverged in epoch 2: train mse nan") as caught:
        next(epochs)
    assert caught.value.epoch == 2


def test_an_interrupted_epoch_is_dropped(digits: ImageSplits) -> None:
    asked = iter([False] * 10 + [True] * 100)
    epochs = fit(small(), digits, epochs=3, seed=0, interrupted=lambda: next(asked))
    next(epochs)  # eight steps
    with pytest.raises(StopRequested):
        next(epochs)


def test_sets_smaller_than_a_batch_still_train(digits: ImageSplits) -> None:
    few = Images(pixels=digits.train.pixels[:20])
    tiny = ImageSplits(name="tiny", fingerprint="", train=few, valid=few, test=few)
    results = list(fit(small(), tiny, epochs=3, seed=0))
    assert results[-1].train["mse"] < results[0].train["mse"]


def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", small(), epoch=1, note={})
    other = build(CAE, CAEConfig(channels=3, latent=4), (1, 28, 28), seed=0)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="not a checkpoint of this model"):
        load_checkpoint(tmp_path / "c", other)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x04}q\x00."])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c").write_bytes(content)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c", small())


def test_a_checkpoint_stays_as_it_was_when_training_goes_on(
    tmp_path: Path, digits: ImageSplits
) -> None:
    model = small()
    list(fit(model, digits, epochs=1, seed=0))
    save_checkpoint(tmp_path / "c", model, epoch=1, note={})
    before = (tmp_path / "c").read_bytes()
    resumed = small()
    load_checkpoint(tmp_path / "c", resumed)
    list(fit(resumed, digits, epochs=2, seed=0, start=1))
    assert (tmp_path / "c").read_bytes() == before


def test_draws_on_a_cpu_leave_the_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their generators would not be put back."""

    def refuse(seed: int) -> None:
        raise AssertionError("a GPU was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    with drawing("cpu", 3):
        first = torch.rand(4)
    with drawing("cpu", 3):
        assert torch.equal(torch.rand(4), first)
