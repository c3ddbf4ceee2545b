"""What one epoch of a trial reports: to Optuna, and to the table of metrics beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EpochReport:
    """epoch: from 1; value: of the study's metric; measured: all that was measured, by name"""

    epoch: int
    value: float
    measured: Mapping[str, float]


def name_measures(
    train: Mapping[str, float],
    valid: Mapping[str, float],
    seconds: float,
    judging: float | None = None,
) -> dict[str, float]:
    """Return all that was measured in an epoch, by name: ``train_mse``, ``epoch_seconds``.

    judging: seconds that the samples took; None: none were drawn
    """
    measured = {f"train_{name}": number for name, number in train.items()}
    measured |= {f"valid_{name}": number for name, number in valid.items()}
    measured["epoch_seconds"] = seconds
    if judging is not None:
        measured["judge_seconds"] = judging
    return measured
