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
import shutil
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import BadVariable, unknown_name
from search.hints import missing_name, stray_word, stray_words
from search.passwords import with_storage
from search.variable_readers import (
    Reader,
    amount_reader,
    is_utf8,
    quote,
    read_background,
    read_data,
    read_engine,
    read_files,
    read_fuse,
    read_gpus,
    read_hosts,
    read_names,
    read_options,
    read_path,
    read_receiver,
    read_storage,
    read_switch,
    read_text,
    read_trackers,
    read_tries,
    read_warm,
    whole_reader,
    word_reader,
)
from storage.paths import RunPaths

if TYPE_CHECKING:
    from search.receiver import Receiver

KEPT = "keeps the last checkpoint of trials that have ended, so that more EPOCHS go on from it"
INDENT = 18  # columns before the help of a variable, as before that of a target


def _variable(
    help_text: str,
    read: Reader = read_text,
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
        read_names,
        typed=True,
    )
    trials: int | None = _variable("trials of the study in all", whole_reader(1))
    epochs: int | None = _variable("most epochs of a trial", whole_reader(1))
    retrain_epochs: int | None = _variable("most epochs of a retraining", whole_reader(1))
    minutes: float | None = _variable(
        "most minutes of a search; what runs then goes on next time", amount_reader("minutes")
    )
    trial_minutes: float | None = _variable(
        "most minutes of a trial; then it ends as interrupted", amount_reader("minutes")
    )
    memory: float | None = _variable(
        "GiB that each worker may take; a trial that needs more is infeasible",
        amount_reader("GiB"),
        typed=True,
    )
    workers: int | None = _variable("processes that train at once", whole_reader(1, 512))
    fuse: int | None = _variable(  # None: auto
        "trials that a worker trains as one program where their shapes agree: auto (on a GPU, as "
        "many as pay), none, or a number",
        read_fuse,
        default="none",
        typed=True,
    )
    gpus: tuple[int, ...] | None = _variable(  # (): CPU only
        "0,1: these GPUs; none: CPU only; unset: all GPUs, else the CPU", read_gpus
    )
    data: str | None = _variable(
        "fashion_mnist, mnist, stacked_mnist, binarized_mnist, dynamic_mnist, digits or "
        "folder:PATH",
        read_data,
    )
    inception: Path | None = _variable(
        "weights of Inception v3 of 2015: the winner's samples get FID and KID as in papers",
        read_path,
    )
    background: str = _variable(
        "what shows through transparent images: white, black, #rrggbb; none: hidden colours",
        read_background,
        default="white",
    )
    data_root: Path = _variable(
        "where torchvision's sets lie or are downloaded to", read_path, default="data"
    )
    storage: str | None = _variable(
        "postgresql://USER@HOST/DATABASE, or file:PATH that holds it; unset: SQLite under RUNS",
        read_storage,
    )
    seed: int | None = _variable("all random choices follow from it", whole_reader(0))
    runs: Path = _variable("folder of everything that is written", read_path, default="runs")
    files: str | None = _variable(
        "where checkpoints, pictures and exports live that other machines are to see: a folder, "
        "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or database; unset: RUNS",
        read_files,
    )
    code: str | None = _variable(
        "changed: go on although other code computed the study's trials so far",
        word_reader("changed", "lets trials of other code mix"),
        typed=True,
    )
    keep: str | None = _variable(
        "checkpoints: ended trials keep their last one, from which more EPOCHS go on",
        word_reader("checkpoints", KEPT),
        typed=True,
    )
    finish: str | None = _variable(
        "here: retrain and export in this RUNS, though another machine has done so in its own",
        word_reader("here", "retrains the best in this RUNS, too"),
        typed=True,
    )
    engine: str | None = _variable(
        "where workers run: local (processes here), slurm or ray; unset: this command's own",
        read_engine,
        typed=True,
    )
    jobs: int | None = _variable(
        "workers that ENGINE keeps running; unset: 1", whole_reader(1, 10_000), typed=True
    )
    slurm: dict[str, str] | None = _variable(
        "options of sbatch: 'partition=gpu,gpus_per_node=1,time=240'; time is in minutes",
        read_options,
        typed=True,
    )
    ray: dict[str, str] | None = _variable(
        "what a worker takes of Ray: 'num_gpus=0.5,num_cpus=2'; RAY_ADDRESS names the cluster",
        read_options,
        typed=True,
    )
    notify: Receiver | None = _variable(
        "URL that takes JSON, or a command that reads it: best improved, failed, done; file:PATH "
        "holds it",
        read_receiver,
    )
    log: tuple[str, ...] = _variable(
        "tensorboard, mlflow or wandb: each trial is a run there; several: 'mlflow,wandb'",
        read_trackers,
        default="",
        typed=True,
    )
    top: int = _variable(
        "how many of the best are retrained and exported; 0: search only",
        whole_reader(0, 1000),
        default="3",
        typed=True,
    )
    seeds: int | None = _variable(
        "seeds with which each of the best is retrained; their mean ranks it",
        whole_reader(1, 1000),
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
        word_reader("auto", "ends a search that no longer pays"),
        typed=True,
    )
    tries: tuple[dict[str, str], ...] = _variable(
        "parameters that are tried next: 'lr=0.001 latent=27'; several sets: 'lr=0.001; lr=0.01'",
        read_tries,
        default="",
        name="TRY",
        typed=True,
    )
    warm: tuple[str, ...] = _variable(
        "earlier studies that the sampler learns from, as far as they carry over: "
        "'cae-digits,old'; any study of Optuna: 'sqlite:///old.db#name', 'journal:old.log#name'",
        read_warm,
        default="",
        typed=True,
    )
    first: bool = _variable(
        "1: a study that starts from another's export runs that one first if it has none",
        read_switch,
        default="0",
        typed=True,
    )
    start: Path | None = _variable(
        "folder of the export to start from; unset: the best of the study it needs",
        read_path,
        name="FROM",
        typed=True,
    )
    trial: int | None = _variable(
        "number of the trial that the command replay trains again", whole_reader(0), typed=True
    )
    rank: int = _variable(
        "which export the command sample takes; 1 is the best",
        whole_reader(1, 1000),
        default="1",
        typed=True,
    )
    n: int = _variable(
        "how many images the command sample makes",
        whole_reader(1, 1_000_000),
        default="64",
        typed=True,
    )
    labels: str | None = _variable(
        "what the images of the command sample show: 'boot,bag' in turn, or 'smile=1,beard=0'",
        typed=True,
    )
    out: Path | None = _variable(
        "folder, or .png file, to which the command sample writes; unset: RUNS/samples",
        read_path,
        typed=True,
    )
    csv: Path | None = _variable(
        "file to which the commands trials, status and simulate write the table",
        read_path,
        typed=True,
    )
    parquet: Path | None = _variable("the same as Parquet", read_path)
    host: tuple[str, ...] = _variable(
        "address that the dashboard serves; a proxy's names follow: '0.0.0.0,lab.example'; unset: "
        "this machine only",
        read_hosts,
        default="127.0.0.1",
        typed=True,
    )
    port: int = _variable(
        "port of the dashboard", whole_reader(1, 65535), default="8080", typed=True
    )
    token: Path | None = _variable(
        "file with the dashboard's token, for a proxy that sends it; unset: a new one is printed",
        read_path,
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
        if "\0" in written or not is_utf8(written):
            raise BadVariable(f"{name} is not UTF-8 text; write it with other characters")
        values[each.name] = each.metadata["read"](name, written)
    found = Variables(**values)
    for each in fields(Variables):
        value = getattr(found, each.name)
        if (each.name in values or each.name == "runs") and not is_utf8(str(value)):
            raise BadVariable(
                f"{_make_name(each)} lies in the current folder, whose path {quote(str(value))} "
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
