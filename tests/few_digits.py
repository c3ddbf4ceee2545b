"""A third of the digits: 384 training, 96 validation and 120 test images, where these say enough.

    FEW_DIGITS = True      # in a test module: its fixtures and the commands of its user have these

What many tests ask (does a trial resume bit for bit, is every picture drawn) takes a third of the
time on a third of the images. What has to learn takes `all_digits`, or all in its whole module.
"""

from __future__ import annotations

from typing import Any

from models.data.torchvision_sets import DigitsSource

FEW = 600  # of 1,797
EPOCHS = 20  # of what judges samples of few: as right as after the 80 of genstudy
PROGRAM = "from tests.few_digits import take_few_digits; take_few_digits()\n"  # of a command
STEPS = ("lr=trial.", "batch_size=96, lr=trial.")  # the small study has four steps an epoch

_read_all = DigitsSource.read


def _read_few(source: DigitsSource, *given: Any, **named: Any) -> Any:
    import sklearn.datasets  # type: ignore[import-untyped]

    load = sklearn.datasets.load_digits

    def load_few() -> Any:
        found = load()
        found.images, found.target = found.images[:FEW], found.target[:FEW]
        return found

    sklearn.datasets.load_digits = load_few
    try:
        return _read_all(source, *given, **named)
    finally:
        sklearn.datasets.load_digits = load


def take_few_digits() -> None:
    """Let this process, and all that are forked from it, read no other digits."""
    DigitsSource.read = _read_few  # type: ignore[method-assign, assignment]


def take_all_digits() -> None:
    DigitsSource.read = _read_all  # type: ignore[method-assign]
