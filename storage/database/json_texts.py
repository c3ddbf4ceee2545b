"""JSON that stands as a text in an attribute of a study or a trial, whoever has written it.

parse_json('{"epochs": 20}')      # {"epochs": 20}
"""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Return what the text says. Raises `ValueError`, also for JSON that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
