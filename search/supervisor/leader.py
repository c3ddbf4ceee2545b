"""The best trial so far, or with several goals those that none beats, as a display names them.

leader = RunningLeader(spec)
leader.mark(7, [0.0124], {"lr": 0.003}, violates=False)     # "*best"
leader.describe(80)                                         # lines of at most 80 columns
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.front import RunningFront
from search.study import StudySpec
from search.supervisor.progress_lines import fit_items, pack
from search.words import format_items


class RunningLeader:
    """Takes in the values of trials as they end.

    marks_best: whether values decide; False where a person does
    best: value, number and parameters of the best; None with several goals, which have `front`
    """

    def __init__(self, spec: StudySpec, *, marks_best: bool = True) -> None:
        self.spec = spec
        self.marks_best = marks_best
        self.forget()

    def forget(self) -> None:
        """Know of no trial: they are not in the database any more."""
        self.best: tuple[float, int, Mapping[str, Any]] | None = None
        self.front = RunningFront(self.spec.goals)

    def mark(
        self,
        number: int,
        values: Sequence[float],
        parameters: Mapping[str, Any],
        *,
        violates: bool,
    ) -> str:
        """Note the values of a trial, if it is complete.

        Return ``*best`` or ``*front`` if no other trial is better so far, and otherwise nothing.
        """
        if not values or violates or not self.marks_best:
            return ""
        if self.spec.has_several_goals:
            return "*front" if self.front.add(number, values) else ""
        if not self.spec.is_better(values[0], self.best[0] if self.best else None):
            return ""
        self.best = (values[0], number, parameters)
        return "*best"

    def describe(self, width: int) -> list[str]:
        """Return lines that name the best, or how many nothing beats; none if nothing ended."""
        if self.best is not None:
            value, number, parameters = self.best
            start = f"best {value:.6g} (trial {number})"
            return fit_items(start, format_items(parameters), width=width)
        if self.front.values:
            return pack([self.front.describe()], width=width, indent="  ")
        return []
