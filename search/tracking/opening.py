"""From the names in LOG to trackers; what is not installed is refused before anything starts.

    check_trackers(("tensorboard", "mlflow"))         # raises with the command to type
    threads = open_trackers(("tensorboard",), paths, "cae")

A tool is imported by the thread that talks to it, so that nobody waits for that.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

from search.errors import BadVariable
from search.tracking.tracker import Tracker
from search.tracking.tracker_thread import TrackerThread
from storage.paths import RunPaths, check_name, sqlite_url

TITLES = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "Weights & Biases"}


def check_trackers(names: Sequence[str]) -> None:
    """Raise `BadVariable` for a tool that is not installed, and for wandb without a key."""
    for name in names:
        if find_spec(name) is None:
            raise BadVariable(
                f"LOG={name} needs {TITLES[name]}, which is not installed: "
                f"pip install 'genstudy[{name}]'"
            )
    if "wandb" in names:
        os.environ.setdefault("WANDB_SILENT", "true")  # it tells where it has found a key
        from search.tracking.wandb_runs import has_key  # others do not wait for it

        if not has_key():
            raise BadVariable(
                "LOG=wandb finds no key: type `wandb login`, set WANDB_API_KEY, or keep the runs "
                "on this machine with WANDB_MODE=offline"
            )


def open_trackers(names: Sequence[str], paths: RunPaths, study: str) -> list[TrackerThread]:
    """Return what tells each tool."""
    return [
        TrackerThread(
            name, partial(open_tracker, name, paths, study), paths.tracker_marks(study, name)
        )
        for name in names
    ]


def describe_place(name: str, paths: RunPaths, study: str) -> str:
    """Return where the runs of a tool are to be seen, in one line."""
    folder = paths.tracked(name)
    if name == "tensorboard":
        return f"tensorboard --logdir {shlex.quote(str(folder / check_name(study)))}"
    if name == "mlflow":
        if os.environ.get("MLFLOW_TRACKING_URI"):  # which may hold a password
            return f"experiment {study} in MLFLOW_TRACKING_URI"
        uri = sqlite_url(folder / "mlflow.db")
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    if os.environ.get("WANDB_MODE", "").lower() == "offline":
        return f"wandb sync {shlex.quote(str(folder / 'wandb'))}/offline-run-*"
    return f"group {study} of project {os.environ.get('WANDB_PROJECT') or 'genstudy'}"


def open_tracker(name: str, paths: RunPaths, study: str) -> Tracker:
    """Import a tool, and return its tracker."""
    if name == "tensorboard":
        from search.tracking.tensorboard_files import TensorBoardFiles

        return TensorBoardFiles(paths.tracked(name) / check_name(study))
    if name == "mlflow":
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it is read at the import
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # of 7, in minutes
        from search.tracking.mlflow_runs import MlflowRuns

        return MlflowRuns(study, paths.tracked(name))
    from search.tracking.wandb_runs import WandbRuns

    return WandbRuns(paths.tracked(name))
