"""The variables of every target: ``make study NAME=cae TRIALS=10``.

They reach Python through the environment. Each is a field of `Variables`, the one place that says
its help, how its text is read and checked, and what an unset one stands for. Each is checked before
anything starts, so that a typing mistake is one line and not a lost night.

    python -m search.variables     print them: the second half of `make help`

`make help` works before the environment is made, so this file imports only the standard library
until a database's URL is read.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import BadVariable, unknown_name
from search.hints import folder_without_kind, missing_name, stray_word, stray_words
from search.passwords import with_storage
from storage.errors import short
from storage.paths import RunPaths

if TYPE_CHECKING:
    from search.receiver import Receiver

MOST = 1_000_000  # minutes, which are two years; or GiB
MOST_FUSED = 256  # trials of a worker
COLORS = {"white": "#ffffff", "black": "#000000"}
ENGINES = ("local", "slurm", "ray")
TRACKERS = ("tensorboard", "mlflow", "wandb")
INDENT = 18  # columns before the help of a variable, as before that of a target

Reader = Callable[[str, str], Any]  # (name, text) -> value, or raises `BadVariable`


# ---- how the text of a variable is read ----


def _read_text(name: str, written: str) -> str:
    """Return the text as it is; whoever uses it checks it."""
    return written


def _whole_reader(low: int, high: int = 1_000_000_000) -> Reader:
    """Return a reader of whole numbers from ``low`` to ``high``."""

    def read(name: str, written: str) -> int:
        if not (written.isascii() and written.isdigit() and low <= int(written[:20]) <= high):
            raise BadVariable(
                f"{name}={_quote(written)} is not a whole number from {low} to {high}"
            )
        return int(written)

    return read


def _read_switch(name: str, written: str) -> bool:
    return bool(_whole_reader(0, 1)(name, written))


def _amount_reader(unit: str) -> Reader:
    """Return a reader of numbers above 0, in ``unit``."""

    def read(name: str, written: str) -> float:
        plain = written.isascii() and written.replace(".", "", 1).isdigit() and len(written) < 12
        if not (plain and 0 < float(written) <= MOST):
            raise BadVariable(
                f"{name}={_quote(written)} is not a number of {unit} above 0, up to {MOST}"
            )
        return float(written)

    return read


def _read_gpus(name: str, written: str) -> tuple[int, ...]:
    """Return the numbers of GPUs; none of them means the CPU."""
    if written.lower() == "none":
        return ()
    parts = [part.strip() for part in written.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 for part in parts):
        raise BadVariable(f"{name}={_quote(written)} is neither 'none' nor numbers such as 0,1")
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) < len(numbers):
        raise BadVariable(
            f"{name}={_quote(written)} names a GPU twice; WORKERS=N puts several on one"
        )
    return numbers


def _read_fuse(name: str, written: str) -> int | None:
    """Return how many trials at most; None for auto."""
    word = written.lower()
    if word in ("auto", "none"):
        return None if word == "auto" else 1
    if not (word.isascii() and word.isdigit() and len(word) < 4 and 1 <= int(word) <= MOST_FUSED):
        raise BadVariable(
            f"{name}={_quote(written)} is neither auto, none nor a whole number from 1 to "
            f"{MOST_FUSED}"
        )
    return int(word)


def _read_path(name: str, written: str) -> Path:
    """Return the absolute path, so that it means the same place from everywhere."""
    try:
        return Path(written).expanduser().absolute()
    except RuntimeError as error:  # ~nobody
        raise BadVariable(f"{name}={_quote(written)}: no such user; write the path out") from error


def _read_data(name: str, written: str) -> str:
    """Return the set's name; a folder becomes absolute."""
    kind, colon, place = written.partition(":")
    if kind == "folder" and colon and place:
        return f"folder:{_read_path(name, place)}"
    if mistake := folder_without_kind(written):
        raise BadVariable(mistake)
    return written


def _read_code(name: str, written: str) -> str:
    if written.lower() != "changed":
        raise BadVariable(
            f"{name}={_quote(written)} is not 'changed', which lets trials of other code mix"
        )
    return "changed"


