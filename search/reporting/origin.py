"""How a study went about it: data, split, sampler, pruner, epochs, machine time.

origin_blocks(reported)
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from search.reporting.document import Block, Facts, Heading
from search.reporting.reported_study import ReportedStudy, count_outcomes
from search.trials.study_cost import describe_savings, measure_cost, seconds_of
from search.words import format_count, format_duration
from storage.files.certificate_words import retraining_seconds

NOT_KEPT = "not recorded: an older version ran it"


def origin_blocks(reported: ReportedStudy) -> list[Block]:
    """Return the settings that the study was made with, and what it took."""
    facts = [
        ("trials", _trials(reported)),
        ("data", _data(reported)),
        ("split", _split(reported)),
        ("searched", _space(reported)),
        ("sampler", reported.record.sampler if reported.record else NOT_KEPT),
        ("learned from", reported.record.warm if reported.record else ""),
        ("pruner", reported.record.pruner if reported.record else NOT_KEPT),
        ("epochs", _epochs(reported)),
        ("seed", str(reported.definition.get("seed", "-"))),
        ("starts from", str(reported.definition.get("base", ""))),
        ("machine time", _machine_time(reported)),
        ("saved", _saved(reported)),
        ("machines", _machines(reported)),
    ]
    return [Heading("How it was searched"), Facts([(name, text) for name, text in facts if text])]


def _trials(reported: ReportedStudy) -> str:
    words = f"{len(reported.trials)} ended: {count_outcomes(reported.trials)}"
    paused = reported.paused
    waiting = reported.states["WAITING"] - paused
    counts = {"running": reported.states["RUNNING"], "interrupted": waiting, "paused": paused}
    words += "".join(f"; {count} {word}" for word, count in counts.items() if count)
    if reported.record and len(reported.trials) < reported.record.trials:
        words += f"; {reported.record.trials} in all"
    return words


def _data(reported: ReportedStudy) -> str:
    found: Any = reported.definition
    if not found:
        return "unknown: genstudy did not make this study"
    channels, height, width = found["shape"]
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    return f"{found['data']}, {height} × {width} pixels, {kind}"


def _split(reported: ReportedStudy) -> str:
    counts = reported.record.images if reported.record else None
    if counts is None and reported.exports:
        counts = reported.exports[0][1]["images"]
    if counts is None:
        return NOT_KEPT if reported.definition else ""
    return (
        f"{counts['train']:,} training, {counts['valid']:,} validation and {counts['test']:,} "
        "test images"
    )


def _space(reported: ReportedStudy) -> str:
    names = dict.fromkeys(name for trial in reported.trials for name in trial.params)
    return f"{format_count(len(names), 'parameter')}: {', '.join(names)}" if names else ""


def _epochs(reported: ReportedStudy) -> str:
    epochs = reported.definition.get("epochs")
    if epochs is None:
        return ""
    words = f"at most {epochs} a trial"
    trained = sum(int(trial.user_attrs.get("epochs", 0)) for trial in reported.trials)
    return f"{words}, {trained:,} in all trials" if trained else words


def _machine_time(reported: ReportedStudy) -> str:
    """Return what all trials took together, and the retrainings of the best."""
    seconds = sum(filter(None, map(seconds_of, reported.trials)))
    words = f"{format_duration(seconds)} in {format_count(len(reported.trials), 'trial')}"
    again = sum(retraining_seconds(about) for _, about in reported.exports)
    if again:
        words += f", {format_duration(again)} to train the best {len(reported.exports)} again"
    started = [trial.datetime_start for trial in reported.trials if trial.datetime_start]
    ended = [trial.datetime_complete for trial in reported.trials if trial.datetime_complete]
    if started and ended:
        words += f"; {min(started):%Y-%m-%d %H:%M} to {max(ended):%Y-%m-%d %H:%M}"
    return words


def _saved(reported: ReportedStudy) -> str:
    """Return the epochs that stopping trials early has saved."""
    epochs = reported.definition.get("epochs")
    if not isinstance(epochs, int):
        return ""
    return describe_savings(measure_cost(reported.trials, epochs))


def _machines(reported: ReportedStudy) -> str:
    kinds = Counter(
        (trial.user_attrs.get("device"), trial.user_attrs.get("host"))
        for trial in reported.trials
        if "device" in trial.user_attrs
    )
    shown = [f"{device} of {host} ({count})" for (device, host), count in kinds.most_common(4)]
    more = len(kinds) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
