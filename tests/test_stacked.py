"""Modes of Stacked MNIST, counted in samples that are known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from models.data.images import Images, ImageSplits
from models.evaluation.features import Extractor
from models.evaluation.mode_table import mode_table
from models.evaluation.sample_evaluator import SampleEvaluator
from models.gan import GAN, GANConfig
from search.trials.retraining_record import RetrainingRecord
from search.worker.context import WorkerContext
from search.worker.exporting import make_tables


class Known(GAN):
    """Makes the training images of hundreds below 3, over and over."""

    def samples(self, count: int, images: ImageSplits, part: str) -> Tensor:
        labels = images.train.labels
        assert labels is not None
        rows = torch.nonzero(labels < 300).flatten()
        return images.train.batch(rows[torch.arange(count) % len(rows)]).images


@pytest.fixture
def triples(digits: ImageSplits) -> ImageSplits:
    def three(part: Images) -> Images:
        assert part.labels is not None
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(len(part), (600, 3), generator=generator)
        places = torch.tensor([100, 10, 1])
        pixels = torch.cat([part.pixels[row] for row in rows.t()], dim=1)  # (600, 3, 28, 28)
        return Images(pixels=pixels, labels=(part.labels[rows] * places).sum(1))

    train, valid, test = three(digits.train), three(digits.valid), three(digits.test)
    return replace(digits, name="stacked_mnist", train=train, valid=valid, test=test)


def test_modes_are_counted_beside_real_images_and_what_was_reported(
    triples: ImageSplits, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.evaluation.mode_table.DRAWN", 500)
    judge = SampleEvaluator(replace(extractor, by_channel=True, classes=1000), triples)
    model = Known(GANConfig(width=0.02), (3, 28, 28))
    table = mode_table(model, judge, triples)
    (_, found, divergence), (_, real, floor), *reported = table.rows
    labels = triples.train.labels
    assert labels is not None
    assert found == pytest.approx(len(torch.unique(labels[labels < 300])), rel=0.05)
    assert real == pytest.approx(len(torch.unique(labels[:500])), rel=0.05)
    assert isinstance(divergence, float)
    assert isinstance(floor, float)
    assert divergence > 1 > 0.3 > floor > 0
    assert [row[1:] for row in reported] == [(99.0, "-"), (1000.0, 0.06), (1000.0, 0.029)]


def test_the_card_of_every_rank_counts_them(
    triples: ImageSplits, extractor: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.evaluation.mode_table.DRAWN", 500)
    judge = SampleEvaluator(replace(extractor, by_channel=True, classes=1000), triples)
    model = Known(GANConfig(width=0.02), (3, 28, 28))
    # of a rank that is not measured on the test images
    empty = SimpleNamespace(judge=None, test=None, tables=[])
    record = cast("RetrainingRecord", empty)
    context = cast("WorkerContext", SimpleNamespace(evaluator=judge, images=triples))
    (table,) = make_tables(context, model, record)
    assert table == mode_table(model, judge, triples).to_plain()
    context.images = replace(triples, name="others")
    assert make_tables(context, model, record) == []
