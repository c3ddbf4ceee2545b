"""The words of the command `genstudy`: a command, a name, and variables as make takes them.

    genstudy study cae TRIALS=10           make study NAME=cae TRIALS=10
    genstudy trials cae CSV=table.csv      make trials NAME=cae CSV=table.csv
    genstudy study --help                  what a command does, and its variables

Variables reach the command through the environment, as they do from make, so that both are read and
checked in one place (`search.variables`). `genstudy.__main__` is what the shell starts.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from search.__main__ import COMMANDS, command
from search.errors import BadVariable, unknown_name
from search.hints import STRAY, known_studies
from search.spelling import CALLED_AS, GENSTUDY, spell
from search.variables import VARIABLES, describe_variables
from storage.errors import short

VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
DATABASE = ("RUNS", "STORAGE")
LISTED = ("CSV", "PARQUET")
SAMPLED = ("RANK", "N", "LABELS", "OUT")
REPLAYED = ("TRIAL",)
PLAYED = ("PRUNER", "TRIALS", "EPOCHS", "WORKERS", "SEED")
SERVED = ("HOST", "PORT", "TOKEN")
JOINED = (
    "NAME", "STORAGE", "GPUS", "WORKERS", "MEMORY", "FUSE", "MINUTES", "DATA", "DATA_ROOT",
    "BACKGROUND", "FROM", "INCEPTION", "RUNS", "FILES", "NOTIFY", "LOG",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How a command is used.

    about: what it does; example: the words that follow it in a typical call
    bare: the variable that a word without a name is the value of; None: it takes no such word
    variables: those that it reads
    """

    about: str
    example: str = ""
    bare: str | None = None
    variables: tuple[str, ...] = DATABASE


USAGES = {
    "study": Usage(
        about="search, retrain the best and export them",
        example="cae TRIALS=10 EPOCHS=5",
        bare="NAME",
        variables=tuple(
            name
            for name in VARIABLES
            if name not in (*LISTED, *SERVED, *SAMPLED, *REPLAYED, "NAMES")
        ),
    ),
    "worker": Usage(
        about="join a stored study, and train its trials on this machine",
        example="cae STORAGE=postgresql://me@host/studies",
        bare="NAME",
        variables=JOINED,
    ),
    "status": Usage(
        about="say who runs what on which machine, and what is left",
        example="cae",
        bare="NAME",
        variables=("NAME", "DATA", *LISTED, *DATABASE),
    ),
    "studies": Usage(about="list the studies, and how far each is"),
    "trials": Usage(
        about="show the best trials; CSV=FILE or PARQUET=FILE writes all",
        example="cae",
        bare="NAME",
        variables=("NAME", "DATA", *LISTED, *DATABASE),
    ),
    "replay": Usage(
        about="train a trial again from its record, and compare",
        example="cae TRIAL=7",
        bare="NAME",
        variables=(
            "NAME",
            *REPLAYED,
            "GPUS",
            "FUSE",
            "DATA",
            "DATA_ROOT",
            "BACKGROUND",
            "FROM",
            *DATABASE,
        ),
    ),
    "simulate": Usage(
        about="say what another pruner would have cost and found",
        example="cae PRUNER=asha WORKERS=16",
        bare="NAME",
        variables=("NAME", "DATA", *PLAYED, *LISTED, *DATABASE),
    ),
    "sample": Usage(
        about="draw images with an export",
        example="cae RANK=1 N=64",
        bare="NAME",
        variables=("NAME", "FROM", *SAMPLED, "SEED", "DATA", "DATA_ROOT", "BACKGROUND", "RUNS"),
    ),
    "report": Usage(
        about="write a page about a study, with pictures",
        example="cae",
        bare="NAME",
        variables=("NAME", "DATA", "FILES", *DATABASE),
    ),
    "compare": Usage(
        about="compare what several studies found, and at which cost",
        example="NAMES=cae,cae_27",
        bare="NAMES",
        variables=("NAMES", *DATABASE),
    ),
    "dashboard": Usage(
        about="serve optuna-dashboard, also while a study runs",
        variables=("FILES", *DATABASE, *SERVED),
    ),
    "look": Usage(
        about="say what a folder of images holds, with a contact sheet",
        example="DATA=folder:PATH",
        bare="NAME",
        variables=("NAME", "DATA", "BACKGROUND", "RUNS"),
    ),
}


@dataclass(kw_only=True)
class Call:
    """What a command line asks for.

    command: None where only help is wanted; variables: those that it names, with their texts
    """

    command: str | None = None
    wants_help: bool = False
    variables: dict[str, str] = field(default_factory=dict)


