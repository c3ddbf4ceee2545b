"""From the variables of `make study ENGINE=...` to an engine, unless other machines could not work.

    check_engine(variables, study)                # raises with what is in the way
    engine = open_engine(variables, run)

Machines share the database, the folder RUNS, in which jobs keep their logs, and the study's files.
What can be known here is checked here: SQLite, and folders in a machine's own memory or its /tmp.
The rest each worker checks when it starts: that RUNS holds the same word, that images, code and
study file are those of the stored study (`search.setup.joining`).

No secret goes to an engine. Batch scripts and environments of jobs are kept and shown by others.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from search.engines.engine import Engine
from search.engines.local import LocalEngine
from search.engines.ray import RayEngine, check_ray
from search.engines.slurm import SlurmEngine, check_slurm
from search.engines.worker_job import WorkerJob
from search.errors import BadVariable
from search.hints import STRAY
from search.passwords import holds_password, with_storage
from search.run import StudyRun
from search.study import Study
from search.variables import VARIABLES, Variables, given_names
from storage.errors import short

OWN_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # of each machine
OWN_KINDS = ("tmpfs", "ramfs", "devtmpfs")  # file systems in a machine's memory
MOUNTS = Path("/proc/mounts")
ROOT = Path(__file__).resolve().parents[2]
# What a worker is given: places and its share of a machine. All else the stored study says.
PASSED = ("GPUS", "WORKERS", "MEMORY", "FUSE", "FILES", "BACKGROUND", "LOG")


def check_engine(variables: Variables, study: Study) -> None:
    """Raise `BadVariable` or `EngineFailed` where the jobs of ENGINE could not work."""
    kind = variables.engine
    if kind is None:
        others = {"JOBS": variables.jobs, "SLURM": variables.slurm, "RAY": variables.ray}
        given = next((name for name, value in others.items() if value is not None), None)
        if given is not None:
            fix = {"SLURM": "ENGINE=slurm", "RAY": "ENGINE=ray"}.get(given, "ENGINE=slurm, say")
            raise BadVariable(f"{given} is given without an ENGINE that takes it: add {fix}")
        return
    options = _options(variables)
    check_secrets(kind, _typed_storage(), os.environ)
    if kind == "slurm":
        check_slurm(options)
    elif kind == "ray":
        check_ray(options)
    is_here = kind == "local" or options.get("cluster") == "local"
    is_here = is_here or (kind == "ray" and not os.environ.get("RAY_ADDRESS", "").strip())
    if not is_here:
        data = variables.data or study.spec.data
        check_seen(kind, variables, reference=study.reference, data=data)


def open_engine(variables: Variables, run: StudyRun) -> Engine:
    """Return the engine that ENGINE names. Raises `EngineFailed`."""
    folder = variables.paths.engine_folder(run.study)
    job = make_job(variables, run, _typed_storage())
    if variables.engine == "slurm":
        return SlurmEngine(job, folder, _options(variables))
    if variables.engine == "ray":
        return RayEngine(job, folder, _options(variables))
    return LocalEngine(job, folder)


def _options(variables: Variables) -> dict[str, str]:
    return {"slurm": variables.slurm, "ray": variables.ray}.get(variables.engine or "") or {}


def _typed_storage() -> str:
    """Return STORAGE as it was given; empty where it was not."""
    return with_storage(os.environ).get("STORAGE", "").strip()


def make_job(variables: Variables, run: StudyRun, typed: str) -> WorkerJob:
    """Return the job of one worker.

    typed: STORAGE as it was given; empty: SQLite under RUNS
    """
    given = {name for name in given_names() if name in PASSED}
    texts = with_storage(os.environ)
    passed = {name: texts[name].strip() for name in sorted(given)}
    if variables.files_address is not None:
        passed["FILES"] = variables.files_address
    bundled = not run.name.endswith(".py")
    passed |= {
        "NAME": run.study if bundled else run.name,
        "RUNS": str(variables.runs),
        "DATA": str(run.image_source.get("name") or variables.data or ""),
        "DATA_ROOT": str(variables.data_root),
        "STORAGE": _address(typed, variables),
    }
    if variables.start is not None:
        passed["FROM"] = str(variables.start)
    if run.inception is not None:
        passed["INCEPTION"] = run.inception
    return WorkerJob(
        python=sys.executable,
        path=[str(Path(entry).absolute()) for entry in sys.path],
        folder=str(variables.runs),
        variables={name: text for name, text in passed.items() if text},
        dropped=[*VARIABLES, STRAY, "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES"],
    )


def _address(typed: str, variables: Variables) -> str:
    """Return STORAGE for a worker: without a secret, and with an absolute path."""
    if typed.startswith("file:"):
        return f"file:{Path(typed.removeprefix('file:')).expanduser().absolute()}"
    return variables.storage_url


def check_secrets(kind: str, typed: str, environment: Mapping[str, str]) -> None:
    """Raise `BadVariable` where a password would go into jobs."""
    fix = "leave it to ~/.pgpass or a service file, or give STORAGE=file:PATH"
    if holds_password(typed):
        raise BadVariable(
            f"STORAGE holds a password, which ENGINE={kind} would pass on to its jobs, where "
            f"others can read it; {fix}"
        )
    if environment.get("PGPASSWORD"):
        raise BadVariable(
            f"PGPASSWORD is in the environment, which ENGINE={kind} copies into its jobs; {fix}"
        )


def check_seen(kind: str, variables: Variables, *, reference: str, data: str) -> None:
    """Raise `BadVariable` for what other machines cannot see.

    reference: of the study, its name or its file; data: its images
    """
    if variables.storage_url.startswith("sqlite"):
        raise BadVariable(
            f"ENGINE={kind} starts workers on other machines, and SQLite is a file of this one: "
            "give STORAGE=postgresql://USER@HOST/DATABASE"
        )
    places = {"RUNS": str(variables.runs)}
    if (variables.files_address or "").startswith("/"):
        places["FILES"] = variables.files_address or ""
    if data.startswith("folder:"):
        places["DATA"] = data.removeprefix("folder:")
    elif data != "digits":
        places["DATA_ROOT"] = str(variables.data_root)
    if reference.endswith(".py"):
        places["NAME"] = reference
    places |= {"genstudy itself": str(ROOT), "Python": sys.executable}
    mounts = read_mounts()
    for name, place in places.items():
        if reason := own_place(Path(place), mounts):
            what = f"{name}{'=' if name.isupper() else ' in '}{short(shlex.quote(place))}"
            raise BadVariable(
                f"{what} is {reason}, which other machines do not see, and ENGINE={kind} starts "
                "workers there: take a folder that all of them share"
            )


def own_place(path: Path, mounts: Mapping[str, str]) -> str | None:
    """Return why a path is a place of this machine alone; None: it may be shared.

    A disk of this machine may be exported to others, which nothing here tells: workers find out.
    """
    for folder in OWN_FOLDERS:
        if path.is_relative_to(folder) or path.resolve().is_relative_to(folder):
            return f"under {folder}"
    resolved = path.resolve()
    holders = [place for place in mounts if resolved.is_relative_to(place)]
    kind = mounts[max(holders, key=len)] if holders else ""
    return f"in this machine's memory ({kind})" if kind in OWN_KINDS else None


def read_mounts() -> dict[str, str]:
    """Return the kind of file system at each place where one begins; nothing where Linux is not."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        parts = line.split(" ")
        if len(parts) > 2:
            found[parts[1].replace("\\040", " ")] = parts[2]
    return found
