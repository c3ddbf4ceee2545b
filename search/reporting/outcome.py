"""The outcome of a study: the winner, how good it is, what was checked, how to load it.

    outcome_blocks(reported)

Without an export the best trial stands here, or the reason why there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from search.console import shorten_path
from search.goals import join_names
from search.reporting.document import (
    Block,
    Cell,
    Code,
    Facts,
    Figure,
    Group,
    Heading,
    Picture,
    Table,
    Words,
)
from search.reporting.figures import draw_learning_curve
from search.reporting.pictures import is_picture
from search.reporting.reported_study import ReportedStudy, count_outcomes, value_of
from search.spelling import spell
from search.trials.export_words import describe_dominated, loading_lines, sort_pictures
from search.trials.verdict_words import verdict_in_words
from search.words import format_count, format_duration, format_parameters
from storage.files.certificate_words import certificate_lines, chance_of, mean_of, seeds_of
from storage.files.markdown import describe_basis, format_cell
from storage.files.model_card import describe_scores, warnings_of
from storage.paths import NAME

MOST_BYTES = 3_000_000  # of one picture: a long animation is left to its folder
LEFT_OUT = ("learning_curve.", "epoch_")  # the page draws the one itself; the others are many


def outcome_blocks(reported: ReportedStudy) -> list[Block]:
    """Return the outcome: of the winner that was exported, else of the best trial."""
    if reported.exports:
        folder, about = reported.exports[0]
        pictures = _winner_pictures(folder, about)
        it = "the winner" if len(reported.goals) == 1 else "the first export"
        return [
            Words(_lead(reported, about), "lead"),
            *[Words(line, "warning") for line in warnings_of(about)],
            *pictures[:1],
            Facts(_winner_facts(reported, folder, about)),
            *_certificate(about),
            Heading(f"Load {it}"),
            Code(loading_lines(folder, about)),
            Heading(f"{it.capitalize()}'s training and pictures"),
            Group([_winner_curve(about), *pictures[1:]]),
            *_tables(about),
            *_export_table(reported),
        ]
    best = reported.trials[0]
    if best.state != TrialState.COMPLETE:
        return [Words(_nothing_complete(reported), "lead")]
    if len(reported.goals) > 1 and not reported.front:
        return [Words("Every complete trial violates constraints: none is on a front.", "lead")]
    found = value_of(best)
    value = "" if found is None else f" with {reported.metric} {found:.6g}"
    words = f"The best is trial {best.number}{value}. "
    again = "the best again and tests the winner"
    if len(reported.goals) > 1:
        words, again = f"{describe_front(reported)} ", "its first trials again and tests them"
    if reported.definition:
        words += (
            "That is on the validation images; nothing is exported yet: "
            f"{spell('study', NAME=_command(reported))} trains {again}."
        )
    shown = [
        Picture(file=f"best_{name}", content=path.read_bytes(), caption=Path(name).stem)
        for name, path in list(reported.pictures(best).items())[:1]
    ]
    facts = [("parameters", format_parameters(best.params)), *_verdict_fact(best.user_attrs)]
    return [Words(words.strip(), "lead"), *([Group(shown)] if shown else []), Facts(facts)]


def _command(reported: ReportedStudy) -> str:
    return reported.record.command if reported.record else reported.name


def _lead(reported: ReportedStudy, about: Mapping[str, Any]) -> str:
    """Return the outcome in one sentence or two."""
    metric = str(about["metric"])
    start = f"The winner is trial {about['trial']} of {len(reported.all_trials)}, trained again"
    if len(reported.goals) > 1:
        count = len(reported.exports)
        which = "This is trial" if count == 1 else f"The first of {count} exports is trial"
        start = f"{describe_front(reported)} {which} {about['trial']}, trained again"
    if about["test"] is None:
        return f"{start}: {metric} {about['valid'][metric]:.6g} on the validation images."
    test, count = about["test"][metric], about["images"]["test"]
    lead = f"{start}: {metric} {test:.6g} on {count:,} test images, measured once."
    if reported.models_tested > 1:
        lead += (
            f" {reported.models_tested} models of this study were measured on them: the best of "
            "several test values is partly luck."
        )
    return lead + _better_since(reported)


def describe_front(reported: ReportedStudy) -> str:
    """Return how many trials are on the front of a study with several goals."""
    count = len(reported.front)
    return (
        f"{format_count(count, 'trial')} {'is' if count == 1 else 'are'} on the front of "
        f"{join_names(reported.goals)}: none of the {len(reported.all_trials)} beats "
        f"{'it' if count == 1 else 'them'} in all goals."
    )


def _better_since(reported: ReportedStudy) -> str:
    """Return a sentence on a trial that is better than all retrained ones; empty: none is."""
    best, exported = reported.trials[0], {about.get("trial") for _, about in reported.exports}
    chosen = [trial for trial in reported.trials if trial.number in exported]
    before = [value for trial in chosen if (value := value_of(trial)) is not None]
    own = value_of(best)
    if best.number in exported or not before or own is None or len(reported.goals) > 1:
        return ""
    least = min(before) if reported.minimize else max(before)
    if (own >= least) if reported.minimize else (own <= least):
        return ""  # a person ranks the trials, or they are equal
    return (
        f" Since then trial {best.number} has done better in the search ({reported.metric} "
        f"{own:.6g}, {least:.6g} before), and is not trained again yet."
    )


def _nothing_complete(reported: ReportedStudy) -> str:
    reasons = [t.user_attrs.get("reason") for t in reported.trials]
    reason = next((str(found) for found in reasons if found), None)
    why = f" The first reason: {reason}" if reason else ""
    return f"No trial is complete: {count_outcomes(reported.trials)}.{why}"


def _winner_facts(
    reported: ReportedStudy, folder: Path, about: Mapping[str, Any]
) -> list[tuple[str, str]]:
    metric, direction = str(about["metric"]), "lower" if reported.minimize else "higher"
    test = "-" if about["test"] is None else f"{about['test'][metric]:.6g}, judged once"
    facts = [
        (f"{metric}, test", test),
        (f"{metric}, validation", f"{about['valid'][metric]:.6g} (the {direction}, the better)"),
        *_cost_facts(about),
        *_baseline_fact(about),
        ("behind these", describe_scores(about).partition(": ")[2].removesuffix(".")),
        ("model", f"{about['model']}, {about['model_parameters']:,} weights"),
        ("parameters", format_parameters(about["parameters"])),
        (
            "training",
            f"{format_count(about['epochs'], 'epoch')} in {format_duration(about['seconds'])} on "
            f"{about['device']}, ended by {about['ended_by']}; epoch {about['best_epoch']} is kept",
        ),
        *_verdict_fact(about.get("verdict") or {}),
        *_judge_fact(about),
        ("checked", describe_checks(about)),
        ("lies in", shorten_path(folder)),
    ]
    return [(name, text) for name, text in facts if text]


def describe_checks(about: Mapping[str, Any]) -> str:
    """Return what was checked before the export appeared, in a sentence or two."""
    programs = sorted(name for name in about["sha256"] if name.endswith((".onnx", ".pt2")))
    differences = about["output_differences"].values()
    largest = f"{max(differences):.1e}" if differences else "-"
    return (
        f"{', '.join(programs) or 'the weights'} were loaded back and compared with the live "
        f"model: largest difference {largest} of the largest output. SHA-256 of "
        f"{format_count(len(about['sha256']), 'file')} in provenance.json, code {about['revision']}"
    )


def _certificate(about: Mapping[str, Any]) -> list[Block]:
    """Return how sure it is that the winner is as good as it looks."""
    lines = certificate_lines(about)
    return [Heading("How sure that is"), Words(" ".join(lines))] if lines else []


def _verdict_fact(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not found.keys() >= {"verdict", "verdict_epoch", "verdict_reason"}:
        return []
    words = f"{verdict_in_words(str(found['verdict']))}, epoch {found['verdict_epoch']}"
    return [("verdict", f"{words}: {found['verdict_reason']}")]


def _baseline_fact(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the model has to beat, where that was measured."""
    baseline = about.get("baseline") or {}
    part = "valid" if about["test"] is None else "test"
    return [(str(baseline["what"]), f"{baseline[part]:.6g}")] if part in baseline else []