def _read_keep(name: str, written: str) -> str:
    if written.lower() != "checkpoints":
        raise BadVariable(
            f"{name}={_quote(written)} is not 'checkpoints', which keeps the last checkpoint of "
            "trials that have ended, so that more EPOCHS go on from it"
        )
    return "checkpoints"


def _read_finish(name: str, written: str) -> str:
    if written.lower() != "here":
        raise BadVariable(
            f"{name}={_quote(written)} is not 'here', which retrains the best in this RUNS, too"
        )
    return "here"


def _read_stop(name: str, written: str) -> str:
    if written.lower() != "auto":
        raise BadVariable(
            f"{name}={_quote(written)} is not 'auto', which ends a search that no longer pays"
        )
    return "auto"


def _read_engine(name: str, written: str) -> str:
    word = written.lower()
    if word not in ENGINES:
        raise BadVariable(unknown_name("engine", written, ENGINES))
    return word


def _read_trackers(name: str, written: str) -> tuple[str, ...]:
    """Return the names behind commas, each once."""
    words = [word.strip().lower() for word in written.split(",") if written]
    for word in words:
        if word not in TRACKERS:
            raise BadVariable(unknown_name("tracker", word, TRACKERS))
    return tuple(dict.fromkeys(words))


def _read_options(name: str, written: str) -> dict[str, str]:
    """Return the options behind commas: ``partition=gpu,time=240``."""
    found: dict[str, str] = {}
    for part in written.split(","):
        option, equals, value = (text.strip() for text in part.partition("="))
        if not (equals and re.fullmatch("[a-z][a-z_-]*", option) and value):
            raise BadVariable(
                f"{name}={_quote(written)}: {_quote(part)} is no option=value; options stand "
                "behind commas, as in 'partition=gpu,time=240'"
            )
        if option.replace("-", "_") in found:
            raise BadVariable(f"{name}={_quote(written)} gives {option} twice; give it once")
        found[option.replace("-", "_")] = value
    return found


def _read_tries(name: str, written: str) -> tuple[dict[str, str], ...]:
    """Return sets of parameters as texts: ``lr=0.001 latent=27; lr=0.01``."""
    found = []
    for part in filter(str.strip, written.split(";")):
        values: dict[str, str] = {}
        for word in part.split():
            parameter, equals, value = word.partition("=")
            if not (parameter and equals and value):
                raise BadVariable(
                    f"{name}={_quote(written)}: {_quote(word)} is no parameter=value; parameters "
                    "stand behind spaces, and sets of them behind semicolons, as in "
                    "'lr=0.001 latent=27; lr=0.01'"
                )
            if parameter in values:
                raise BadVariable(f"{name}={_quote(written)} gives {parameter} twice; give it once")
            values[parameter] = value
        found.append(values)
    return tuple(found)


def _read_warm(name: str, written: str) -> tuple[str, ...]:
    """Return the studies, which stand behind commas."""
    found = [part.strip() for part in written.split(",")] if written else []
    if not all(found):
        raise BadVariable(
            f"{name} lacks a name beside a comma; studies stand behind commas, as in 'cae,old'; in "
            "an address a comma is %2C"
        )
    if len(set(found)) < len(found):
        raise BadVariable(f"{name} names a study twice; name it once")
    return tuple(found)


def _read_names(name: str, written: str) -> tuple[tuple[str, ...], ...]:
    """Return the studies, each with the names of its runs."""
    groups = [part.split("+") for part in written.split(",")]
    found = tuple(tuple(each.strip() for each in group) for group in groups)
    if not all(each for group in found for each in group):
        raise BadVariable(
            f"{name}={_quote(written)}: a name is missing; studies stand behind commas, and runs "
            "of one study behind +, as in 'a1+a2,b1+b2'"
        )
    return found


def _read_background(name: str, written: str) -> str:
    """Return the colour as ``#rrggbb``, or ``none``."""
    word = written.lower()
    color = COLORS.get(word, word if word.startswith("#") else f"#{word}")
    if word != "none" and not re.fullmatch("#[0-9a-f]{6}", color):
        raise BadVariable(
            f"{name}={_quote(written)} is no colour: white, black, #rrggbb such as '#ffcc00', or "
            "none, which shows the colours hidden under what is transparent"
        )
    return word if word == "none" else color


