"""What the search found: curves of all trials, parameters against values, importance, extremes.

searched_blocks(reported)
"""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from search.reporting.document import Block, Columns, Group, Heading, Picture, Words
from search.reporting.figures import draw_curves, draw_importances, draw_values
from search.reporting.parameter_figures import draw_parallel, draw_slices
from search.reporting.reported_study import ReportedStudy, value_of
from search.reporting.tables import describe

LEAST_TRIALS = 8  # with a value, to say what mattered: the best quarter are then two trials
BEST_SHARE = 0.25  # of the trials, which are compared with the others
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
    """Return which parameters mattered, by PED-ANOVA.

    PED-ANOVA asks only which trials are among the best. So it bears values of any scale, pruned
    trials however early they ended, and parameters that few trials have.
    """
    title = Heading("What mattered")
    found = [(t, v) for t in reported.trials if t.params and (v := value_of(t)) is not None]
    if len(found) < LEAST_TRIALS:
        few = (
            f"The trials with a value are too few to say: {len(found)} of at least {LEAST_TRIALS}."
        )
        return [title, Words(few)]
    sign = 1 if reported.minimize else -1
    copy = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    copy.add_trials(
        optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, value=sign * value
        )
        for trial, value in found
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    shares = optuna.importance.get_param_importances(copy, evaluator=evaluator)
    if not sum(shares.values()):
        alike = "The best quarter of the trials chose the same parameters as all others."
        return [title, Words(alike)]
    pruned = sum(trial.state == TrialState.PRUNED for trial, _ in found)
    ended_early = (
        f", of which {pruned} {'was' if pruned == 1 else 'were'} pruned and "
        f"{'counts' if pruned == 1 else 'count'} with the last value"
        if pruned
        else ""
    )
    how = (
        "How differently the best quarter of the trials chose each parameter, as shares of all "
        f"differences, by PED-ANOVA over {len(found)} trials{ended_early}. Few trials show large "
        "differences only."
    )
    return [title, draw_importances(shares), Words(how, "soft")]


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
