"""How a supervisor and its workers talk: one JSON object a line, over two pipes.

    line = write_message(Retrain(number=7))
    message = read_message(line)               # the same message again

Jobs (`search.jobs`) go to a worker, events (`search.events`) come back. Every message is a frozen
dataclass. No other file knows how they look on the wire.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, TypeAlias, get_args

from search.events import Event, Gone
from search.jobs import DryRun, Job, SetUp
from search.run import StudyRun, read_sources

Message: TypeAlias = Job | Event

_TYPES: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in get_args(Message)
    if kind is not Gone  # nobody sends that
}


def write_message(message: Message) -> str:
    """Return ``message`` as one line, its end included."""
    return json.dumps({"type": type(message).__name__, **asdict(message)}) + "\n"


def read_message(line: str) -> Message:
    """Return the message in ``line``; raises `ValueError` for a line that a kill has cut off."""
    try:
        values: dict[str, Any] = json.loads(line)
        kind = _TYPES[values.pop("type")]
        if kind is SetUp:
            values["run"] = StudyRun.from_plain(values["run"])
        elif kind is DryRun:
            values["sources"] = read_sources(values["sources"])
        message: Message = kind(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{line[:100]!r} is not a message ({error})") from error
    return message
