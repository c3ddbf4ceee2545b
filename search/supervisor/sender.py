"""Delivers messages to a receiver in a thread of its own, so that a slow receiver delays nothing.

    sender = Sender(receiver)
    sender.send({"event": "done"})       # returns at once
    sender.problems                      # lines that its owner shows
    sender.close()                       # waits a few seconds for messages on their way

If the receiver certainly got nothing, the message is sent again. If the receiver is late it is not,
because it may have arrived.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from search.receiver import TIMEOUT, NotDelivered, Receiver

PAUSES = (2.0, 10.0)  # seconds before a receiver that received nothing is tried again
FAREWELL = TIMEOUT + 2  # seconds that the end of a command waits at most


class Sender(threading.Thread):
    """Delivers messages one after the other, while its owner does something else.

    problems: lines that the owner shows, each once
    """

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(name="notify", daemon=True)
        self.receiver = receiver
        self.problems: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._said: set[str] = set()

    def send(self, message: dict[str, Any]) -> None:
        """Deliver a message as soon as the earlier ones are delivered."""
        if not self.is_alive():
            self.start()
        self._messages.put(message)

    def run(self) -> None:
        while (message := self._messages.get()) is not None:
            self._deliver(message)

    def close(self) -> bool:
        """Wait for messages on their way. False: the receiver takes too long."""
        self._closing.set()
        if not self.is_alive():
            return True
        self._messages.put(None)
        self.join(FAREWELL)
        return not self.is_alive()

    def _deliver(self, message: dict[str, Any]) -> None:
        for pause in (*PAUSES, None):
            try:
                self.receiver.deliver(message)
            except NotDelivered as error:
                if error.may_repeat and pause is not None and not self._closing.wait(pause):
                    continue
                self._note(f"NOTIFY: {self.receiver.shown} is not told ({error})")
            except Exception as error:  # its words may hold the address
                self._note(f"NOTIFY: {self.receiver.shown} is not told ({type(error).__name__})")
            return

    def _note(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self.problems.put(line)