def _read_storage(name: str, written: str) -> str:
    from storage.database.address import absolute_url

    return absolute_url(written)


def _read_files(name: str, written: str) -> str:
    """Return the address; a folder becomes absolute."""
    from storage.files.places import parse_files

    return parse_files(written).address


def _read_receiver(name: str, written: str) -> Receiver:
    from search.receiver import parse_receiver

    return parse_receiver(written)


def _read_hosts(name: str, written: str) -> tuple[str, ...]:
    """Return the address that is served, and the further names by which browsers reach it."""
    hosts = tuple(part.strip().lower() for part in written.split(","))
    if not all(hosts) or any(set(host) & set(" /@") for host in hosts):
        raise BadVariable(
            f"{name}={_quote(written)} is no address with names behind commas, such as "
            "0.0.0.0,lab.example"
        )
    return hosts


def _quote(written: str) -> str:
    return short(repr(written))


# ---- the variables ----


def _variable(
    help_text: str,
    read: Reader = _read_text,
    *,
    default: str | None = None,
    name: str = "",
    typed: bool = False,
) -> Any:
    """Return a field of `Variables`.

    default: the text that an unset variable stands for; None: the study's own value holds
    name: what make calls it, where that is not the field's name in capitals
    typed: it counts only on make's command line, since shells export this name for themselves
    """
    shown = "" if default in (None, "", "0") else f" (default {default})"
    return field(
        default_factory=lambda: None if default is None else read(name, default),
        metadata={"name": name, "help": help_text + shown, "read": read, "typed": typed},
    )


