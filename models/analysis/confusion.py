"""The confusion matrix of a classifier, its table and its picture.

Shape legend: N images, K classes; matrix (K, K) counts, rows true, columns predicted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.data.images import Images
from models.figures.canvas import INK, new_figure, own_style, save_figure
from models.results import Table

LARGEST = 32.0  # inches a side: 16 metres for 1,000 classes fit into no memory
NAMED = 100  # classes whose names can be read on the axes

Counts = NDArray[np.int64]


def confusion_matrix(model: nn.Module, images: Images, classes: int) -> Counts:
    """Return counts (K, K) over ``images``; ``model`` gives scores (N, K)."""
    total = torch.zeros(classes * classes, dtype=torch.int64)
    for batch in images.batches():
        assert batch.labels is not None
        found = model(batch.images).argmax(1)  # (N,)
        pairs = batch.labels * classes + found
        total += torch.bincount(pairs.cpu(), minlength=classes * classes)
    counts: Counts = total.view(classes, classes).numpy()
    return counts


def accuracy(matrix: Counts) -> float:
    """Return the share of images on the diagonal."""
    return float(np.trace(matrix) / matrix.sum())


def class_table(matrix: Counts, classes: tuple[str, ...]) -> Table:
    """Return precision, recall and F1 of each class; a dash where a class never occurs."""
    right = np.diag(matrix).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = right / matrix.sum(0)
        recall = right / matrix.sum(1)
        f1 = 2 * right / (matrix.sum(0) + matrix.sum(1))
    rows: list[tuple[Any, ...]] = [
        (name, int(matrix[index].sum()), *(_share(v[index]) for v in (precision, recall, f1)))
        for index, name in enumerate(classes)
    ]
    return Table(
        name="classes",
        title="Classes",
        columns=("class", "test images", "precision", "recall", "F1"),
        rows=tuple(rows),
        seeds=1,
        measured_on=f"{matrix.sum():,} test images",
    )


def _share(value: float) -> float | str:
    """Return a share as a table takes it: JSON has no NaN."""
    return float(value) if np.isfinite(value) else "-"


@own_style()
def draw_confusion(path: Path, matrix: Counts, classes: tuple[str, ...], *, title: str) -> None:
    """Draw the counts in their cells, coloured by the share of the true class."""
    from matplotlib.ticker import PercentFormatter

    size = min(max(4.2, 0.62 * len(classes) + 2.0), LARGEST)
    figure = new_figure(size + 1.2, size)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 30:  # more would not be legible
        for row, column in np.ndindex(*matrix.shape):
            if matrix[row, column]:
                color = "white" if shares[row, column] > 0.5 else INK
                axes.text(
                    column, row, f"{matrix[row, column]}", ha="center", va="center",
                    fontsize=8, color=color,
                )  # fmt: skip
    if len(classes) <= NAMED:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    bar = figure.colorbar(drawn, fraction=0.046, pad=0.03, label="share of the true class")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    shown = f"{title} · accuracy {accuracy(matrix):.2%}"
    axes.set_title(shown, loc="left", fontsize=10, color=INK)
    figure.set_layout_engine("tight")
    save_figure(figure, path)
