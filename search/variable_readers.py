"""How the text of a variable is read: each reader gives a value, or says what is wrong with it.

    read_gpus("GPUS", "0,1")                 # (0, 1)
    whole_reader(1, 9)("TRIALS", "12")       # BadVariable: TRIALS='12' is not a whole number ...

`make help` works before the environment is made, so this file imports only the standard library
until a database's URL is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import BadVariable, unknown_name
from search.hints import folder_without_kind
from storage.errors import short

if TYPE_CHECKING:
    from search.receiver import Receiver

MOST = 1_000_000  # minutes, which are two years; or GiB
MOST_FUSED = 256  # trials of a worker
COLORS = {"white": "#ffffff", "black": "#000000"}
ENGINES = ("local", "slurm", "ray")
TRACKERS = ("tensorboard", "mlflow", "wandb")

Reader = Callable[[str, str], Any]  # (name, text) -> value, or raises `BadVariable`


def read_text(name: str, written: str) -> str:
    """Return the text as it is; the code that uses it checks it."""
    return written


def whole_reader(low: int, high: int = 1_000_000_000) -> Reader:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(name: str, written: str) -> int:
        if not (written.isascii() and written.isdigit() and low <= int(written[:20]) <= high):
            raise BadVariable(f"{name}={quote(written)} is not a whole number from {low} to {high}")
        return int(written)

    return read


def read_switch(name: str, written: str) -> bool:
    """Return whether a variable that is 0 or 1 is 1."""
    return bool(whole_reader(0, 1)(name, written))


def amount_reader(unit: str) -> Reader:
    """Return a reader of numbers above 0, in ``unit``."""

    def read(name: str, written: str) -> float:
        plain = written.isascii() and written.replace(".", "", 1).isdigit() and len(written) < 12
        if not (plain and 0 < float(written) <= MOST):
            raise BadVariable(
                f"{name}={quote(written)} is not a number of {unit} above 0, up to {MOST}"
            )
        return float(written)

    return read


def read_gpus(name: str, written: str) -> tuple[int, ...]:
    """Return the numbers of GPUs; none of them means the CPU."""
    if written.lower() == "none":
        return ()
    parts = [part.strip() for part in written.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 for part in parts):
        raise BadVariable(f"{name}={quote(written)} is neither 'none' nor numbers such as 0,1")
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) < len(numbers):
        raise BadVariable(
            f"{name}={quote(written)} names a GPU twice; WORKERS=N puts several on one"
        )
    return numbers


def read_fuse(name: str, written: str) -> int | None:
    """Return how many trials at most; None for auto."""
    word = written.lower()
    if word in ("auto", "none"):
        return None if word == "auto" else 1
    if not (word.isascii() and word.isdigit() and len(word) < 4 and 1 <= int(word) <= MOST_FUSED):
        raise BadVariable(
            f"{name}={quote(written)} is neither auto, none nor a whole number from 1 to "
            f"{MOST_FUSED}"
        )
    return int(word)


def read_path(name: str, written: str) -> Path:
    """Return the absolute path, so that it means the same place from everywhere."""
    try:
        return Path(written).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise BadVariable(f"{name}={quote(written)}: no such user; write the path out") from error


def read_data(name: str, written: str) -> str:
    """Return the set's name; a folder becomes absolute."""
    kind, colon, place = written.partition(":")
    if kind == "folder" and colon and place:
        return f"folder:{read_path(name, place)}"
    if mistake := folder_without_kind(written):
        raise BadVariable(mistake)
    return written


def word_reader(word: str, effect: str) -> Reader:
    """Return a reader of one word, in any case; ``effect`` says what it does."""

    def read(name: str, written: str) -> str:
        if written.lower() != word:
            raise BadVariable(f"{name}={quote(written)} is not '{word}', which {effect}")
        return word

    return read


def read_engine(name: str, written: str) -> str:
    """Return one of `ENGINES`."""
    word = written.lower()
    if word not in ENGINES:
        raise BadVariable(unknown_name("engine", written, ENGINES))
    return word


def read_trackers(name: str, written: str) -> tuple[str, ...]:
    """Return the names, which commas separate, each once."""
    words = [word.strip().lower() for word in written.split(",") if written]
    for word in words:
        if word not in TRACKERS:
            raise BadVariable(unknown_name("tracker", word, TRACKERS))
    return tuple(dict.fromkeys(words))


