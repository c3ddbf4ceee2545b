"""What the search found: curves of all trials, parameters against values, importance, extremes.

searched_blocks(reported)
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from search.reporting.document import Block, Columns, Group, Heading, Picture, Words
from search.reporting.figures import draw_curves, draw_importances, draw_values
from search.reporting.importance import (
    INSIDE,
    LEAST_TRIALS,
    LEVEL,
    MOST_TRIALS,
    REPEATS,
    Importance,
    measure_importance,
    valued_trials,
)
from search.reporting.parameter_figures import draw_parallel, draw_slices
from search.reporting.reported_study import ReportedStudy, value_of
from search.reporting.tables import describe

MOST_TRIED = 20  # of the worst trials, to find one that has pictures
EXTREME_BYTES = 3_000_000  # of one picture


def searched_blocks(reported: ReportedStudy) -> list[Block]:
    """Return the figures of all trials, from their curves to how the best and the worst look."""
    return [
        *_curve_blocks(reported),
        *_parameter_blocks(reported),
        *_importance_blocks(reported),
        *_extreme_blocks(reported),
    ]


def _curve_blocks(reported: ReportedStudy) -> list[Block]:
    if not any(trial.value is not None for trial in reported.drawn):
        return [Heading("The trials"), Words("No trial has a value.")]
    minimize = reported.minimize
    step = "epoch" if reported.definition else "step"
    curves = draw_curves(reported.drawn, reported.metric, step=step, minimize=minimize)
    values = draw_values(reported.drawn, reported.metric, minimize=minimize)
    return [Heading("The trials"), *([curves] if curves else []), values]


def _parameter_blocks(reported: ReportedStudy) -> list[Block]:
    drawn, metric, minimize = reported.drawn, reported.metric, reported.minimize
    slices = draw_slices(drawn, metric, minimize=minimize)
    if not slices:
        return []
    parallel = draw_parallel(drawn, metric, minimize=minimize)
    return [
        Heading("Parameters and values"),
        Group(slices, size="small"),
        *([parallel] if parallel else []),
    ]


def _importance_blocks(reported: ReportedStudy) -> list[Block]:
    """Return which parameters mattered, and which of them chance may have made to matter."""
    several = len(reported.goals) > 1
    title = Heading(f"What mattered for {reported.metric}" if several else "What mattered")
    valued = valued_trials(reported.trials)
    if len(valued) < LEAST_TRIALS:
        few = (
            f"The trials with a value are too few to say: {len(valued)} of at least {LEAST_TRIALS}."
        )
        return [title, Words(few)]
    found = measure_importance(reported.trials, minimize=reported.minimize, repeats=REPEATS)
    if not found:
        alike = "The best quarter of the trials chose the same parameters as all others."
        return [title, Words(alike)]
    return [
        title,
        Words(describe_told(found)),
        draw_importances(found),
        Words(_describe_method(valued), "soft"),
    ]


def describe_told(found: Sequence[Importance]) -> str:
    """Return a sentence on which parameters differ from chance."""
    told = [each.name for each in found if each.is_told]
    if not told:
        return (
            "No parameter can be told from chance: with values that have nothing to do with the "
            "parameters, shares like these are usual. More trials may tell more."
        )
    *before, last = told
    names = f"{', '.join(before)} and {last}" if before else last
    others = len(found) - len(told)
    rest = {0: "", 1: " The other parameter cannot."}.get(
        others, f" The other {others} parameters cannot."
    )
    return f"{names} can be told from chance.{rest}"


def _describe_method(valued: Sequence[FrozenTrial]) -> str:
    """Return what the bars and marks are, and of which trials."""
    pruned = sum(trial.state == TrialState.PRUNED for trial in valued)
    ended_early = (
        f", of which {pruned} {'was' if pruned == 1 else 'were'} pruned and "
        f"{'counts' if pruned == 1 else 'count'} with the last value"
        if pruned
        else ""
    )
    compared = min(len(valued), MOST_TRIALS)
    of_all = "" if compared == len(valued) else f" of {len(valued)}, evenly spaced"
    return (
        "How differently the best quarter of the trials chose each parameter, as shares of all "
        f"differences, by PED-ANOVA over {compared} trials{of_all}{ended_early}. Thin lines: where "
        f"{INSIDE:.0%} of the shares lie when the trials are drawn again with replacement. Upright "
        f"marks: what a parameter without effect exceeds in {LEVEL:.0%} of searches, from values "
        "dealt out anew among the trials. The dashboard shows the same shares."
    )


def _extreme_blocks(reported: ReportedStudy) -> list[Block]:
    """Return the pictures of the best trial beside those of the worst trial that has some."""
    valued = [trial for trial in reported.trials if value_of(trial) is not None]
    worst = sorted(
        valued[1:], key=lambda t: (value_of(t) or 0.0) * (-1 if reported.minimize else 1)
    )
    columns: dict[str, dict[str, Picture]] = {}
    for word, those in (("best", valued[:1]), ("worst", worst[:MOST_TRIED])):
        for trial in those:
            found = {
                name: Picture(
                    file=f"{word}_{name}", content=path.read_bytes(), caption=name_in_words(name)
                )
                for name, path in reported.pictures(trial).items()
                if path.stat().st_size <= EXTREME_BYTES
            }
            if found:
                columns[f"The {word}: {describe(trial, reported.metric)}"] = found
                break
    return [Heading("How the best and the worst look"), Columns(columns)] if columns else []


def name_in_words(file: str) -> str:
    """Return ``latent pca`` for ``latent_pca.png``."""
    return file.rpartition(".")[0].replace("_", " ")
