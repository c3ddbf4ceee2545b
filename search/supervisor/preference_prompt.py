"""The person who chooses, as one run sees them (`search.strategies.preference`).

    prompt = PreferencePrompt(queue, total=50, say=print)
    prompt.refresh()         once a tick
    prompt.has_room          whether a new trial may begin
    prompt.ask()             says where and among which trials to choose, once for each question
    prompt.is_decided        whether all trials are trained, and one is left

In an ordinary study there is always room and nothing to decide.
"""

from __future__ import annotations

from collections.abc import Callable

from search.spelling import spell
from search.trials.queue import TrialQueue
from search.words import format_count
from storage.database.preferences import Choices
from storage.database.trial_states import count_ended

PAGE = "http://127.0.0.1:8080/dashboard/studies/{}"  # where it is served by default


class PreferencePrompt:
    """Asks a person to choose.

    total: trials of the study in all; say: prints a question
    """

    def __init__(self, queue: TrialQueue, total: int, say: Callable[[str], None]) -> None:
        self.queue = queue
        self.total = total
        self.say = say
        self.choices: Choices | None = None  # as they were at the last `refresh`
        self._all_trained = False
        self._asked: tuple[int, ...] = ()  # among which trials

    def refresh(self) -> None:
        """Read what the person has chosen so far."""
        if self.queue.shown is not None:
            self._all_trained = count_ended(self.queue.count()) >= self.total  # before the choices
            self.choices = self.queue.read_choices()

    @property
    def has_room(self) -> bool:
        """Whether a new trial may begin."""
        if self.choices is None or self.queue.shown is None:
            return True
        return self.choices.has_room(self.queue.shown)

    @property
    def is_decided(self) -> bool:
        """Whether nothing is left to choose."""
        if self.choices is None:
            return True
        return self._all_trained and len(self.choices.shown) <= 1

    @property
    def nobody_chose(self) -> bool:
        """Whether trials wait for a choice and none was ever made."""
        return self.choices is not None and not self.choices.clicks and len(self.choices.shown) > 1

    def ask(self) -> None:
        """Say once what the person has to choose, if nothing else is left to do."""
        if self.choices is None or self.choices.training or self.is_decided:
            return
        if not self._all_trained and self.has_room:
            return
        if self.choices.shown != self._asked:
            self._asked = self.choices.shown
            self.say(self._question(self.choices))

    def _question(self, choices: Choices) -> str:
        numbers = ", ".join(str(number) for number in choices.shown)
        page = PAGE.format(self.queue.study_id)
        if self._all_trained:
            left = len(choices.shown) - 1
            after = (
                f"{format_count(left, 'choice')} are left" if left > 1 else "it is the last choice"
            )
        else:
            after = "a click on the worst starts the next trial"
        serve = spell("dashboard")
        return f"trials {numbers} wait for your choice: {serve}, then {page} ({after})"