def read_options(name: str, written: str) -> dict[str, str]:
    """Return the options, which commas separate: ``partition=gpu,time=240``."""
    found: dict[str, str] = {}
    for part in written.split(","):
        option, equals, value = (text.strip() for text in part.partition("="))
        if not (equals and re.fullmatch("[a-z][a-z_-]*", option) and value):
            raise BadVariable(
                f"{name}={quote(written)}: {quote(part)} is no option=value; separate "
                "options by commas, as in 'partition=gpu,time=240'"
            )
        if option.replace("-", "_") in found:
            raise BadVariable(f"{name}={quote(written)} gives {option} twice; give it once")
        found[option.replace("-", "_")] = value
    return found


def read_tries(name: str, written: str) -> tuple[dict[str, str], ...]:
    """Return sets of parameters as texts: ``lr=0.001 latent=27; lr=0.01``."""
    found = []
    for part in filter(str.strip, written.split(";")):
        values: dict[str, str] = {}
        for word in part.split():
            parameter, equals, value = word.partition("=")
            if not (parameter and equals and value):
                raise BadVariable(
                    f"{name}={quote(written)}: {quote(word)} is no parameter=value; separate "
                    "parameters by spaces, and sets of them by semicolons, as in "
                    "'lr=0.001 latent=27; lr=0.01'"
                )
            if parameter in values:
                raise BadVariable(f"{name}={quote(written)} gives {parameter} twice; give it once")
            values[parameter] = value
        found.append(values)
    return tuple(found)


def read_warm(name: str, written: str) -> tuple[str, ...]:
    """Return the studies, which commas separate."""
    found = [part.strip() for part in written.split(",")] if written else []
    if not all(found):
        raise BadVariable(
            f"{name} lacks a name beside a comma; separate studies by commas, as in 'cae,old'; in "
            "an address a comma is %2C"
        )
    if len(set(found)) < len(found):
        raise BadVariable(f"{name} names a study twice; name it once")
    return tuple(found)


def read_names(name: str, written: str) -> tuple[tuple[str, ...], ...]:
    """Return the studies, each with the names of its runs."""
    groups = [part.split("+") for part in written.split(",")]
    found = tuple(tuple(each.strip() for each in group) for group in groups)
    if not all(each for group in found for each in group):
        raise BadVariable(
            f"{name}={quote(written)}: a name is missing; separate studies by commas, and runs "
            "of one study by +, as in 'a1+a2,b1+b2'"
        )
    return found


def read_background(name: str, written: str) -> str:
    """Return the colour as ``#rrggbb``, or ``none``."""
    word = written.lower()
    color = COLORS.get(word, word if word.startswith("#") else f"#{word}")
    if word != "none" and not re.fullmatch("#[0-9a-f]{6}", color):
        raise BadVariable(
            f"{name}={quote(written)} is no colour: white, black, #rrggbb such as '#ffcc00', or "
            "none, which shows the colours hidden under what is transparent"
        )
    return word if word == "none" else color


def read_storage(name: str, written: str) -> str:
    """Return the database's URL; the path of a SQLite file becomes absolute."""
    from storage.database.address import absolute_url

    return absolute_url(written)


def read_files(name: str, written: str) -> str:
    """Return the address; a folder becomes absolute."""
    from storage.files.places import parse_files

    return parse_files(written).address


def read_receiver(name: str, written: str) -> Receiver:
    """Return the receiver of messages: a URL or a command."""
    from search.receiver import parse_receiver

    return parse_receiver(written)


def read_hosts(name: str, written: str) -> tuple[str, ...]:
    """Return the address that is served, and the further names by which browsers reach it."""
    hosts = tuple(part.strip().lower() for part in written.split(","))
    if not all(hosts) or any(set(host) & set(" /@") for host in hosts):
        raise BadVariable(
            f"{name}={quote(written)} is no address and names with commas between them, such as "
            "0.0.0.0,lab.example"
        )
    return hosts


def quote(written: str) -> str:
    """Return the text in quotes as a message shows it, shortened where it is long."""
    return short(repr(written))


def is_utf8(written: str) -> bool:
    """Whether no byte of a path or a variable was left undecoded."""
    return not any("\ud800" <= letter <= "\udfff" for letter in written)
