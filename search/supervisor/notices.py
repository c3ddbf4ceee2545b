"""Tells a receiver (NOTIFY) that the best improved, that the study failed, and that it is done.

    notices = Notices(receiver, queue, run, study.spec, say)
    notices.look_for_best()          # at every tick, and when one of our trials has ended
    notices.tell_failed("3 trials in a row failed for the same reason")
    notices.tell_done("the best is trial 24", value=0.0123)
    notices.close()                  # waits a few seconds for messages on their way

A study with several goals has no best trial, so a new best is not told there.

Each message is told once, also after restarts and with several machines. A machine claims a row in
the trial database before it sends the message (`storage.database.notices`). So a message is told
once **at most**: if a machine goes down between the two, its message is lost, but no message is
sent twice. If the receiver certainly got nothing, the message is sent again. If the receiver is
late it is not, because it may have arrived.
"""

from __future__ import annotations

import hashlib
import math
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from search.receiver import Receiver
from search.run import StudyRun
from search.study import StudySpec
from search.supervisor.sender import Sender
from search.trials.queue import TrialQueue
from search.words import format_count
from storage.database.notices import claim_notice, make_notices
from storage.database.transactions import read
from storage.database.trial_states import find_best

EVERY = 5.0  # seconds between two looks for a trial that ended elsewhere


class Notices:
    """Tells what happens in one study.

    say: shows a line to the user

    Raises `SQLAlchemyError` if the table of the messages cannot be made.
    """

    def __init__(
        self,
        receiver: Receiver,
        trials: TrialQueue,
        run: StudyRun,
        spec: StudySpec,
        say: Callable[[str], object],
    ) -> None:
        self.trials = trials
        self.run = run
        self.spec = spec
        self.say = say
        self.sender = Sender(receiver)
        self._told: set[str] = set()  # what is known to be told
        self._looked = float("-inf")
        trials.retry.wait_for(lambda: make_notices(trials.engine))

    def look_for_best(self, *, at_once: bool = False) -> None:
        """Tell of a new best trial, if the last look is old enough, or ``at_once``."""
        self._say_problems()
        if self.run.shown is not None or self.spec.has_several_goals:
            return  # a person ranks the trials, or none is the best of all
        if time.monotonic() - self._looked < EVERY and not at_once:
            return
        self._looked = time.monotonic()
        self.trials.retry.try_once(self._look)

    def tell_failed(self, reason: str) -> None:
        """Tell that an error has ended the study; the same error is told once."""
        kind = "".join(letter for letter in reason if not letter.isdigit())
        text = f"study {self.run.study} failed: {reason}"
        self._tell(f"failed {_digest(kind)}", {"event": "failed", "text": text, "reason": reason})

    def tell_done(self, words: str, **about: Any) -> None:
        """Tell that the study is done; with more TRIALS or EPOCHS it can be done another time.

        words: the result; about: the same as values
        """
        run, ended = self.run, self.trials.count_ended()  # a search may stop early
        verb = "has" if ended == 1 else "have"
        trials = f"{format_count(ended, 'trial')} {verb} ended"
        text = f"study {run.study} is done: {trials}, {words}"
        name = f"done {ended} x {run.epochs}"
        self._tell(name, {"event": "done", "text": text, **about})

    def close(self) -> None:
        """Wait a few seconds for what is on its way."""
        if not self.sender.close():
            shown = self.sender.receiver.shown
            self.say(f"NOTIFY: {shown} takes too long; whether it was told is not known")
        self._say_problems()

    def _look(self) -> None:
        trials, minimize = self.trials, self.spec.minimizes
        with read(trials.engine) as connection:
            best = find_best(connection, trials.study_id, minimize=minimize)
        if best is None or not math.isfinite(best.value):
            return
        name = f"best {best.number} {best.value!r}"  # more epochs may improve it
        if name in self._told:
            return
        go_on = trials.values_that_go_on(minimize=minimize).values()
        if not all(self.spec.is_better(best.value, value) for value in go_on):
            return  # with more EPOCHS, a trial that was complete and is better goes on
        ended = trials.count_ended()
        metric, value = self.spec.quality, best.value
        message = {
            "event": "best",
            "text": f"study {self.run.study}: trial {best.number} is the best so far, {metric} "
            f"{value:.6g}; {ended} of {format_count(self.run.trials, 'trial')} have ended",
            "trial": best.number,
            "value": value,
            "ended": ended,
            "parameters": trials.storage.get_trial(best.trial_id).params,
        }
        self._claim_and_send(name, message)

    def _tell(self, name: str, message: dict[str, Any]) -> None:
        if not self.trials.retry.try_once(lambda: self._claim_and_send(name, message)):
            self.say(
                f"NOTIFY: {self.sender.receiver.shown} is not told of the end: the trial database "
                "is away, and it says what was told before"
            )

    def _claim_and_send(self, name: str, message: dict[str, Any]) -> None:
        make_notices(self.trials.engine)  # an older state, without the table, may be put back
        is_first = claim_notice(self.trials.engine, self.run.token, name)
        self._told.add(name)
        if is_first:
            self.sender.send({**message, **self._common(name)})

    def _common(self, name: str) -> dict[str, Any]:
        """Return what every message has."""
        return {
            "id": _digest(f"{self.run.token} {name}"),
            "study": self.run.study,
            "metric": self.spec.quality,
            "trials": self.run.trials,
            "host": socket.gethostname(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _say_problems(self) -> None:
        while not self.sender.problems.empty():
            self.say(self.sender.problems.get())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
