"""MLflow and Weights & Biases for tests: the calls that genstudy makes, as documented.

    monkeypatch.setitem(sys.modules, "mlflow", make_mlflow())
    monkeypatch.setitem(sys.modules, "wandb", make_wandb())

Both keep everything in memory, as servers would, also of a process that a test takes for dead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Metric:
    key: str
    value: float
    timestamp: int
    step: int


@dataclass
class Param:
    key: str
    value: str


@dataclass
class MlflowRun:
    """A run, as its server keeps it. logged: every metric that was ever logged, in its order"""

    info: Any
    experiment: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    logged: list[Metric] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)

    @property
    def data(self) -> Any:
        latest = {metric.key: metric.value for metric in self.logged}
        return SimpleNamespace(metrics=latest, params=dict(self.params), tags=dict(self.tags))


def make_mlflow() -> ModuleType:
    """Return a module `mlflow` with servers of its own."""
    servers: dict[str | None, dict[str, MlflowRun]] = {}
    experiments: dict[str, Any] = {}

    class MlflowClient:
        def __init__(self, tracking_uri: str | None = None) -> None:
            self.runs = servers.setdefault(tracking_uri, {})

        def get_experiment_by_name(self, name: str) -> Any:
            return experiments.get(name)

        def create_experiment(self, name: str, artifact_location: str | None = None) -> str:
            assert name not in experiments
            experiments[name] = SimpleNamespace(experiment_id=str(len(experiments)))
            made: str = experiments[name].experiment_id
            return made

        def search_runs(
            self, experiment_ids: list[str], filter_string: str = "", max_results: int = 1000
        ) -> list[MlflowRun]:
            wanted = re.fullmatch(r"(?:tags\.`(.+)` = '(.+)')?", filter_string)
            assert wanted
            found = [run for run in self.runs.values() if run.experiment in experiment_ids]
            if wanted[1]:
                found = [run for run in found if run.tags.get(wanted[1]) == wanted[2]]
            return found[:max_results]

        def create_run(self, experiment_id: str, run_name: str, tags: dict[str, str]) -> MlflowRun:
            run_id = f"run{len(self.runs)}"
            info = SimpleNamespace(run_id=run_id, run_name=run_name, status="RUNNING")
            self.runs[run_id] = MlflowRun(info=info, experiment=experiment_id, tags=dict(tags))
            return self.runs[run_id]

        def log_batch(
            self,
            run_id: str,
            metrics: Sequence[Metric] = (),
            params: Sequence[Param] = (),
        ) -> None:
            for param in params:
                known = self.runs[run_id].params.setdefault(param.key, param.value)
                assert known == param.value, "a parameter cannot change"
            for metric in metrics:
                assert re.fullmatch(r"[\w\-. :/]+", metric.key)
            self.runs[run_id].logged += metrics

        def get_metric_history(self, run_id: str, key: str) -> list[Metric]:
            return [metric for metric in self.runs[run_id].logged if metric.key == key]

        def set_tag(self, run_id: str, key: str, value: str) -> None:
            self.runs[run_id].tags[key] = value

        def update_run(self, run_id: str, status: str) -> None:
            self.runs[run_id].info.status = status

        set_terminated = update_run

        def log_artifact(self, run_id: str, local_path: str, artifact_path: str) -> None:
            assert Path(local_path).read_bytes().startswith(b"\x89PNG")
            self.runs[run_id].artifacts.append(f"{artifact_path}/{Path(local_path).name}")

        def list_artifacts(self, run_id: str, path: str) -> list[Any]:
            return [SimpleNamespace(path=name) for name in sorted(self.runs[run_id].artifacts)]

    module = ModuleType("mlflow")
    entities = ModuleType("mlflow.entities")
    vars(module).update(MlflowClient=MlflowClient, entities=entities)
    vars(entities).update(Metric=Metric, Param=Param)
    return module


@dataclass
class WandbRun:
    """A run in this process. rows: what the server has of it, a dict a step"""

    rows: dict[int, dict[str, Any]]
    summary: dict[str, Any]
    about: dict[str, Any]
    step: int
    exit_code: int | None = None

    def log(self, values: dict[str, Any], step: int) -> None:
        assert step >= self.step, "steps only rise: wandb drops what is logged of an earlier one"
        self.step = step
        row = self.rows.setdefault(step, {})
        assert not row.keys() & values.keys(), f"logged twice in step {step}"
        row.update(values)

    def mark_preempting(self) -> None:
        self.about["preempting"] = True

    def finish(self, exit_code: int = 0) -> None:
        self.exit_code = exit_code


def make_wandb() -> ModuleType:
    """Return a module `wandb`; its ``parts`` are all runs in their order, resumed ones anew."""
    module = ModuleType("wandb")
    parts: list[WandbRun] = []
    servers: dict[str, WandbRun] = {}

    def init(**about: Any) -> WandbRun:
        assert (about["resume"], about["reinit"]) == ("allow", "create_new")
        before = servers.get(about["id"])
        rows = {} if before is None else before.rows
        summary = {} if before is None else before.summary
        step = max(rows) + 1 if rows else 0
        servers[about["id"]] = made = WandbRun(rows, summary, about, step)
        parts.append(made)
        return made

    vars(module).update(
        init=init, parts=parts, Image=Path, Settings=dict,
        login=lambda prompt, verify: False,
    )  # fmt: skip
    return module
