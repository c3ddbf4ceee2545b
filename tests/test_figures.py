"""Figures with the texts of users in them: every letter is shown as it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.analysis.confusion import draw_confusion
from models.figures import fonts
from models.figures.canvas import new_figure, save_figure
from models.figures.curves import draw_learning_curve, draw_lines
from models.figures.fonts import show_as_written
from models.figures.grids import draw_labelled, draw_rows, interpolation_figure, sample_figure
from models.figures.latent import Coloring, map_figure

ODD = ("$5_$10", r"a%b\c{", "日本 กขค", "שלום", "[/x]", "👩\u200d🦰", "$", r"$\frac{$", "_^")
WORDS = " ".join(ODD)
PIXELS = torch.rand(len(ODD), 1, 6, 6, generator=torch.Generator().manual_seed(0))


def confusion(path: Path) -> None:
    draw_confusion(path, np.eye(len(ODD), dtype=int), ODD, title=WORDS)


def rows(path: Path) -> None:
    draw_rows(path, dict.fromkeys(ODD, PIXELS), title=WORDS)


def labelled(path: Path) -> None:
    draw_labelled(path, PIXELS, ODD, [True] * len(ODD), title=WORDS)


def samples(path: Path) -> None:
    save_figure(sample_figure(PIXELS, WORDS), path)


def interpolations(path: Path) -> None:
    save_figure(interpolation_figure([PIXELS], [(ODD[0], ODD[2])], WORDS), path)


def points(path: Path) -> None:
    places = np.random.default_rng(0).random((len(ODD), 2))
    coloring = Coloring(by=WORDS, values=np.arange(len(ODD)), names=ODD)
    save_figure(map_figure(places, coloring, WORDS, axes=(WORDS, WORDS)), path)


def a_scale(path: Path) -> None:
    places = np.random.default_rng(0).random((3, 2))
    save_figure(map_figure(places, Coloring(by=ODD[0], values=np.arange(3.0)), WORDS), path)


def curve(path: Path) -> None:
    draw_learning_curve(path, {name: [1e-5, 1.0] for name in ODD[:4]}, metric=WORDS, title=WORDS)


def lines(path: Path) -> None:
    line = (torch.tensor([1.0, 2.0]), torch.tensor([1e-6, 1.0]))
    panels = {WORDS: {ODD[0]: line, ODD[2]: line}}
    draw_lines(path, panels, x=WORDS, y=WORDS, title=WORDS, marks={1.5: ODD[0]})


FIGURES = (confusion, rows, labelled, samples, interpolations, points, a_scale, curve, lines)


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_a_users_words_cost_no_figure(tmp_path: Path, draw: Callable[[Path], None]) -> None:
    """Warnings are errors here, that of a letter without a glyph among them."""
    draw(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as drawn:
        assert drawn.width > 100


def test_a_dollar_is_a_dollar_and_a_power_of_ten_stays_one(tmp_path: Path) -> None:
    figure = new_figure(3, 3)
    axes = figure.add_subplot()
    axes.plot([1, 2], [1e-6, 1])
    axes.set_yscale("log")
    axes.set_xticks([1, 2], ["$5_$10", "b"])
    axes.set_title("$5_$10")
    save_figure(figure, tmp_path / "x.png")
    assert not axes.title.get_parse_math()
    (price,) = [label for label in axes.get_xticklabels() if "$" in label.get_text()]
    assert not price.get_parse_math()
    powers = [label for label in axes.get_yticklabels() if fonts.FORMULA in label.get_text()]
    assert powers
    assert all(label.get_parse_math() for label in powers)


def test_letters_that_the_own_font_lacks_come_from_those_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fonts, "installed_families", lambda: [fonts.OWN, "Noto Sans CJK SC"])
    figure = new_figure(2, 2)
    own, other = figure.text(0, 0, "żółć שלום"), figure.text(0, 1, "日本")
    before = own.get_fontfamily()
    show_as_written(figure)
    assert own.get_fontfamily() == before
    assert other.get_fontfamily() == [fonts.OWN, "Noto Sans CJK SC"]
