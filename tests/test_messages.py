"""What supervisor and worker say to each other arrives as it was sent."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args

import pytest

from search.events import Event, Gone
from search.jobs import Job, Retrain, SetUp
from search.messages import Message, read_message, write_message
from search.run import SourceFile, StudyRun

RUN = StudyRun(
    name="cae", study="cae-digits", storage="sqlite:///x.db", runs="runs", images="i.safetensors",
    seed=0, trials=4, epochs=2, retrain_epochs=9, revision="abc", token="t", memory=1.5,
)  # fmt: skip
EXAMPLES: dict[str, Any] = {
    "run": RUN, "parameters": {"lr": 1e-3, "name": "ä", "none": None}, "value": 0.1 + 0.2,
    "seconds": 1.5, "best": 0.25, "valid": 0.5, "test": None, "number": 7, "rank": 1, "epoch": 3,
    "epochs": 20, "best_epoch": 2, "sources": {"mine": SourceFile(path="m.py", content="\xfc")},
}  # fmt: skip


def example(kind: type[Any]) -> Message:
    """A message of that kind, all fields without a default set."""
    names = [entry.name for entry in fields(kind) if entry.default is MISSING]
    message: Message = kind(**{name: EXAMPLES.get(name, f"some {name}") for name in names})
    return message


SENT = [kind for kind in (*get_args(Job), *get_args(Event)) if kind is not Gone]


@pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.__name__)
def test_every_message_arrives_as_it_was_sent(kind: type[Any]) -> None:
    assert is_dataclass(kind)
    line = write_message(example(kind))
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert read_message(line) == example(kind)


def test_values_that_are_not_finite_arrive() -> None:
    assert write_message(SetUp(run=RUN, device="cpu", log="l", owner="o")) != ""
    infinite = read_message('{"type": "Retrained", "number": 1, "epochs": 1, "ended_by": "x", '
                            '"best_epoch": 1, "best": Infinity}')  # fmt: skip
    assert infinite.best == float("inf")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line",
    [
        write_message(Retrain(number=7))[:-5],
        "",
        "[]",
        '{"type": "Nothing"}',
        '{"type": "Retrain"}',
        '{"number": 7}',
        '{"type": "SetUp", "run": {}, "device": "cpu", "log": ""}',
    ],
)
def test_a_line_that_is_no_message_is_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # a decoder's, too
        read_message(line)
