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
from storage import trials as all_trials
from storage.database.connection import open_storage
from storage.files.exports import atomic_folder
from storage.paths import NAME, RunPaths

LEAST_TRIALS = 8  # to say what mattered: the best quarter are then two
BEST_SHARE = 0.25


class NothingToReport(SearchError):
    """No trial of the study has ended."""


def write_report(name: str, url: str, paths: RunPaths) -> Path:
    """Write the report of a stored study; returns its folder.

    Raises `StudyNotFound`, and `NothingToReport` before a trial has ended.
    """
    all_trials(name, storage=url)  # says in one line what is wrong with the name or the database
    storage = open_storage(url)
    try:
        subject = Subject(optuna.load_study(study_name=name, storage=storage))
        if not subject.trials:
            raise NothingToReport(
                f"no trial of study {name!r} has ended yet; run it first: make study NAME={name}"
            )
        with atomic_folder(paths.report(name)) as folder:
            title = f"Study {name}"
            page = to_markdown(title, _blocks(subject, paths.artifacts, folder))
            (folder / "README.md").write_text(page, encoding="utf-8")
            (folder / "index.html").write_text(to_html(title, page), encoding="utf-8")
    finally:
        storage.engine.dispose()
    return paths.report(name)


@dataclass(frozen=True)
class Subject:
    """A study as a report sees it."""

    study: optuna.Study

    @cached_property
    def metric(self) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return (self.study.metric_names or ["value"])[0]

    @cached_property
    def sign(self) -> int:
        """What a value is multiplied with so that lower is better."""
        return 1 if self.study.direction == StudyDirection.MINIMIZE else -1

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """Those that have ended: complete ones before pruned ones before others, the better
        first."""
        found = [t for t in self.study.get_trials(deepcopy=False) if t.state.is_finished()]
        return sorted(found, key=self._rank)

    @cached_property
    def valued(self) -> list[tuple[FrozenTrial, float]]:
        """Those of `trials` that have a value; a pruned one's is its last report."""
        found = [(trial, trial.value) for trial in self.trials]
        return [(t, v) for t, v in found if v is not None and math.isfinite(v)]

    def _rank(self, trial: FrozenTrial) -> tuple[int, float, int]:
        order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1}.get(trial.state, 2)
        value = math.inf if trial.value is None else self.sign * trial.value
        return order, value, trial.number


def _blocks(subject: Subject, artifacts: Path, folder: Path) -> list[str]:
    """Return the page from its top to its end; its pictures are drawn into ``folder``."""
    return [
        paragraph(_summary(subject)),
        *conclusion_blocks(subject.study),
        *_value_blocks(subject, folder),
        *_importance_blocks(subject, folder),
        *_extreme_blocks(subject, artifacts, folder),
        *ranking_check(subject.trials, subject.metric, folder / "ranking.png"),
        *trials_blocks(subject.study.study_name, subject.trials, subject.metric),
    ]


def _summary(subject: Subject) -> str:
    counts = Counter(map(_outcome, subject.trials))
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
    better = "lower" if subject.sign == 1 else "higher"
    words = f"{len(subject.trials)} trials have ended: {told}. {subject.metric}: "
    words += f"the {better}, the better."
    best = subject.trials[0]
    if best.state == TrialState.COMPLETE and best.value is not None:
        words += f" Best: trial {best.number}, {best.value:.6g}."
    return words


def _outcome(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("outcome", trial.state.name.lower()))


def _value_blocks(subject: Subject, folder: Path) -> list[str]:
    title = heading("Values over the trials")
    if not subject.valued:
        return [title, paragraph("No trial has a value.")]
    drawn = Values(
        numbers=[trial.number for trial, _ in subject.valued],
        values=[value for _, value in subject.valued],
        pruned=[trial.state == TrialState.PRUNED for trial, _ in subject.valued],
        minimize=subject.sign == 1,
    )
    draw_values(folder / "values.png", drawn, subject.metric)
    return [title, picture("values.png", "each trial's value, and the best so far")]


def _importance_blocks(subject: Subject, folder: Path) -> list[str]:
    """PED-ANOVA looks only at which trials are among the best: pruned ones are not, however
    early they ended, values of any scale will do, and parameters that few trials have."""
    title = heading("What mattered")
    found = [(trial, value) for trial, value in subject.valued if trial.params]
    if len(found) < LEAST_TRIALS:
        few = f"Trials with a value are too few to say: {len(found)}, at least {LEAST_TRIALS}."
        return [title, paragraph(few)]
    copy = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    copy.add_trials(
        optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, value=subject.sign * value
        )
        for trial, value in found
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    shares = optuna.importance.get_param_importances(copy, evaluator=evaluator)
    if not sum(shares.values()):
        alike = "The best quarter of the trials have the parameters of all others."
        return [title, paragraph(alike)]
    draw_importances(folder / "importance.png", shares)
    pruned = sum(trial.state == TrialState.PRUNED for trial, _ in found)
    how = (
        "How differently the best quarter of the trials chose each parameter, as shares of all "
        f"differences: PED-ANOVA over {len(found)} trials, of which {pruned} were pruned and "
        "count with the value they ended with. Few trials tell large differences only."
    )
    return [title, paragraph(how), picture("importance.png", "importance of each parameter")]


def _extreme_blocks(subject: Subject, artifacts: Path, folder: Path) -> list[str]:
    """The best trial, and of the others with pictures the one with the worst value."""
    trials = [trial for trial, _ in subject.valued]
    others = sorted(subject.valued[1:], key=lambda found: -subject.sign * found[1])
    columns: dict[str, dict[str, str]] = {}
    for word, those in (("best", trials[:1]), ("worst", [trial for trial, _ in others])):
        for trial in those:
            copied = _copy_pictures(subject.study, trial, artifacts, folder, f"{word}_")
            if copied:
                columns[f"The {word}: {_describe(trial, subject.metric)}"] = copied
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
