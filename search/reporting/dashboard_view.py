"""What `make dashboard` shows of a study in another way than optuna-dashboard does.

    app = DashboardView(optuna_dashboard.wsgi(storage), storage)

- Epochs count from 1, as everywhere else: Optuna's steps of our studies count from 0.
- The attributes of a trial that a person asks for first stand first: outcome, reason, verdict.
  Those that only a developer asks for stand last: host, process, revision.
- The definition of a study is shown as words, and not as JSON.
- The table that can be saved as CSV holds no formulas.
- Importance is that of reports (`search.reporting.importance`), which compares the best quarter and
  counts pruned trials; optuna-dashboard compares the best tenth of the complete ones.
- Notes of trials are read once for all trials. optuna-dashboard searches all notes again for each
  trial, which takes nine seconds for two thousand trials.

Only the answers about one study are changed, on their way to the browser, and nothing in the
database.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from optuna.study import StudyDirection

from search.reporting.importance import measure_importance
from storage.database.json_texts import parse_json
from storage.database.notes import read_trial_notes
from storage.database.optuna_storage import TrialStorage
from storage.files.spreadsheets import plain_csv

Environment = dict[str, Any]
STUDY = re.compile(r"/api/studies/(\d+)")
IMPORTANCE = re.compile(r"/api/studies/(\d+)/param_importances")
TABLE = "/csv/"
OURS = "definition"  # the attribute of studies that genstudy made
FIRST = (
    "outcome", "reason", "verdict", "verdict_epoch", "verdict_reason", "modes", "epochs", "bound",
    "reference", "seconds",
)  # fmt: skip
SHOWN = ("model", "metric", "data", "shape", "space", "epochs", "seed", "base")  # of the definition
LAST = (
    "last_frechet", "second_frechet", "second_coverage", "peak_memory_mib", "needed_memory_mib",
    "memory_budget_mib", "no_picture", "no_checkpoint", "device", "host", "pid", "seed", "revision",
    "code", "environment", "extractor", "judged_samples", "extractor_accuracy", "floor",
    "label_frechet_floor", "label_accuracy_floor", "picture", "traceback", OURS,
)  # fmt: skip


class DashboardView:
    """A WSGI application around that of optuna-dashboard."""

    def __init__(self, app: Callable[..., Iterable[bytes]], storage: TrialStorage) -> None:
        self.app = app
        self.storage = storage
        storage.leaves_out_trial_notes = True

    def __call__(self, environ: Environment, start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"].rstrip("/")
        asked, important = STUDY.fullmatch(path), IMPORTANCE.fullmatch(path)
        if environ["REQUEST_METHOD"] != "GET" or not (asked or important or path.startswith(TABLE)):
            return self.app(environ, start_response)
        started: list[Any] = []

        def keep(status: str, headers: list[tuple[str, str]], *error: Any) -> None:
            started[:] = [status, headers]

        answer = self.app(environ, keep)
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        status, headers = started
        if status.startswith("200") and important:
            body = self._importance(int(important[1]), body)
        elif status.startswith("200") and asked is None:
            body = plain_csv(body.decode()).encode()
        elif status.startswith("200") and asked:
            study = json.loads(body)
            self._rewrite(int(asked[1]), study)
            body = json.dumps(study).encode()
        others = [pair for pair in headers if pair[0].lower() != "content-length"]
        start_response(status, [*others, ("Content-Length", str(len(body)))])
        return [body]

    def _importance(self, study_id: int, body: bytes) -> bytes:
        """Return the importance of a study's parameters, as optuna-dashboard writes it.

        Of several objectives, which a report does not know, its answer ``body`` stands.
        """
        directions = self.storage.get_study_directions(study_id)
        if len(directions) != 1:
            return body
        found = measure_importance(
            self.storage.get_all_trials(study_id, deepcopy=False),
            minimize=directions[0] == StudyDirection.MINIMIZE,
            repeats=0,
        )
        kinds = {
            name: type(kind).__name__
            for trial in self.storage.get_all_trials(study_id, deepcopy=False)
            for name, kind in trial.distributions.items()
        }
        plain = [
            {"name": each.name, "importance": each.share, "distribution": kinds[each.name]}
            for each in found
        ]
        return json.dumps({"param_importances": [plain]}).encode()

    def _rewrite(self, study_id: int, study: dict[str, Any]) -> None:
        """Change the answer about a study in place."""
        notes = read_trial_notes(self.storage, study_id)
        is_ours = any(attribute["key"] == OURS for attribute in study["user_attrs"])
        for trial in (*study["trials"], *study["best_trials"]):
            version, body = notes.get(trial["trial_id"], (0, ""))
            trial["note"] = {"version": version, "body": body}
            trial["user_attrs"].sort(key=place_of)
            for reported in trial["intermediate_values"] if is_ours else ():
                reported["step"] += 1
        study["union_user_attrs"].sort(key=place_of)
        study["user_attrs"] = _readable(study["user_attrs"])


def _readable(attributes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a study's attributes, those that define it one by one instead of as JSON."""
    others = [attribute for attribute in attributes if attribute["key"] != OURS]
    for attribute in attributes:
        if attribute["key"] == OURS:
            found = _definition(attribute["value"])
            others += [
                {"key": key, "value": _in_words(found[key])} for key in SHOWN if found.get(key)
            ]
    return others


def _definition(text: str) -> dict[str, Any]:
    """Return what defines a study; empty where somebody else wrote another thing there."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _in_words(value: object) -> str:
    match value:
        case dict():
            return ", ".join(map(str, value))
        case list():
            return " × ".join(map(str, value))
        case _:
            return str(value)


def place_of(attribute: dict[str, Any]) -> int:
    """Return where an attribute stands: those of users between ours."""
    name = attribute["key"]
    if name in FIRST:
        return FIRST.index(name) - len(FIRST)
    return LAST.index(name) + 1 if name in LAST else 0