@dataclass(frozen=True, kw_only=True)
class Variables:
    """All variables, read and checked; None where the study's own value holds."""

    name: str | None = _variable("a study's name, or the path of a study file", typed=True)
    names: tuple[tuple[str, ...], ...] | None = _variable(
        "studies that the command compare sets side by side: 'a,b'; runs of one study: 'a1+a2,b'",
        _read_names,
        typed=True,
    )
    trials: int | None = _variable("trials of the study in all", _whole_reader(1))
    epochs: int | None = _variable("most epochs of a trial", _whole_reader(1))
    retrain_epochs: int | None = _variable("most epochs of a retraining", _whole_reader(1))
    minutes: float | None = _variable(
        "most minutes of a search; what runs then goes on next time", _amount_reader("minutes")
    )
    trial_minutes: float | None = _variable(
        "most minutes of a trial; then it ends as interrupted", _amount_reader("minutes")
    )
    memory: float | None = _variable(
        "GiB that each worker may take; a trial that needs more is infeasible",
        _amount_reader("GiB"),
        typed=True,
    )
    workers: int | None = _variable("processes that train at once", _whole_reader(1, 512))
    fuse: int | None = _variable(  # None: auto
        "trials that a worker trains as one program where their shapes agree: auto (on a GPU, as "
        "many as pay), none, or a number",
        _read_fuse,
        default="none",
        typed=True,
    )
    gpus: tuple[int, ...] | None = _variable(  # (): CPU only
        "0,1: these GPUs; none: CPU only; unset: all GPUs, else the CPU", _read_gpus
    )
    data: str | None = _variable(
        "fashion_mnist, mnist, stacked_mnist, binarized_mnist, dynamic_mnist, digits or "
        "folder:PATH",
        _read_data,
    )
    inception: Path | None = _variable(
        "weights of Inception v3 of 2015: the winner's samples get FID and KID as in papers",
        _read_path,
    )
    background: str = _variable(
        "what shows through transparent images: white, black, #rrggbb; none: hidden colours",
        _read_background,
        default="white",
    )
    data_root: Path = _variable(
        "where torchvision's sets lie or are downloaded to", _read_path, default="data"
    )
    storage: str | None = _variable(
        "postgresql://USER@HOST/DATABASE, or file:PATH that holds it; unset: SQLite under RUNS",
        _read_storage,
    )
    seed: int | None = _variable("all random choices follow from it", _whole_reader(0))
    runs: Path = _variable("folder of everything that is written", _read_path, default="runs")
    files: str | None = _variable(
        "where checkpoints, pictures and exports live that other machines are to see: a folder, "
        "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or database; unset: RUNS",
        _read_files,
    )
    code: str | None = _variable(
        "changed: go on although other code computed the study's trials so far",
        _read_code,
        typed=True,
    )
    keep: str | None = _variable(
        "checkpoints: ended trials keep their last one, from which more EPOCHS go on",
        _read_keep,
        typed=True,
    )
    finish: str | None = _variable(
        "here: retrain and export in this RUNS, though another machine has done so in its own",
        _read_finish,
        typed=True,
    )
    engine: str | None = _variable(
        "where workers run: local (processes here), slurm or ray; unset: this command's own",
        _read_engine,
        typed=True,
    )
    jobs: int | None = _variable(
        "workers that ENGINE keeps running; unset: 1", _whole_reader(1, 10_000), typed=True
    )
    slurm: dict[str, str] | None = _variable(
        "options of sbatch: 'partition=gpu,gpus_per_node=1,time=240'; time is in minutes",
        _read_options,
        typed=True,
    )
    ray: dict[str, str] | None = _variable(
        "what a worker takes of Ray: 'num_gpus=0.5,num_cpus=2'; RAY_ADDRESS names the cluster",
        _read_options,
        typed=True,
    )
    notify: Receiver | None = _variable(
        "URL that takes JSON, or a command that reads it: best improved, failed, done; file:PATH "
        "holds it",
        _read_receiver,
    )
    log: tuple[str, ...] = _variable(
        "tensorboard, mlflow or wandb: each trial is a run there; several behind commas",
        _read_trackers,
        default="",
        typed=True,
    )
    top: int = _variable(
        "how many of the best are retrained and exported; 0: search only",
        _whole_reader(0, 1000),
        default="3",
        typed=True,
    )
    seeds: int | None = _variable(
        "seeds with which each of the best is retrained; their mean ranks it",
        _whole_reader(1, 1000),
    )
    sampler: str | None = _variable(
        "random, tpe, gp, nsgaii, cmaes, qmc, grid, preference (by eye); with arguments: "
        "'tpe(n_startup_trials=5)'"
    )
    pruner: str | None = _variable(
        "median, asha (pauses trials and promotes the best), 'asha(brackets=3)', hyperband, "
        "successive_halving, percentile, none; with arguments; of several goals front or none"
    )
    stop: str | None = _variable(
        "auto: end the search when what it may still gain is less than the noise between seeds, "
        "after 20 trials or more; SAMPLER and PRUNER stay what they are",
        _read_stop,
        typed=True,
    )
    tries: tuple[dict[str, str], ...] = _variable(
        "parameters that are tried next: 'lr=0.001 latent=27'; further sets behind semicolons",
        _read_tries,
        default="",
        name="TRY",
        typed=True,
    )
    warm: tuple[str, ...] = _variable(
        "earlier studies that the sampler learns from, as far as they carry over: "
        "'cae-digits,old'; any study of Optuna: 'sqlite:///old.db#name', 'journal:old.log#name'",
        _read_warm,
        default="",
        typed=True,
    )
    first: bool = _variable(
        "1: a study that starts from another's export runs that one first if it has none",
        _read_switch,
        default="0",
        typed=True,
    )
    start: Path | None = _variable(
        "folder of the export to start from; unset: the best of the study it needs",
        _read_path,
        name="FROM",
        typed=True,
    )
    trial: int | None = _variable(
        "number of the trial that the command replay trains again", _whole_reader(0), typed=True
    )
    rank: int = _variable(
        "which export the command sample takes; 1 is the best",
        _whole_reader(1, 1000),
        default="1",
        typed=True,
    )
    n: int = _variable(
        "how many images the command sample makes",
        _whole_reader(1, 1_000_000),
        default="64",
        typed=True,
    )
    labels: str | None = _variable(
        "what the images of the command sample show: 'boot,bag' in turn, or 'smile=1,beard=0'",
        typed=True,
    )
    out: Path | None = _variable(
        "folder, or .png file, to which the command sample writes; unset: RUNS/samples",
        _read_path,
        typed=True,
    )
    csv: Path | None = _variable(
        "file to which the commands trials, status and simulate write the table",
        _read_path,
        typed=True,
    )
    parquet: Path | None = _variable("the same as Parquet", _read_path)
    host: tuple[str, ...] = _variable(
        "address of the dashboard; unset: this machine only; behind commas: names of a proxy",
        _read_hosts,
        default="127.0.0.1",
        typed=True,
    )
    port: int = _variable(
        "port of the dashboard", _whole_reader(1, 65535), default="8080", typed=True
    )
    token: Path | None = _variable(
        "file with the dashboard's token, for a proxy that sends it; unset: a new one is printed",
        _read_path,
        typed=True,
    )

    @property
    def paths(self) -> RunPaths:
        """Return the names of all files under RUNS."""
        return RunPaths(self.runs)

    @property
    def storage_url(self) -> str:
        """Return the URL of the trial database; without STORAGE it is SQLite under RUNS."""
        return self.storage or self.paths.database_url

    @property
    def files_address(self) -> str | None:
        """Return FILES; None where RUNS is all there is."""
        return None if self.files == str(self.runs) else self.files

    def need_name(self, command: str) -> str:
        """Return NAME; raise `BadVariable` where ``command`` needs it and it is not set."""
        if self.name is None:
            raise BadVariable(missing_name(command))
        return self.name