def _cost_facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the values of the export in the goals after the first; nothing for a study with one
    goal."""
    others = list(about.get("goals", ()))[1:]
    better = {"minimize": "lower", "maximize": "higher"}
    return [
        (str(goal["name"]), f"{goal['value']:.6g} (the {better[goal['direction']]}, the better)")
        for goal in others
    ]


def _judge_fact(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return which features measure the samples, and which value real images get."""
    judge, metric = about.get("judge"), about["metric"]
    if not judge or metric not in judge.get("floor", {}):
        return []
    return [
        (
            "floor",
            f"real images reach {metric} {judge['floor'][metric]:.5g} in the features of the "
            f"{judge['extractor']} {str(judge['hash'])[:12]}, by {judge['samples']:,} samples",
        )
    ]


def _winner_pictures(folder: Path, about: Mapping[str, Any]) -> list[Picture]:
    """Return the pictures of an export, what it makes of images or noise first."""
    found = []
    captions: Mapping[str, str] = about["pictures"]
    for file in sort_pictures(captions):
        path = folder / file
        if file.startswith(LEFT_OUT) or not (NAME.fullmatch(file) and is_picture(path)):
            continue
        if path.stat().st_size > MOST_BYTES:
            continue
        found.append(Picture(file=file, content=path.read_bytes(), caption=captions[file]))
    return found


