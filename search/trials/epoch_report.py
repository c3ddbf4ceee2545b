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
