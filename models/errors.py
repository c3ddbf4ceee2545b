"""The errors of models/, and the checks that raise them.

Every message is one line: the value, what it must be, and what to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class ConfigError(ValueError):
    """A configuration value is outside its range; the message says which and what fits."""


class DivergedError(ArithmeticError):
    """A metric is NaN or infinite: training has diverged. Lower the learning rate."""

    def __init__(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epoch = epoch
        shown = ", ".join(f"{name} {value:g}" for name, value in metrics.items())
        super().__init__(f"diverged in epoch {epoch}: {shown}")


def require(name: str, value: Any, low: float, high: float) -> None:
    """Raise `ConfigError` unless ``low <= value <= high``, which NaN never satisfies."""
    if not low <= value <= high:
        raise ConfigError(f"{name}={value!r} is outside [{low:g}, {high:g}]")


def require_one_of(name: str, value: str, available: Iterable[str]) -> None:
    """Raise `ConfigError` unless ``value`` is one of ``available``."""
    available = list(available)
    if value not in available:
        raise ConfigError(unknown_name(name, value, available))


def unknown_name(kind: str, name: str, available: Iterable[str]) -> str:
    """Return ``unknown optimizer 'adma'; did you mean 'adam'? available: adam, sgd, adamax``."""
    names = list(available)
    hint = suggest_name(name, names)
    return f"unknown {kind} {short(repr(name))}; {hint}available: {', '.join(names)}"


def suggest_name(name: str, available: Iterable[str]) -> str:
    """Return ``did you mean 'adam'? `` with the name that was probably meant; empty: none is
    close."""
    in_any_case = {each.lower(): each for each in available}
    close = get_close_matches(name[:200].lower(), in_any_case, n=1)
    return f"did you mean {short(repr(in_any_case[close[0]]))}? " if close else ""


class DataError(ValueError):
    """The image set cannot be used; the message names the place and what to change."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # one line, whatever a file is called


class DataMissing(DataError):
    """The image set is not on this machine, and cannot be downloaded."""


class ImagesChanged(DataError):
    """Somebody wrote to the cached images while they were in use: the last epoch does not count."""


class TensorFileError(ValueError):
    """The file is damaged, or belongs to something else, or holds no tensors."""


class CheckpointError(ValueError):
    """The file is not a checkpoint of this model; delete it to start from the beginning."""


class ExportError(ValueError):
    """An export cannot be made or read, or does not compute what the live model computes."""


class ForeignFamily(ExportError):
    """An export's model is somebody's own class, which has to be given."""


class ExportDamaged(ExportError):
    """Files of an export are missing, or are not what was written."""


SHORTAGES = re.compile(
    "can't start new thread|pthread_create|too many open files|(cannot|can't) allocate memory|"
    "bad_alloc",
    re.IGNORECASE,
)


def is_shortage(error: BaseException) -> bool:
    """Whether memory, threads or open files ran out: then an error is not the fault of a file."""
    return isinstance(error, MemoryError) or SHORTAGES.search(str(error)) is not None


class ExtractorError(ValueError):
    """Values would be measured with another extractor than the one asked for."""


class StopRequested(Exception):
    """The caller asked to stop in the middle of an epoch, which is dropped; the last checkpoint
    counts."""


def short(text: str) -> str:
    """Return ``text`` on one line for a message; where it is long, its middle is left out."""
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:100]} ... {line[-100:]}"


def format_count(number: int, noun: str) -> str:
    """Return a number of things: ``1 image``, ``2 classes``, ``1,000 images``."""
    plural = noun + ("es" if noun.endswith(("s", "x", "sh", "tch")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def last_line(error: Exception) -> str:
    """Return the last line: of torchvision's download errors it says why the last mirror failed."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
