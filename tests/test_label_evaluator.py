"""Models that are given labels are judged by whether their images show them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.acgan import ACGAN, ACGANConfig
from models.data.images import Images, ImageSplits
from models.errors import DataError
from models.evaluation.feature_cache import make_extractor
from models.evaluation.features import Extractor
from models.evaluation.label_evaluator import (
    FEWEST,
    MOST_GROUPS,
    LabelEvaluator,
    MakeImages,
    find_rows,
    label_sides,
    unmeasured_labels,
)
from models.evaluation.measures import LABEL_MEASURES
from search.worker.evaluator import StudyEvaluators
from tests.conftest import blank_images
from tests.trials import MakeContext

FEW_DIGITS = True


@pytest.fixture(scope="module")
def inverted(digits: ImageSplits) -> ImageSplits:
    """Digits with two attributes, and no classes: bright grounds, and digits of five or more."""

    def part(images: Images) -> Images:
        assert images.labels is not None
        bright = torch.arange(len(images)) % 2
        pixels = torch.where(bright[:, None, None, None] > 0, 255 - images.pixels, images.pixels)
        large = (images.labels >= 5).long()
        attributes = torch.stack([bright, 2 * large - 1], dim=1).float()
        return Images(pixels=pixels, attributes=attributes)

    return replace(
        digits,
        name="inverted",
        train=part(digits.train),
        valid=part(digits.valid),
        test=part(digits.test),
        classes=(),
        attribute_names=("bright", "large"),
    )


@pytest.fixture(scope="module")
def attributes(inverted: ImageSplits, train_extractor: Callable[..., Extractor]) -> Extractor:
    return train_extractor(inverted, of_attributes=True)


def working(images: ImageSplits) -> MakeImages:
    """Other training images with just these labels."""
    trained = label_sides(images, "train")
    order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(0))

    def make(labels: Tensor, rows: Tensor) -> Tensor:
        chosen = []
        for place, wanted in enumerate(labels):
            alike = order[(trained[order] == wanted).all(1)]
            chosen.append(alike[place % len(alike)])
        return images.train.batch(torch.stack(chosen)).images

    return make


def copying(images: ImageSplits) -> MakeImages:
    return lambda labels, rows: images.train.batch(rows).images


def ignoring(images: ImageSplits) -> MakeImages:
    """Good images whose labels are those of nobody's wish."""
    order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(1))
    return lambda labels, rows: images.train.batch(order[: len(labels)]).images


def one_template(images: ImageSplits) -> MakeImages:
    """One real image for each combination of labels."""
    trained = label_sides(images, "train")

    def make(labels: Tensor, rows: Tensor) -> Tensor:
        firsts = [(trained == wanted).all(1).nonzero()[0, 0] for wanted in labels]
        return images.train.batch(torch.stack(firsts)).images

    return make


def test_labels_are_read_without_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    images = with_attributes([50, 150])
    monkeypatch.delattr(Images, "batch")
    assert label_sides(images, "valid").sum(0).tolist() == [50, 150]


@pytest.mark.parametrize("kind", ["classes", "attributes"])
@pytest.mark.parametrize(
    ("flawed", "shows"), [(copying, 0.1), (ignoring, 0.6), (one_template, 1.0)]
)
def test_what_does_not_follow_its_labels_scores_clearly_worse(
    kind: str, flawed: object, shows: float, request: pytest.FixtureRequest
) -> None:
    names = {"classes": ("digits", "extractor"), "attributes": ("inverted", "attributes")}[kind]
    images, extractor = (request.getfixturevalue(name) for name in names)
    evaluator = LabelEvaluator(extractor, images, count=1000)
    good = evaluator.measure(working(images))
    bad = evaluator.measure(flawed(images))  # type: ignore[operator]
    assert good["label_accuracy"] > 0.9
    assert good["label_frechet"] < 2 * evaluator.floor["label_frechet"]
    assert bad["label_frechet"] > 2 * good["label_frechet"]
    assert bad["label_accuracy"] <= shows
    assert bad["label_worst"] <= bad["label_accuracy"]


def test_the_floor_is_that_of_real_images(digits: ImageSplits, extractor: Extractor) -> None:
    evaluator = LabelEvaluator(extractor, digits, count=1000)
    assert evaluator.floor.keys() == LABEL_MEASURES.keys()
    assert evaluator.floor["label_accuracy"] > 0.95
    assert digits.valid.labels is not None
    enough = (digits.valid.labels.bincount() >= FEWEST).nonzero()[:, 0].tolist()
    assert sorted(evaluator.record["label_samples"]) == [str(label) for label in enough]
    assert len(enough) >= 8
    assert evaluator.record["label_extractor"] == extractor.hash


def test_each_group_is_told_by_its_name(inverted: ImageSplits, attributes: Extractor) -> None:
    evaluator = LabelEvaluator(attributes, inverted, count=400)
    found = {name: shown for name, _, shown in evaluator.measure_groups(copying(inverted))}
    assert sorted(found) == ["bright", "large", "not bright", "not large"]
    assert max(found["bright"], found["not bright"]) < 0.05


def test_translations_begin_with_training_images_of_other_labels(digits: ImageSplits) -> None:
    for group in find_rows(digits, "valid"):
        assert digits.valid.labels is not None
        assert digits.train.labels is not None
        assert (digits.valid.labels[group.held] == group.label).all()
        assert (digits.train.labels[group.others] != group.label).all()


