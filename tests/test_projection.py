"""A discriminator that is asked whether an image is a real one with its labels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.base import build
from models.data.images import ImageSplits
from models.errors import ConfigError
from models.stargan import StarGAN, StarGANConfig
from models.training.gan_losses import LOSSES
from models.training.loop import fit
from tests.conftest import CAE_SHAPE

FEW_DIGITS = True

SMALL = StarGANConfig(
    width=0.05, blocks=1, batch_size=16, labels=10, exclusive=True, projection=1.0, label_weight=0.0
)


def stargan(config: StarGANConfig = SMALL) -> StarGAN:
    model = build(StarGAN, config, CAE_SHAPE, seed=0)
    assert isinstance(model, StarGAN)
    return model


def test_the_score_of_its_class_joins_that_of_an_image(digits: ImageSplits) -> None:
    model = stargan(replace(SMALL, projection=2.0))
    batch = digits.train.batch(slice(0, 3))
    assert batch.labels is not None
    scores, of_labels = torch.randn(3, 4), torch.randn(3, 10)
    own = of_labels[torch.arange(3), batch.labels]
    assert torch.allclose(
        model.real_scores(batch, scores, of_labels), scores + 2 * own[:, None], atol=1e-6
    )
    given = model.conditions(batch)
    wanted = of_labels[torch.arange(3), model.labels_in(given).argmax(1)]
    assert torch.allclose(
        model.fake_scores(given, scores, of_labels), scores + 2 * wanted[:, None], atol=1e-6
    )


def test_an_attribute_counts_by_its_side() -> None:
    config = replace(SMALL, labels=2, exclusive=False, ranges=((0.0, 1.0), (0.0, 1.0)))
    found = stargan(config)._add_projection(
        torch.zeros(1, 1), torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 0.0]])
    )
    assert found.tolist() == [[3.0 - 5.0]]


def test_labels_are_learnt_without_a_loss_of_their_own(digits: ImageSplits) -> None:
    config = replace(SMALL, lr_g=5e-3, lr_d=1e-3, d_steps=1)
    *_, last = fit(stargan(config), digits, epochs=3, seed=0)
    *_, without = fit(stargan(replace(config, projection=0.0)), digits, epochs=3, seed=0)
    assert last.valid["labels_real"] > 0.4 > without.valid["labels_real"]


@pytest.mark.parametrize("loss", LOSSES)
def test_it_goes_with_every_loss_and_penalty(loss: str, digits: ImageSplits) -> None:
    penalised = replace(SMALL, loss=loss, r1=0.1, r2=0.1, gradient_penalty=1.0, smoothing=0.0)
    metrics = stargan(penalised).train_step(digits.train.batch(slice(0, 64)))
    assert all(torch.isfinite(value) for value in metrics.values())
    measured = stargan(penalised).evaluate(digits.valid.batch(slice(0, 20)))
    assert all(torch.isfinite(value) for value in measured.values())


def test_an_export_says_that_its_labels_are_no_probabilities() -> None:
    for weight, says in ((1.0, True), (0.0, False)):
        model = stargan(replace(SMALL, projection=weight, normalization="none"))
        _, labels = model.programs()["discriminator"].outputs
        assert ("not its probability" in labels.holds) == says


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="projection"):
        replace(SMALL, projection=-1.0)
