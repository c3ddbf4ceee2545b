"""The attributes of trials as views read them. Whoever shares the database may have written them.

    sound_attributes(trial.user_attrs)        # without those of our names that hold something else
    is_sound("epochs", [1, 2])                # False

An attribute that is not one of ours stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TEXTS = frozenset({"outcome", "reason", "verdict", "verdict_reason", "device", "host", "reference"})
NUMBERS = frozenset({"seconds", "bound", "violation"})
WHOLE = frozenset({"epochs", "verdict_epoch", "retries"})


def is_sound(name: str, value: object) -> bool:
    """Whether ``value`` is what genstudy writes under ``name``; frames hold integers as floats."""
    if name in TEXTS:
        return isinstance(value, str)
    if name in NUMBERS or name in WHOLE:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return math.isfinite(value) and (name in NUMBERS or float(value).is_integer())
    return True


def sound_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's attributes without those of genstudy's names that hold something else."""
    return {name: value for name, value in attributes.items() if is_sound(name, value)}