def run(words: Sequence[str]) -> int:
    """Run the command that the words name, and return its exit code."""
    os.environ[CALLED_AS] = GENSTUDY
    os.environ.pop(STRAY, None)  # what a make that calls us says of its own words
    if list(words) in (["--version"], ["-V"]):
        print(f"{GENSTUDY} {version(GENSTUDY)}")
        return 0
    try:
        call = read_words(words)
    except BadVariable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if call.command is None or call.wants_help:
        width = max(shutil.get_terminal_size().columns, 60)
        text = describe_commands(width) if call.command is None else describe(call.command, width)
        try:
            print(text, flush=True)
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        return 0
    os.environ.update(call.variables, GENSTUDY_GIVEN=" ".join(call.variables))
    return command(call.command)


def read_words(words: Sequence[str]) -> Call:
    """Return what the words ask for; raise `BadVariable` for the first that is wrong."""
    call = Call()
    bare: list[str] = []
    for word in words:
        found = VARIABLE.fullmatch(word)
        if word in ("-h", "--help"):
            call.wants_help = True
        elif word.startswith("-"):
            raise BadVariable(_refuse_option(word))
        elif found and found[1] not in VARIABLES:
            raise BadVariable(unknown_name("variable", found[1], VARIABLES))
        elif found:
            call.variables[found[1]] = found[2]
        else:
            bare.append(word)
    if bare and bare[0] == "help":
        call.wants_help = True
        del bare[0]
    if bare:
        call.command = _read_command(bare[0])
    elif call.variables:
        raise BadVariable(f"no command is given; say which: {', '.join(COMMANDS)}")
    if len(bare) > 1 and call.command is not None:
        _read_bare(call.command, bare[1:], call.variables)
    return call


def _read_command(word: str) -> str:
    if word in COMMANDS:
        return word
    if word in known_studies() or word.endswith(".py"):
        line = spell("study", NAME=short(word))
        raise BadVariable(f"{_quote(word)} is a study, not a command; run it with: {line}")
    raise BadVariable(unknown_name("command", word, COMMANDS))


def _read_bare(name: str, words: list[str], variables: dict[str, str]) -> None:
    """Put the one word without a name where it belongs; refuse others."""
    usage = USAGES[name]
    if usage.bare is None:
        raise BadVariable(
            f"{GENSTUDY} {name} takes no name, but {_quote(words[0])} is given; variables are "
            f"written NAME=value: {_sentence(name) if usage.example else 'RUNS=folder'}"
        )
    if usage.bare in variables:
        words = [variables[usage.bare], *words]
    if len(words) > 1:
        raise BadVariable(
            f"{GENSTUDY} {name} takes one name, but {_quote(words[1])} comes after "
            f"{_quote(words[0])}; variables are written NAME=value: {_sentence(name)}"
        )
    variables[usage.bare] = words[0]


def _refuse_option(word: str) -> str:
    """Return the line about ``--trials`` or ``--trials=10``."""
    option, _, value = word.lstrip("-").partition("=")
    name = option.replace("-", "_").upper()
    if name not in VARIABLES:
        name, value = "TRIALS", "10"
    written = f"{name}={shlex.quote(short(value) or 'value')}"
    return f"{GENSTUDY} has no option {_quote(word)}; variables have no dashes: {written}"


def _quote(word: str) -> str:
    return short(repr(word))


def _sentence(name: str) -> str:
    return f"{GENSTUDY} {name} {USAGES[name].example}".strip()


def describe_commands(width: int) -> str:
    """Return the help of `genstudy`: all commands and variables."""
    margin = len(f"  {GENSTUDY} ") + max(map(len, COMMANDS)) + 2
    lines = [f"  {GENSTUDY} {name}".ljust(margin) + USAGES[name].about for name in COMMANDS]
    return "\n".join(
        [
            f"{GENSTUDY}: hyperparameter search for generative models",
            "",
            *lines,
            "",
            f"Variables: {_sentence('study')}",
            "",
            describe_variables(width),
            "",
            f"`{GENSTUDY} COMMAND --help` shows those of a command. All is written under RUNS.",
        ]
    )


def describe(name: str, width: int) -> str:
    """Return the help of one command."""
    usage = USAGES[name]
    is_needed = usage.example and not VARIABLE.match(usage.example)
    taken = "" if usage.bare is None else f" {usage.bare}" if is_needed else f" [{usage.bare}]"
    return "\n".join(
        [
            f"{GENSTUDY} {name}{taken} [VARIABLE=value ...]: {usage.about}",
            "",
            f"  {_sentence(name)}",
            "",
            describe_variables(width, usage.variables),
        ]
    )
