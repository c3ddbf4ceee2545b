"""The note of a trial in the dashboard: how it ended, how good it is, why, and how that looks.

    note = TrialNote(metric="mse", minimize=True, place="cpu of host")
    note.describe_progress({0: 0.3, 1: 0.2}, epochs=20)                 # while it runs
    note.describe_end("complete", {0: 0.3, 1: 0.2}, attributes)         # when it has ended
    note.pictures["samples.png"] = "/artifacts/1/7/..."                 # shown below the words

Epochs count from 1; the values of a trial are kept by Optuna's step, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search.trials.verdict_words import verdict_in_words
from search.words import format_count, format_duration
from storage.database.vectors import VIOLATION
from storage.files.markdown import escape_markup

Values = Mapping[int, float]  # by step


@dataclass
class TrialNote:
    """What the note of one trial says.

    metric: None where a person is to choose by the pictures alone
    place: where it runs; pictures: name -> address in the dashboard, in their order
    """

    metric: str | None
    minimize: bool
    place: str
    pictures: dict[str, str] = field(default_factory=dict)

    def describe_progress(self, reported: Values, *, epochs: int) -> str:
        """Return the note of a trial that has not ended, after some of its ``epochs``."""
        done = max(reported, default=-1) + 1
        words = [
            f"**Epoch {done} of {epochs}**",
            self._best(reported),
            f"on {escape_markup(self.place)}",
        ]
        return self._with_pictures([", ".join(filter(None, words))])

    def describe_pause(self, reported: Values) -> str:
        """Return the note of a trial that is interrupted."""
        done = format_count(max(reported, default=-1) + 1, "epoch")
        words = [f"**Interrupted** after {done}", self._best(reported)]
        return self._with_pictures([", ".join(filter(None, words)), "The next run goes on here."])

    def describe_rung(self, reported: Values) -> str:
        """Return the note of a trial that pauses at a rung."""
        done = format_count(max(reported, default=-1) + 1, "epoch")
        words = [f"**Paused** after {done}", self._best(reported)]
        why = "It goes on from here once it is among the best trials after this epoch."
        return self._with_pictures([", ".join(filter(None, words)), why])

    def describe_end(self, outcome: str, reported: Values, attributes: Mapping[str, Any]) -> str:
        """Return the note of a trial that ends. attributes: those of `Ending`"""
        done = max(reported, default=-1) + 1
        words = [f"**{outcome.capitalize()}** after {format_count(done, 'epoch')}"]
        words.append(self._best(reported))
        seconds = attributes.get("seconds")
        took = (
            ""
            if seconds is None
            else f"; {format_duration(seconds)} on {escape_markup(self.place)}"
        )
        parts = [", ".join(filter(None, words)) + took]
        if "bound" in attributes and self.metric is not None:
            parts.append(f"The pruner asked for better than {attributes['bound']:.5g}.")
        if VIOLATION in attributes:
            parts.append(
                f"It violates constraints, by {attributes[VIOLATION]:.5g} in all: it is not on the "
                "front."
            )
        if attributes.get("reason"):
            parts.append(escape_markup(str(attributes["reason"])))
        if "verdict" in attributes:
            kind = verdict_in_words(str(attributes["verdict"]))
            when = f"{'best in' if kind == 'healthy' else 'since'} epoch"
            why = escape_markup(str(attributes["verdict_reason"]))
            parts.append(f"**{kind}**, {when} {attributes['verdict_epoch']}: {why}")
        return self._with_pictures(parts)

    def _best(self, reported: Values) -> str:
        """Return ``mse **0.02** (epoch 3)``: the best value so far, and in which epoch."""
        finite = {step: value for step, value in reported.items() if math.isfinite(value)}
        if self.metric is None or not finite:
            return ""
        best = (min if self.minimize else max)(finite, key=lambda step: finite[step])
        return f"best {escape_markup(self.metric)} **{finite[best]:.6g}** in epoch {best + 1}"

    def _with_pictures(self, parts: list[str]) -> str:
        shown = [f"![{name.rpartition('.')[0]}]({place})" for name, place in self.pictures.items()]
        return "\n\n".join([*parts, *shown])
