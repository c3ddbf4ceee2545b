"""How a report writes values, parameters and verdicts.

format_values({"lr": 0.00312, "optimizer": "adam"})      # lr 0.00312, optimizer adam
verdict_in_words("d_won")                                # D won
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.evaluation.gan_diagnosis import WORDS
from storage.files.markdown import format_cell


def format_values(values: Mapping[str, Any]) -> str:
    """Return names and values on one line."""
    return ", ".join(f"{name} {format_cell(value)}" for name, value in values.items())


def verdict_in_words(value: str) -> str:
    """Return a verdict in words; text that is no verdict stays as it is."""
    return {str(kind): words for kind, words in WORDS.items()}.get(value, value)
