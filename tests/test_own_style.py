"""Figures look the same under anybody's settings, and no error in drawing costs a trial."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch

from models.analysis.confusion import draw_confusion
from models.cae import CAE
from models.data.images import ImageSplits
from models.evaluation.gan_diagnosis import Health
from models.evaluation.gan_figure import draw_game
from models.figures.canvas import figure_picture, new_figure, own_style, save_figure
from models.figures.curves import draw_learning_curve, draw_lines
from models.figures.grids import draw_labelled, draw_rows, interpolation_figure, sample_figure
from models.results import Picture
from search.__main__ import main
from search.events import Warned
from search.trials.retraining_record import RetrainingRecord, read_record
from search.worker.export_pictures import draw_pictures
from search.worker.retrained_model import load_retrained
from search.worker.retraining import retrain
from tests.trials import MakeContext, run_one

ROOT = Path(__file__).parent.parent
NOT_TEX = "$\\frac$ a_b % #{} $5"  # a name, which TeX and matplotlib's own formulas refuse
IMAGES = torch.linspace(0, 1, 3 * 28 * 28).reshape(3, 1, 28, 28)
LINE = (torch.arange(1.0, 6.0), torch.tensor([1.0, 0.1, 0.01, 1e-3, 1e-4]))

# What people have in a `matplotlibrc`, or set in a notebook.
SETTINGS: dict[Any, Any] = {
    "text.usetex": True,
    "font.family": "serif",
    "font.size": 22.0,
    "axes.facecolor": "black",
    "axes.grid": True,
    "axes.titlesize": "xx-large",
    "lines.linewidth": 5.0,
    "image.cmap": "jet",
    "path.sketch": (1, 100, 2),
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "figure.autolayout": True,
}


def draw_samples(path: Path) -> None:
    figure = lambda title: sample_figure(IMAGES, title)  # noqa: E731
    figure_picture("samples", "", NOT_TEX, figure).draw(path, NOT_TEX)


def draw_ways(path: Path) -> None:
    figure = lambda title: interpolation_figure([IMAGES], [(NOT_TEX, "b")], title)  # noqa: E731
    figure_picture("ways", "", "ways", figure).draw(path, NOT_TEX)


FIGURES: dict[str, Callable[[Path], None]] = {
    "samples": draw_samples,
    "interpolations": draw_ways,
    "rows": lambda path: draw_rows(path, {NOT_TEX: IMAGES}, title=NOT_TEX),
    "labelled": lambda path: draw_labelled(
        path, IMAGES, [NOT_TEX] * 3, [True, False, True], title=NOT_TEX
    ),
    "curve": lambda path: draw_learning_curve(
        path, {NOT_TEX: [3.0, 0.02, 0.001]}, metric=NOT_TEX, title=NOT_TEX, best_epoch=2
    ),
    "lines": lambda path: draw_lines(
        path, {NOT_TEX: {NOT_TEX: LINE}}, x="x", y=NOT_TEX, title=NOT_TEX, marks={2.0: NOT_TEX}
    ),
    "confusion": lambda path: draw_confusion(
        path, np.array([[3, 1], [0, 4]]), (NOT_TEX, "b"), title=NOT_TEX
    ),
    "game": lambda path: draw_game(
        path, [Health(epoch=n, loss_g=1.0 * n, loss_d=0.5) for n in (1, 2)], {}, NOT_TEX
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_same_under_any_settings(tmp_path: Path, name: str) -> None:
    plain, styled = tmp_path / "plain.png", tmp_path / "styled.png"
    FIGURES[name](plain)
    with matplotlib.rc_context(SETTINGS):
        FIGURES[name](styled)
        for setting, value in SETTINGS.items():  # which are the user's again
            found = matplotlib.rcParams[setting]
            assert found == value or found == [value]
    assert plain.read_bytes() == styled.read_bytes()


def test_every_function_that_draws_has_our_style() -> None:
    """Whoever calls `new_figure` is in `own_style`, or returns the figure to one that is."""
    for path in [*(ROOT / "models").rglob("*.py"), *(ROOT / "search").rglob("*.py")]:
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name == "new_figure":
                continue
            words = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
            returned = ast.unparse(function.returns) if function.returns else ""
            styled = any("own_style" in ast.unparse(each) for each in function.decorator_list)
            if "new_figure" in words:
                assert styled or returned == "Figure", f"{path}: {function.name}"
            if "save_figure" in words:
                inner = any("own_style" in ast.unparse(node) for node in function.body)
                assert styled or inner, f"{path}: {function.name}"


def test_commands_have_no_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    assert main(["no such command"]) == 2
    assert os.environ["MPLBACKEND"] == "agg"
    with own_style():
        assert type(new_figure(1, 1).canvas).__name__ == "FigureCanvasAgg"
    capsys.readouterr()


class Undrawable(CAE):
    """Its picture cannot be drawn."""

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture:
        def draw(path: Path, title: str) -> None:
            path.write_bytes(b"half a picture")
            raise ValueError("no font for this\nand a second line")

        return Picture(name="a/b", caption="", draw=draw)

    def pictures(self, images: ImageSplits, part: str) -> Iterator[Picture]:
        yield self.preview(images, part, 3)
        yield Picture(name="good", caption="", draw=lambda path, _: path.touch())
        raise KeyError("a mistake behind the good picture")


class Unseen(CAE):
    """What its picture is to show cannot be computed."""

    def preview(self, images: ImageSplits, part: str, count: int) -> Picture:
        raise KeyError("a mistake in preview")


@pytest.mark.parametrize("model", [Undrawable, Unseen])
def test_an_error_in_drawing_costs_no_trial(make_context: MakeContext, model: type[CAE]) -> None:
    context = make_context(model=model, epochs=1)
    row = run_one(context)
    assert (row["state"], row["outcome"]) == ("COMPLETE", "complete")
    assert row["no_picture"].startswith(("ValueError: no font", "KeyError: 'a mistake"))
    said = [event for event in context.heard if isinstance(event, Warned)]  # type: ignore[attr-defined]
    assert [event.what for event in said] == ["pictures of trials"]


def test_an_error_in_drawing_costs_no_export(make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context(model=Undrawable, epochs=1)
    run_one(context)
    retrain(context, 0)
    record = read_record(context.retraining_paths(0).record, token="t", trial=0)
    assert isinstance(record, RetrainingRecord)
    captions = draw_pictures(context, load_retrained(context, record), record, tmp_path)
    assert captions.keys() == {"learning_curve.png", "good.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == captions.keys()


def test_a_full_disk_is_said_of_the_whole_export(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context(epochs=1)
    run_one(context)
    retrain(context, 0)
    record = read_record(context.retraining_paths(0).record, token="t", trial=0)
    assert isinstance(record, RetrainingRecord)

    def full(path: Path, title: str) -> None:
        raise OSError(28, "No space left on device")

    shown = [Picture(name="x", caption="", draw=full)]
    monkeypatch.setattr(CAE, "pictures", lambda *_: shown)
    with pytest.raises(OSError, match="No space left"):
        draw_pictures(context, load_retrained(context, record), record, tmp_path)


def test_a_figure_of_a_name_is_saved_whatever_the_name(tmp_path: Path) -> None:
    @own_style()
    def draw(path: Path) -> None:
        figure = new_figure(2, 1)
        figure.text(0.1, 0.5, "$\\no formula {")
        save_figure(figure, path)

    draw(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000
