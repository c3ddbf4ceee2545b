"""A study as a page with pictures: what was tried, what mattered, how the best and the worst look.

    write_report("gan_balance", "sqlite:///runs/studies.db", RunPaths(Path("runs")))

    RUNS/reports/STUDY/
      README.md, index.html      the same page twice
      values.png, importance.png, ranking.png
      best_*.png, worst_*.png    what the dashboard shows of these two trials

It can be written at any time; it takes the place of an earlier one.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial, TrialState

from search.errors import SearchError
from search.pages import Beside, Heading, Page, Part, Rows, Shown, Words, html, markdown
from search.ranking import ranking_check
from search.report_figures import Values, draw_importances, draw_values
from storage import trials as all_trials
from storage.database import open_storage
from storage.exports import staged
from storage.paths import NAME, RunPaths

MOST_ROWS = 200  # of the table of trials
LEAST_TRIALS = 8  # to say what mattered: the best quarter are then two
BEST_SHARE = 0.25
ATTRIBUTES = (
    "outcome",
    "verdict",
    "modes",
    "epochs",
)  # columns of the table where trials have them


class NothingToReport(SearchError):
    """No trial of the study has ended."""


def write_report(name: str, url: str, paths: RunPaths) -> Path:
    """Write the report of a stored study; returns its folder.

    Raises `StudyNotFound`, and `NothingToReport` before a trial has ended.
    """
    all_trials(name, storage=url)  # says in one line what is wrong with the name or the database
    storage = open_storage(url)
    try:
        study = optuna.load_study(study_name=name, storage=storage)
        ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        if not ended:
            raise NothingToReport(
                f"no trial of study {name!r} has ended yet; run it first: make study NAME={name}"
            )
        folder = paths.report(name)
        with staged(folder) as staging:
            page = _page(study, ended, paths.artifacts, staging)
            (staging / "README.md").write_text(markdown(page), encoding="utf-8")
            (staging / "index.html").write_text(html(page), encoding="utf-8")
    finally:
        storage.engine.dispose()
    return folder


def _page(study: optuna.Study, ended: Sequence[FrozenTrial], artifacts: Path, folder: Path) -> Page:
    minimize = study.direction == optuna.study.StudyDirection.MINIMIZE
    metric = _metric(study)
    ranked = sorted(ended, key=lambda trial: _rank(trial, minimize=minimize))
    parts: list[Part] = [Words(_summary(ranked, metric, minimize=minimize))]
    parts += _values(ended, metric, folder, minimize=minimize)
    parts += _importance(study, ended, folder, minimize=minimize)
    parts += _extremes(study, ranked, metric, artifacts, folder)
    parts += ranking_check(ended, metric, folder / "ranking.png")
    parts += _table(ranked, metric)
    return Page(title=f"Study {study.study_name}", parts=parts)


def _metric(study: optuna.Study) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return (study.metric_names or ["value"])[0]


def _value(trial: FrozenTrial) -> float | None:
    """Of a trial that has one: a pruned one's is its last report."""
    return trial.value if trial.value is not None and math.isfinite(trial.value) else None


def _rank(trial: FrozenTrial, *, minimize: bool) -> tuple[int, float, int]:
    """Complete trials before pruned ones before others, the better first."""
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}.get(trial.state, 2)
    value = _value(trial)
    if value is None:
        return order, math.inf, trial.number
    return order, value if minimize else -value, trial.number


def _summary(ranked: Sequence[FrozenTrial], metric: str, *, minimize: bool) -> str:
    counts = Counter(_outcome(trial) for trial in ranked)
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    best = ranked[0]
    words = f"{len(ranked)} trials have ended: {told}. {metric}: "
    words += "the lower, the better." if minimize else "the higher, the better."
    if best.state == TrialState.COMPLETE and best.value is not None:
        words += f" Best: trial {best.number}, {best.value:.6g}."
    return words


def _outcome(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("outcome", trial.state.name.lower()))


def _values(
    ended: Sequence[FrozenTrial], metric: str, folder: Path, *, minimize: bool
) -> list[Part]:
    heading = Heading("Values over the trials")
    found = [(t.number, value, t.state == TrialState.PRUNED) for t in ended
             if (value := _value(t)) is not None]  # fmt: skip
    if not found:
        return [heading, Words("No trial has a value.")]
    numbers, values, pruned = zip(*found, strict=True)
    drawn = Values(numbers=numbers, values=values, pruned=pruned, minimize=minimize)
    draw_values(folder / "values.png", drawn, metric)
    return [heading, Shown("values.png", "each trial's value, and the best so far")]


