"""MLflow: an experiment a study, a run a trial, in the store that MLFLOW_TRACKING_URI names.

    tracker = MlflowRuns("cae", folder)     # mlflow ui --backend-store-uri sqlite:///...

Without MLFLOW_TRACKING_URI the store is a database under RUNS. A run is found again by its tag
``genstudy.run``, on any machine that uses the same store, and gets the epochs that it lacks.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from search.tracking.tracker import (
    UNSOUND,
    WAITING,
    TrackedEnding,
    TrackedEpoch,
    TrackedPicture,
    TrackedRun,
)
from storage.paths import sqlite_url

TRACKING_URI = "MLFLOW_TRACKING_URI"
KEY = "genstudy.run"  # tag
LONGEST = 5000  # characters of a value; MLflow takes 6,000 of a parameter, and 8,000 of a tag
PORTION = 100  # parameters, and metrics are 1,000, that MLflow takes at once
UNFIT = re.compile(r"[^\w\-. :/]")  # characters that no name of MLflow has


class MlflowRuns:
    """Writes to MLflow's store. folder: where the store is that no variable names"""

    def __init__(self, study: str, folder: Path) -> None:
        for name in ("mlflow", "alembic", "urllib3"):  # of each table and each attempt they tell
            logging.getLogger(name).setLevel(logging.ERROR)
        self.study = study
        self.folder = folder
        named = os.environ.get(TRACKING_URI)
        self.is_ours = not named
        self.uri = named or sqlite_url(folder / "mlflow.db")
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._ids: dict[str, str] = {}  # run's name -> MLflow's id
        self._epochs: dict[str, set[int]] = {}  # run's name -> epochs that MLflow has
        self._latest: dict[str, dict[str, float]] = {}  # run's name -> values that it began with

    def begin(
        self, run: TrackedRun, epochs: Sequence[TrackedEpoch], pictures: Sequence[TrackedPicture]
    ) -> None:
        client = self._open()
        found = client.search_runs([self._experiment], f"tags.`{KEY}` = '{run.key}'", max_results=1)
        made = found[0] if found else self._make(client, run)
        self._ids[run.name] = made.info.run_id
        self._epochs[run.name] = _read_epochs(client, made)
        self._latest[run.name] = dict(made.data.metrics)
        if found:
            client.update_run(made.info.run_id, status="RUNNING")
        for epoch in epochs:
            self.log_epoch(run, epoch)
        for picture in pictures:
            self.log_picture(run, picture)

    def log_epoch(self, run: TrackedRun, epoch: TrackedEpoch) -> None:
        if epoch.number in self._epochs[run.name]:
            return
        self._log_values(run, epoch.values, epoch.number)
        self._epochs[run.name].add(epoch.number)

    def log_picture(self, run: TrackedRun, picture: TrackedPicture) -> None:
        """Put a picture beside the run; one of the same name and epoch is replaced."""
        with tempfile.TemporaryDirectory() as place:
            named = Path(place) / f"{_fit(picture.name)}-epoch-{picture.epoch:03}.png"
            shutil.copyfile(picture.path, named)
            self._open().log_artifact(self._ids[run.name], str(named), "pictures")

    def end(self, run: TrackedRun, ending: TrackedEnding) -> None:
        client, run_id = self._open(), self._ids[run.name]
        client.set_tag(run_id, "state", ending.state)
        if ending.reason:
            client.set_tag(run_id, "reason", ending.reason[:LONGEST])
        if ending.state == WAITING:
            client.update_run(run_id, status="SCHEDULED")
        else:
            known = self._latest[run.name]  # of an end that was told before
            new = {name: v for name, v in ending.values.items() if known.get(_fit(name)) != v}
            self._log_values(run, new, ending.epoch)
            client.set_terminated(run_id, status=_status(ending.state))
        del self._ids[run.name], self._epochs[run.name], self._latest[run.name]

    def close(self) -> None:
        """Nothing is held."""

    def _open(self) -> MlflowClient:
        """Return the client, and see to it that the study has an experiment."""
        if self._client is None:
            if self.is_ours:
                self.folder.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(tracking_uri=self.uri)
            found = client.get_experiment_by_name(self.study)
            self._experiment = found.experiment_id if found else self._make_experiment(client)
            self._client = client
        return self._client

    def _make_experiment(self, client: MlflowClient) -> str:
        """Make the experiment; its pictures lie beside the store under RUNS."""
        place = (self.folder / "artifacts").as_uri() if self.is_ours else None
        made: str = client.create_experiment(self.study, artifact_location=place)
        return made

    def _make(self, client: MlflowClient, run: TrackedRun) -> Any:
        """Make a run with its parameters."""
        about = {"kind": run.kind, "study": run.study, **run.about}
        tags = {_fit(name): str(value)[:LONGEST] for name, value in about.items()}
        if run.card:
            tags["mlflow.note.content"] = run.card[:LONGEST]
        made = client.create_run(self._experiment, run_name=run.name, tags={**tags, KEY: run.key})
        parameters = [
            Param(_fit(name), str(value)[:LONGEST]) for name, value in run.parameters.items()
        ]
        for first in range(0, len(parameters), PORTION):
            client.log_batch(made.info.run_id, params=parameters[first : first + PORTION])
        return made

    def _log_values(self, run: TrackedRun, values: Mapping[str, float], epoch: int) -> None:
        now = int(1000 * time.time())
        metrics = [
            Metric(_fit(name), float(value), now, epoch)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        self._open().log_batch(self._ids[run.name], metrics=metrics)


def _read_epochs(client: MlflowClient, run: Any) -> set[int]:
    """Return the epochs that a run has."""
    names = [name for name in run.data.metrics if name.startswith(("train/", "valid/"))]
    if not names:
        return set()
    return {metric.step for metric in client.get_metric_history(run.info.run_id, names[0])}


def _status(state: str) -> str:
    """Return MLflow's word for the state of a run that has ended."""
    if state in UNSOUND:
        return "FAILED"
    return "KILLED" if state == "interrupted" else "FINISHED"


def _fit(name: str) -> str:
    return UNFIT.sub("_", name)