def _winner_curve(about: Mapping[str, Any]) -> Figure:
    metric = str(about["metric"])
    lines = {
        name: [float(epoch[part].get(metric, math.nan)) for epoch in about["curve"]]
        for part, name in (("train", "training"), ("valid", "validation"))
        if metric in about["curve"][0][part]
    }
    return draw_learning_curve(lines, metric, about["best_epoch"])


def _export_table(reported: ReportedStudy) -> list[Block]:
    """Return the ranks, where more than one was exported."""
    if len(reported.exports) < 2:
        return []
    others = [goal.name for goal in reported.goals[1:]]
    rows: list[Sequence[str | Cell]] = []
    for folder, about in reported.exports:
        metric, number = str(about["metric"]), about["trial"]
        reached = {goal["name"]: f"{goal['value']:.6g}" for goal in about.get("goals", ())}
        goals = [reached.get(name, "-") for name in others] or [chance_of(about)]
        rows.append(
            [
                str(about["rank"]),
                Cell(text=str(number), value=number, link=f"#trial-{number}"),
                str(about["epochs"]),
                seeds_of(about),
                mean_of(about),
                *goals,
                f"{about['test'][metric]:.6g}" if about["test"] else "-",
                shorten_path(folder),
            ]
        )
    metric = reported.metric
    columns = [
        "rank", "trial", "epochs", "seeds", f"{metric}, validation", *(others or ["P(best)"]),
        f"{metric}, test", "folder",
    ]  # fmt: skip
    what = "Of the front" if others else "The best"
    lines = describe_dominated([about for _, about in reported.exports])
    said = [f"{line[:1].upper()}{line[1:]}." for line in lines]
    table = Table(columns=columns, rows=rows)
    return [Heading(f"{what}, trained again"), table, *map(Words, said)]


def _tables(about: Mapping[str, Any]) -> list[Block]:
    """Return the model's own tables, as its card has them."""
    blocks: list[Block] = []
    for table in about["tables"]:
        rows = [[format_cell(cell) for cell in row] for row in table["rows"]]
        blocks += [Heading(table["title"]), Table(columns=table["columns"], rows=rows)]
        said = " ".join(filter(None, [describe_basis(table), table["note"]]))
        blocks.append(Words(said, "soft"))
    return blocks
