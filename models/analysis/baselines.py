"""Baselines that a classifier on codes has to beat, measured on the same images.

Shape legend: N images, D numbers an image, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.analysis.confusion import Counts, accuracy, confusion_matrix
from models.base import Model, Note
from models.data.images import Images, ImageSplits
from models.results import Table
from models.seeds import derive_seed
from models.training.loop import fit

EPOCHS = 20  # for the head on the random encoder: its validation accuracy is flat by then
STRENGTHS = (0.01, 0.1, 1.0)  # inverse regularisations of a regression; validation chooses one
ITERATIONS = 300

Floats = NDArray[np.float64]


def compare_with_baselines(
    matrix: Counts,
    images: ImageSplits,
    progress: Note,
    *,
    name: str,
    width: int,
    random_encoder: Callable[[int], Model],
) -> Table:
    """Return the test accuracies of a classifier on codes, and of its baselines.

    matrix: confusions (K, K) of the classifier on the test images; name: its name in the table
    width: numbers in the code of an image
    random_encoder: seed -> a classifier with the same head on an encoder that was never trained
    """
    progress("logistic regression on pixels")
    raw = _pixels(images)
    rows = [("logistic regression on the pixels", raw[0].shape[1], _logistic_accuracy(images, raw))]
    kept = min(width, *raw[0].shape)
    progress(f"logistic regression on {kept} principal components")
    rows.append(
        (
            f"PCA-{kept} + logistic",
            kept,
            _logistic_accuracy(images, _principal_components(raw, kept)),
        )
    )
    progress("the same head on a random encoder")
    found = _random_encoder_accuracy(random_encoder, images, progress)
    rows.append(("this head, random encoder", width, found))
    rows.append((name, width, accuracy(matrix)))
    return Table(
        name="baselines",
        title="Accuracy on the test images",
        columns=("classifier", "numbers an image", "test accuracy"),
        rows=tuple(rows),
        note=f"Trained on the same {len(images.train):,} images; regularisation and epoch chosen "
        f"on the {len(images.valid):,} validation images.",
        seeds=1,
        measured_on=f"{len(images.test):,} test images",
    )


def _pixels(images: ImageSplits) -> list[Floats]:
    """Return the pixels of train, valid and test: (N, D) in [0, 1] each."""
    parts: list[Images] = [images.train, images.valid, images.test]
    return [part.pixels.flatten(1).cpu().numpy().astype(np.float64) / 255 for part in parts]


def _principal_components(parts: list[Floats], width: int) -> list[Floats]:
    """Return principal components of the training images, scaled to unit variance."""
    from sklearn.decomposition import PCA

    pca = PCA(width, whiten=True, svd_solver="covariance_eigh").fit(parts[0])
    return [pca.transform(part) for part in parts]


def _logistic_accuracy(images: ImageSplits, parts: list[Floats]) -> float:
    """Return the test accuracy of the regression that does best on the validation images."""
    train, valid, test = parts
    best = max(
        _regressions(train, _labels(images.train)), key=lambda r: _valid_accuracy(r, valid, images)
    )
    return float(best.score(test, _labels(images.test)))


def _regressions(train: Floats, labels: NDArray[np.int64]) -> Iterator[Any]:
    """Yield a fitted regression for each of `STRENGTHS`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    for strength in STRENGTHS:
        with warnings.catch_warnings():
            # it stops after ITERATIONS: the last digit of an accuracy is not worth more
            warnings.simplefilter("ignore", ConvergenceWarning)
            yield LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3).fit(train, labels)


def _valid_accuracy(regression: Any, valid: Floats, images: ImageSplits) -> float:
    return float(regression.score(valid, _labels(images.valid)))


def _labels(images: Images) -> NDArray[np.int64]:
    assert images.labels is not None
    labels: NDArray[np.int64] = images.labels.cpu().numpy()
    return labels


def _random_encoder_accuracy(
    build: Callable[[int], Model], images: ImageSplits, progress: Note
) -> float:
    """Return the test accuracy of the epoch that does best on the validation images."""
    seed = derive_seed(0, "random encoder")
    other = build(seed)
    best, test = -1.0, 0.0
    for result in fit(other, images, epochs=EPOCHS, seed=seed):
        progress(f"a random encoder, epoch {result.number}/{EPOCHS}")
        if result.valid["accuracy"] > best:
            best = result.valid["accuracy"]
            found = confusion_matrix(other.eval(), images.test, len(images.classes))
            test = accuracy(found)
            other.train()
    return test
