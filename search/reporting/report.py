"""A study as a page with pictures: what was tried, what mattered, how the best and the worst look.

    make report NAME=gan_balance
    write_report("gan_balance", "sqlite:///runs/studies.db", RunPaths(Path("runs")))

    RUNS/reports/STUDY/
      README.md, index.html      the same page, as Markdown and as HTML
      values.png, importance.png, ranking.png
      best_*.png, worst_*.png    the pictures of these two trials in the dashboard

A report can be written at any time, and replaces an earlier one.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import optuna
from optuna.artifacts import get_all_artifact_meta
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.errors import SearchError
from search.reporting.document import (
    heading,
    paragraph,
    picture,
    pictures_table,
    to_html,
    to_markdown,
)
from search.reporting.figures import Values, draw_importances, draw_values
from search.reporting.second_judge import ranking_check
from search.reporting.tables import conclusion_blocks, trials_blocks, verdict_in_words
from search.spelling import spell
from storage import trials as all_trials
from storage.database.connection import open_storage
from storage.files.exports import atomic_folder
from storage.paths import NAME, RunPaths

LEAST_TRIALS = 8  # with a value, to say what mattered: the best quarter are then two trials
BEST_SHARE = 0.25  # of the trials, which are compared with the others


class NothingToReport(SearchError):
    """No trial of the study has ended."""


def write_report(name: str, url: str, paths: RunPaths) -> Path:
    """Write the report of a stored study and return its folder.

    Raises `StudyNotFound`, and `NothingToReport` before a trial has ended.
    """
    all_trials(name, storage=url)  # raises in one line if the name or the database is wrong
    storage = open_storage(url)
    try:
        reported = ReportedStudy(optuna.load_study(study_name=name, storage=storage))
        if not reported.trials:
            raise NothingToReport(
                f"no trial of study {name!r} has ended yet; run it first: "
                + spell("study", NAME=name)
            )
        with atomic_folder(paths.report(name)) as folder:
            title = f"Study {name}"
            page = to_markdown(title, _blocks(reported, paths.artifacts, folder))
            (folder / "README.md").write_text(page, encoding="utf-8")
            (folder / "index.html").write_text(to_html(title, page), encoding="utf-8")
    finally:
        storage.engine.dispose()
    return paths.report(name)


@dataclass(frozen=True)
class ReportedStudy:
    """A study as a report reads it."""

    study: optuna.Study

    @cached_property
    def metric(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return (self.study.metric_names or ["value"])[0]

    @cached_property
    def sign(self) -> int:
        """The factor that turns a value into one of which lower is better."""
        return 1 if self.study.direction == StudyDirection.MINIMIZE else -1

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """The trials that have ended, best first: complete, then pruned, then all others."""
        found = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        return sorted(found, key=self._rank)

    @cached_property
    def valued(self) -> list[tuple[FrozenTrial, float]]:
        """Those of `trials` with a value; the value of a pruned trial is its last report."""
        found = [(trial, trial.value) for trial in self.trials]
        return [(t, v) for t, v in found if v is not None and math.isfinite(v)]

    def _rank(self, trial: FrozenTrial) -> tuple[int, float, int]:
        order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}.get(trial.state, 2)
        value = math.inf if trial.value is None else self.sign * trial.value
        return order, value, trial.number


def _blocks(reported: ReportedStudy, artifacts: Path, folder: Path) -> list[str]:
    """Return the blocks of the page from top to bottom; draw its pictures into ``folder``."""
    return [
        paragraph(_summary(reported)),
        *conclusion_blocks(reported.study),
        *_value_blocks(reported, folder),
        *_importance_blocks(reported, folder),
        *_extreme_blocks(reported, artifacts, folder),
        *ranking_check(reported.trials, reported.metric, folder / "ranking.png"),
        *trials_blocks(reported.study.study_name, reported.trials, reported.metric),
    ]


def _summary(reported: ReportedStudy) -> str:
    counts = Counter(map(_outcome, reported.trials))
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    better = "lower" if reported.sign == 1 else "higher"
    words = f"{len(reported.trials)} trials have ended: {outcomes}. {reported.metric}: "
    words += f"the {better}, the better."
    best = reported.trials[0]
    if best.state == TrialState.COMPLETE and best.value is not None:
        words += f" Best: trial {best.number}, {best.value:.6g}."
    return words


def _outcome(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("outcome", trial.state.name.lower()))


def _value_blocks(reported: ReportedStudy, folder: Path) -> list[str]:
    title = heading("Values over the trials")
    if not reported.valued:
        return [title, paragraph("No trial has a value.")]
    drawn = Values(
        numbers=[trial.number for trial, _ in reported.valued],
        values=[value for _, value in reported.valued],
        pruned=[trial.state == TrialState.PRUNED for trial, _ in reported.valued],
        minimize=reported.sign == 1,
    )
    draw_values(folder / "values.png", drawn, reported.metric)
    return [title, picture("values.png", "each trial's value, and the best so far")]


def _importance_blocks(reported: ReportedStudy, folder: Path) -> list[str]:
    """Return which parameters mattered, by PED-ANOVA.

    PED-ANOVA asks only which trials are among the best. So it bears values of any scale, pruned
    trials however early they ended, and parameters that few trials have.
    """
    title = heading("What mattered")
    found = [(trial, value) for trial, value in reported.valued if trial.params]
    if len(found) < LEAST_TRIALS:
        few = (
            f"The trials with a value are too few to say: {len(found)} of at least {LEAST_TRIALS}."
        )
        return [title, paragraph(few)]
    copy = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    copy.add_trials(
        optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, value=reported.sign * value
        )
        for trial, value in found
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    shares = optuna.importance.get_param_importances(copy, evaluator=evaluator)
    if not sum(shares.values()):
        alike = "The best quarter of the trials chose the same parameters as all others."
        return [title, paragraph(alike)]
    draw_importances(folder / "importance.png", shares)
    pruned = sum(trial.state == TrialState.PRUNED for trial, _ in found)
    how = (
        "The figure shows how differently the best quarter of the trials chose each parameter, as "
        f"shares of all differences, by PED-ANOVA over {len(found)} trials, of which {pruned} were "
        "pruned and count with the value that they ended with. Few trials show large differences "
        "only."
    )
    return [title, paragraph(how), picture("importance.png", "importance of each parameter")]


def _extreme_blocks(reported: ReportedStudy, artifacts: Path, folder: Path) -> list[str]:
    """Return the pictures of the best trial beside those of the worst trial that has some."""
    trials = [trial for trial, _ in reported.valued]
    others = sorted(reported.valued[1:], key=lambda found: -reported.sign * found[1])
    columns: dict[str, dict[str, str]] = {}
    for word, those in (("best", trials[:1]), ("worst", [trial for trial, _ in others])):
        for trial in those:
            copied = _copy_pictures(reported.study, trial, artifacts, folder, f"{word}_")
            if copied:
                columns[f"The {word}: {_describe(trial, reported.metric)}"] = copied
                break
    if not columns:
        return []
    return [heading("How the best and the worst look"), pictures_table(columns)]


def _describe(trial: FrozenTrial, metric: str) -> str:
    verdict = verdict_in_words(trial.user_attrs.get("verdict", ""))
    words = [f"trial {trial.number}", _outcome(trial), f"{metric} {trial.value:.6g}", verdict]
    return ", ".join(filter(None, words))


def _copy_pictures(
    study: optuna.Study, trial: FrozenTrial, artifacts: Path, folder: Path, prefix: str
) -> dict[str, str]:
    """Copy the pictures that a trial ended with beside the page; return the copies by name."""
    copied: dict[str, str] = {}
    for about in get_all_artifact_meta(trial, storage=study._storage):
        source, name = artifacts / about.artifact_id, about.filename
        usable = NAME.fullmatch(name) and about.mimetype.startswith("image/")
        if usable and "-epoch-" not in name and source.is_file():
            shutil.copy(source, folder / f"{prefix}{name}")
            copied[name] = f"{prefix}{name}"
    return copied