def _make_name(variable: Field[Any]) -> str:
    """Return what make calls a variable."""
    return variable.metadata["name"] or variable.name.upper()


VARIABLES: dict[str, str] = {_make_name(each): each.metadata["help"] for each in fields(Variables)}


def read_variables(given: Mapping[str, str] | None = None) -> Variables:
    """Read the variables; raise `BadVariable` for the first that is wrong.

    given: their texts; None: those of the environment

    The Makefile sets GENSTUDY_GIVEN to the names that stand on make's command line. So
    ``TRAILS=5`` is refused rather than ignored, and a HOST that the shell exports is not ours.
    """
    if given is None:
        given = with_storage(os.environ)
    typed = given.get("GENSTUDY_GIVEN", "").split()
    for name in typed:
        if name not in VARIABLES:
            raise BadVariable(unknown_name("variable", name, VARIABLES))
    if (stray := stray_words(given)) and "NAME" in typed:  # else NAME itself may be missing
        raise BadVariable(stray_word(stray[0]))
    values = {}
    for each in fields(Variables):
        name = _make_name(each)
        written = _written(each, given)
        if not written:
            continue
        if "\0" in written or not _is_utf8(written):
            raise BadVariable(f"{name} is not UTF-8 text; write it with other characters")
        values[each.name] = each.metadata["read"](name, written)
    found = Variables(**values)
    for each in fields(Variables):
        value = getattr(found, each.name)
        if (each.name in values or each.name == "runs") and not _is_utf8(str(value)):
            raise BadVariable(
                f"{_make_name(each)} lies in the current folder, whose path {_quote(str(value))} "
                f"is not UTF-8 text; rename that folder, or give {_make_name(each)} another place"
            )
    return found


def given_names(given: Mapping[str, str] | None = None) -> list[str]:
    """Return which variables are given: typed, or exported by a shell where that counts.

    given: their texts; None: those of the environment
    """
    texts = with_storage(os.environ) if given is None else given
    return [_make_name(each) for each in fields(Variables) if _written(each, texts)]


def _written(variable: Field[Any], given: Mapping[str, str]) -> str:
    """Return the text of a variable; empty where it is not given."""
    name = _make_name(variable)
    foreign = variable.metadata["typed"] and name not in given.get("GENSTUDY_GIVEN", "").split()
    if foreign and "GENSTUDY_GIVEN" in given:
        return ""
    return given.get(name, "").strip()


def _is_utf8(written: str) -> bool:
    """Whether no byte of a path or a variable was left undecoded."""
    return not any("\ud800" <= letter <= "\udfff" for letter in written)


def describe_variables(width: int, names: Collection[str] = VARIABLES.keys()) -> str:
    """Return a line for each variable, and more where its help is wider than ``width`` columns."""
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent=" " * INDENT, break_on_hyphens=False, break_long_words=False
    )
    lines = []
    for name, text in VARIABLES.items():
        if name not in names:
            continue
        wrapper.initial_indent = f"  {name}".ljust(INDENT)
        lines.append(wrapper.fill(text.replace("(default ", "(default\0")).replace("\0", " "))
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe_variables(max(shutil.get_terminal_size().columns, 60)))
