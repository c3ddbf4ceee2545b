"""How numbers, counts, times and other people's words read, in a terminal as in a log.

format_count(1, "trial")                  1 trial
format_pace(2.5)                          2.5 s/epoch
format_parameters({"lr": 0.00312})        lr 0.00312
show_text("red\x1b[31m")                  the same ten characters, none of which turns text red
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from storage.files.markdown import format_count

__all__ = [
    "format_count", "format_duration", "format_items", "format_pace", "format_parameters",
    "format_value", "join_words", "name_seed", "show_text",
]  # fmt: skip

# Characters that steer a terminal, end a line, or turn the direction of what follows.
STEERING = ("Cc", "Cs", "Zl", "Zp")
TURNING = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def show_text(text: object) -> str:
    """Return ``text`` so that a terminal shows every character of it and obeys none."""
    written = str(text)
    if written.isascii() and written.isprintable():
        return written
    return "".join(
        letter.encode("unicode_escape").decode()
        if letter in TURNING or unicodedata.category(letter) in STEERING
        else letter
        for letter in written
    )


def format_value(value: object) -> str:
    """Return a parameter's value: as it was typed where that is short, else with three digits.

    What is not 1 never reads as 1: 0.99996 is shown whole.
    """
    if not isinstance(value, float):
        return show_text(value)
    typed = f"{value:g}" if value.is_integer() and abs(value) < 1e6 else repr(value)
    if len(typed) <= 7:
        return typed
    digits = 6 if abs(value) >= 1000 else 3
    while digits < 15 and float(f"{value:.{digits}g}") == 1.0 != value:
        digits += 1
    return f"{value:.{digits}g}"


def format_items(parameters: Mapping[str, Any]) -> list[str]:
    """Return ``channels 9`` and ``lr 0.00312``, one text a parameter."""
    return [f"{show_text(name)} {format_value(value)}" for name, value in parameters.items()]


def format_parameters(parameters: Mapping[str, Any]) -> str:
    """Return ``channels 9, lr 0.00312``."""
    return ", ".join(format_items(parameters))


def join_words(words: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def name_seed(repeat: int) -> str:
    """Return what follows ``trial 7`` where one of its further seeds is meant: ``, seed 2``."""
    return "" if repeat == 1 else f", seed {repeat}"


def format_duration(seconds: float) -> str:
    """Return ``8 s``, ``3 min``, ``2 h 05 min``, ``4 days 2 h``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(minutes / 60)
    return f"{hours // 24} days {hours % 24} h"


def format_pace(seconds: float) -> str:
    """Return how long an epoch takes: ``4.0 epochs/s``, ``2.5 s/epoch``, ``3 min/epoch``."""
    if seconds < 1:
        rate = 1 / max(seconds, 1e-9)
        return f"{rate:.1f} epochs/s" if rate < 100 else f"{rate:.0f} epochs/s"
    return f"{seconds:.1f} s/epoch" if seconds < 99.95 else f"{format_duration(seconds)}/epoch"


def format_size(size: int) -> str:
    """Return ``120 kB``, ``3.4 MB``."""
    return f"{size / 1e6:.1f} MB" if size >= 999_500 else f"{size / 1e3:.0f} kB"
