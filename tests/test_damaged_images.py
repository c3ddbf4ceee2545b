"""Cached images that are damaged, gone or written to under a study: made again, the same values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.data.images import ImageSplits
from models.data.loading import open_images, prepare_images
from models.data.watching import open_watched
from models.errors import DataError, ImagesChanged
from models.sealed_files import whole_state
from models.seals import is_whole_content
from search.events import EpochEnded, Warned
from search.run import StudyRun
from search.setup.inputs import find_inputs
from search.setup.loading import load_study
from search.variables import read_variables
from search.worker.context import WorkerContext
from search.worker.images import open_run_images
from storage import curves
from tests.damages import cut, empty, flip, flip_in_place, zero, zero_in_place
from tests.trials import MakeContext, run_one, said_by
from tests.user import WriteStudy

EPOCHS = 5  # of a trial
SOURCE: dict[str, Any] = {"name": "digits", "root": ".", "shape": [1, 28, 28], "background": "none"}


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    return prepare_images("digits", root=tmp_path, cache=tmp_path / "cache", shape=(1, 28, 28))


def run_on(context: WorkerContext, cached: Path) -> StudyRun:
    """The run of a supervisor that has found the cached file whole."""
    state = [*astuple(whole_state(cached))]
    return replace(context.run, images=str(cached), image_source=SOURCE, image_state=state)


def mapped(make_context: MakeContext, cached: Path, **more: Any) -> WorkerContext:
    """A context whose images are mapped from the cached file, as a worker's are."""
    context = make_context(**more)
    context.run = run_on(context, cached)
    context.images, context.watched = open_run_images(context.run, context.tell)
    return context


def is_same(images: ImageSplits, others: ImageSplits) -> bool:
    return all(
        torch.equal(getattr(images, part).pixels, getattr(others, part).pixels)
        for part in ("train", "valid", "test")
    )


@pytest.mark.parametrize("damage", [flip, cut, empty, zero, Path.unlink])
def test_cached_images_that_are_damaged_or_gone_are_made_again(
    make_context: MakeContext, cached: Path, digits: ImageSplits, damage: Callable[[Path], None]
) -> None:
    context = make_context()
    context.run = run_on(context, cached)
    damage(cached)
    images, _ = open_run_images(context.run, context.tell)
    assert is_same(images, digits)
    said = said_by(context)
    assert len(said) == 1
    assert said[0].startswith(f"{cached.name} is ")


def test_the_next_command_makes_damaged_images_again(
    tmp_path: Path, cached: Path, digits: ImageSplits
) -> None:
    zero(cached)
    said: list[str] = []
    again = prepare_images(
        "digits", root=tmp_path, cache=tmp_path / "cache", shape=(1, 28, 28), tell=said.append
    )
    assert again == cached
    assert is_same(open_images(cached), digits)
    assert len(said) == 1
    assert "set-aside" in said[0]


def test_the_cached_images_of_another_set_are_not_used(tmp_path: Path, cached: Path) -> None:
    other = prepare_images("digits", root=tmp_path, cache=tmp_path / "cache", shape=(1, 8, 8))
    cached.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match="it belongs to another set"):
        open_images(cached)


def test_cached_images_of_an_older_version_are_read_and_sealed(
    tmp_path: Path, cached: Path, digits: ImageSplits
) -> None:
    with safe_open(cached, framework="pt") as file:
        about = {"about": file.metadata()["about"]}
    save_file(load_file(cached), cached, metadata=about)
    said: list[str] = []
    prepare_images(
        "digits", root=tmp_path, cache=tmp_path / "cache", shape=(1, 28, 28), tell=said.append
    )
    assert said == []
    assert is_whole_content(cached.read_bytes())
    with safe_open(cached, framework="pt") as file:
        assert "sha256" in file.metadata()
    assert is_same(open_images(cached), digits)


@pytest.mark.parametrize("damage", [zero_in_place, flip_in_place])
def test_images_that_change_under_a_trial_cost_an_epoch_and_no_value(
    make_context: MakeContext, cached: Path, damage: Callable[[Path], None]
) -> None:
    undisturbed = run_one(make_context(epochs=EPOCHS, runs="a"))
    context = mapped(make_context, cached, epochs=EPOCHS, runs="b")
    heard: list[Any] = []

    def hear(event: object) -> None:
        heard.append(event)
        if isinstance(event, EpochEnded) and event.epoch == 2:
            damage(cached)

    context.send = hear
    with pytest.raises(ImagesChanged):
        run_one(context)
    assert [event.epoch for event in heard if isinstance(event, EpochEnded)] == [1, 2]
    (line,) = [event.message for event in heard if isinstance(event, Warned)]
    assert "changed while they were in use: they are read again" in line
    again = make_context(epochs=EPOCHS, runs="b")
    again.run = context.run
    again.images, again.watched = open_run_images(context.run, again.tell)
    ended = run_one(again)
    assert (ended["number"], ended["value"]) == (0, undisturbed["value"])
    assert curves("small", storage=context.run.storage)["epoch"].tolist() == [1, 2, 3, 4, 5]


def test_a_file_that_is_touched_removed_or_replaced_changes_no_images(cached: Path) -> None:
    images, watched = open_watched(cached)
    first = images.train.pixels.clone()
    cached.touch()
    watched.check()
    content = cached.read_bytes()
    cached.unlink()
    watched.check()
    cached.write_bytes(bytes(len(content)))
    watched.check()
    assert torch.equal(images.train.pixels, first)


def test_images_that_are_damaged_as_soon_as_they_are_made_are_made_again(
    tmp_path: Path, study_file: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(str(study_file()))
    damaged: list[Path] = []

    def damage_once(path: Path) -> ImageSplits:
        if not damaged:
            damaged.append(path)
            zero(path)
        return open_images(path)

    monkeypatch.setattr("search.setup.inputs.open_images", damage_once)
    variables = read_variables({"RUNS": str(tmp_path / "runs"), "DATA": "digits"})
    found = find_inputs(variables, study, Console(quiet=True))
    assert damaged == [found.cached]
    assert found.state == astuple(whole_state(found.cached))