def _importance(
    study: optuna.Study, ended: Sequence[FrozenTrial], folder: Path, *, minimize: bool
) -> list[Part]:
    """PED-ANOVA looks only at which trials are among the best: pruned ones are not, however
    early they ended, and values of any scale will do."""
    heading = Heading("What mattered")
    sign = 1 if minimize else -1
    found = [
        optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, value=sign * value
        )
        for trial in ended
        if (value := _value(trial)) is not None and trial.params
    ]
    pruned = sum(t.state == TrialState.PRUNED and _value(t) is not None for t in ended)
    if len(found) < LEAST_TRIALS:
        few = f"{len(found)} trials with a value are too few to say: at least {LEAST_TRIALS}."
        return [heading, Words(few)]
    copy = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    copy.add_trials(found)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    shares = optuna.importance.get_param_importances(copy, evaluator=evaluator)
    if not sum(shares.values()):
        return [heading, Words("The best quarter of the trials have the parameters of all others.")]
    draw_importances(folder / "importance.png", shares)
    how = (
        f"How differently the best quarter of the trials chose each parameter, as shares of 1: "
        f"PED-ANOVA over {len(found)} trials, of which {pruned} were pruned and count with the "
        "value they ended with. Few trials tell large differences only."
    )
    return [heading, Words(how), Shown("importance.png", "importance of each parameter")]


def _extremes(
    study: optuna.Study,
    ranked: Sequence[FrozenTrial],
    metric: str,
    artifacts: Path,
    folder: Path,
) -> list[Part]:
    """The first and the last of those with a value that have pictures."""
    pictured: list[tuple[str, list[Shown]]] = []
    for trial in (ranked[0], *ranked[:0:-1]):
        if _value(trial) is None or len(pictured) == 2:
            continue
        word = "worst" if trial is not ranked[0] else "best"
        shown = _copied(study, trial, word, artifacts, folder)
        if shown:
            title = (
                f"The {word}: trial {trial.number}, {_outcome(trial)}, {metric} {trial.value:.6g}"
            )
            pictured.append((title + _said(trial), shown))
    if not pictured:
        return []
    return [Heading("How the best and the worst look"), Beside(pictured)]


def _said(trial: FrozenTrial) -> str:
    verdict = trial.user_attrs.get("verdict")
    return f", {str(verdict).replace('_', ' ')}" if verdict else ""


def _copied(
    study: optuna.Study, trial: FrozenTrial, word: str, artifacts: Path, folder: Path
) -> list[Shown]:
    """Pictures of a trial's end, beside the page."""
    found: list[Shown] = []
    for about in get_all_artifact_meta(trial, storage=study._storage):
        source = artifacts / about.artifact_id
        usable = NAME.fullmatch(about.filename) and about.mimetype.startswith("image/")
        if not usable or "-epoch-" in about.filename or not source.is_file():
            continue
        file = f"{word}_{about.filename}"
        if all(shown.file != file for shown in found):
            shutil.copy(source, folder / file)
            found.append(Shown(file, Path(about.filename).stem.replace("_", " ")))
    return found


def _table(ranked: Sequence[FrozenTrial], metric: str) -> list[Part]:
    shown = ranked[:MOST_ROWS]
    attributes = [name for name in ATTRIBUTES if any(name in t.user_attrs for t in shown)]
    parameters = list(dict.fromkeys(name for trial in shown for name in trial.params))
    columns = ["trial", metric, *attributes, *parameters]
    rows = [
        [
            str(trial.number),
            _cell(trial.value),
            *(_cell(trial.user_attrs.get(name)) for name in attributes),
            *(_cell(trial.params.get(name)) for name in parameters),
        ]
        for trial in shown
    ]
    numbers = frozenset(
        place for place in range(len(columns)) if all(_is_number(row[place]) for row in rows)
    )
    parts: list[Part] = [Heading("Trials"), Rows(columns, rows, numbers)]
    if len(ranked) > len(shown):
        parts.append(
            Words(f"The first {len(shown)} of {len(ranked)}; all of them: make trials CSV=FILE.")
        )
    return parts


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value).replace("_", " ") if isinstance(value, str) else str(value)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True