def test_the_classifier_tells_attributes_that_are_rare(
    inverted: ImageSplits, attributes: Extractor, cache: Path
) -> None:
    assert attributes.kind == "attributes"
    assert attributes.accuracy is not None
    assert attributes.accuracy > 0.9
    assert make_extractor(inverted, cache, of_attributes=True).hash == attributes.hash
    seen = attributes(inverted.valid.pixels[:8])
    assert seen.classes is None
    assert seen.attributes is not None
    assert (seen.attributes.dtype, seen.attributes.shape) == (torch.bool, (8, 2))


def test_a_value_that_is_none_makes_all_measures_nan(
    digits: ImageSplits, extractor: Extractor
) -> None:
    evaluator = LabelEvaluator(extractor, digits, count=400)
    made = evaluator.measure(lambda labels, rows: torch.full((len(rows), 1, 28, 28), torch.nan))
    assert all(value != value for value in made.values())


def test_without_enough_images_of_a_label_it_is_refused() -> None:
    few = blank_images((1, 28, 28))
    assert few.valid.labels is not None
    valid = few.valid.take(torch.arange(50))
    with pytest.raises(DataError, match="no label of blank has 6 validation images or more"):
        find_rows(replace(few, valid=valid), "valid")


def with_attributes(highs: list[int], *, count: int = 200) -> ImageSplits:
    """Black images; attribute i is 1 in the first ``highs[i]`` of each part, else 0."""
    rows = torch.arange(count)[:, None]
    attributes = (rows < torch.tensor(highs)).float()
    part = Images(pixels=torch.zeros(count, 1, 8, 8, dtype=torch.uint8), attributes=attributes)
    names = tuple(f"a{place}" for place in range(len(highs)))
    return ImageSplits(
        name="x", fingerprint="x", train=part, valid=part, test=part, attribute_names=names
    )


def test_an_attribute_is_measured_on_both_sides_or_not_at_all() -> None:
    """A model that always shows the commoner side would else look as if it heeded labels."""
    rare = [FEWEST + place for place in range(MOST_GROUPS)]  # each commoner side has the most
    images = with_attributes(rare)
    found = find_rows(images, "valid")
    assert len(found) == MOST_GROUPS
    assert sorted((rows.label, rows.upper) for rows in found) == [
        (label, upper) for label in range(MOST_GROUPS // 2, MOST_GROUPS) for upper in (False, True)
    ]
    assert unmeasured_labels(images, "valid") == [f"a{i}" for i in range(MOST_GROUPS // 2)]


def test_an_attribute_with_images_on_one_side_alone_is_refused() -> None:
    with pytest.raises(DataError, match="6 validation images or more on both sides"):
        find_rows(with_attributes([FEWEST - 1]), "valid")
    assert [rows.label for rows in find_rows(with_attributes([FEWEST - 1, 90]), "valid")] == [1, 1]


def test_the_table_names_the_labels_that_are_not_measured(
    digits: ImageSplits, extractor: Extractor
) -> None:
    assert digits.valid.labels is not None
    others = replace(digits, valid=digits.valid.take((digits.valid.labels != 3).nonzero()[:, 0]))
    evaluator = LabelEvaluator(extractor, others, count=300)
    assert "3" in evaluator.unmeasured
    small = ACGANConfig(latent=2, width=0.01, labels=10, exclusive=True)
    model = ACGAN(small, digits.shape)
    table = evaluator.table(model, others)
    names = ", ".join(evaluator.unmeasured)
    assert f"Not measured, as they have the fewest images: {names}." in table.note
    assert len(table.rows) == 10 - len(evaluator.unmeasured)


def test_the_table_says_how_well_labels_are_told_that_the_classifier_has_not_learnt(
    inverted: ImageSplits, attributes: Extractor
) -> None:
    small = ACGANConfig(latent=2, width=0.01, labels=2, ranges=((0, 1), (-1, 1)))
    evaluator = LabelEvaluator(attributes, inverted, count=300)
    table = evaluator.table(ACGAN(small, inverted.shape), inverted)
    sides = label_sides(inverted, "valid") > 0.5
    told = attributes(inverted.valid.pixels).attributes
    assert told is not None
    shares = {
        f"{'' if upper else 'not '}{name}": float(
            (told == sides)[sides[:, i] == upper, i].float().mean()
        )
        for i, name in enumerate(inverted.attribute_names)
        for upper in (False, True)
    }
    assert {row[0]: row[-1] for row in table.rows} == {k: f"{v:.1%}" for k, v in shares.items()}
    assert min(shares.values()) < 1, "else training images would do as well"
    assert evaluator.floor["label_worst"] == pytest.approx(min(shares.values()))


def test_attributes_stand_in_for_classes(
    inverted: ImageSplits, attributes: Extractor, cache: Path, make_context: MakeContext
) -> None:
    context = make_context()
    theirs = context.run.paths.cache
    theirs.mkdir()
    for file in cache.glob("extractor-*"):
        if attributes.key in file.name:
            shutil.copy(file, theirs)
    evaluator = StudyEvaluators(context.run, inverted, context.queue, labelled=True).own
    assert evaluator.extractor.hash == attributes.hash
    assert evaluator.labels is not None
    assert evaluator.labels.extractor.hash == attributes.hash
    assert "modes" not in evaluator.floor
    assert set(evaluator.record["floor"]) >= LABEL_MEASURES.keys()
    made = [file for file in theirs.glob("extractor-*") if attributes.key not in file.name]
    assert not made, "no other classifier was trained"
