"""The certificate of an export in words: how good its configuration is over several seeds.

    certificate_lines(read_provenance(folder))      # plain sentences, the most important first
    mean_of(about), chance_of(about)                # cells of a table: 0.0234 ± 0.0003, 87 %

A certificate is made by `search.trials.certificate`. Exports of older versions have none: then
there are no lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storage.files.markdown import format_count

SHOWN = 10  # values of seeds in a sentence
UNSURE = 0.05  # probability that another one is the best, up to which nothing is left open
LUCK = ((0.05, "none"), (0.95, "{:.0f} %"), (1.0, "all"))  # up to which share which words


def certificate_lines(about: Mapping[str, Any]) -> list[str]:
    """Return what the seeds say of an export. about: its provenance"""
    certificate = about.get("certificate")
    if not isinstance(certificate, Mapping):
        return []
    return [
        *_front_lines(about),
        *_spread_lines(about, certificate),
        *_chance_lines(certificate),
        *_luck_lines(certificate),
        *_real_lines(about),
    ]


def goals_in_words(about: Mapping[str, Any]) -> str:
    """Return the values of an export in several goals, ``mse 0.0156, code 14``; of one: empty."""
    goals: Sequence[Mapping[str, Any]] = about.get("goals") or ()
    return ", ".join(f"{goal['name']} {goal['value']:.6g}" for goal in goals)


def mean_of(about: Mapping[str, Any]) -> str:
    """Return the mean over the seeds and their deviation.

    With one seed, or without a certificate, it is the value of the export on the validation images.
    """
    certificate = about.get("certificate")
    if not isinstance(certificate, Mapping) or certificate["deviation"] is None:
        return f"{about['valid'][about['metric']]:.6g}"
    return format_spread(certificate["mean"], certificate["deviation"])


def seeds_of(about: Mapping[str, Any]) -> str:
    """Return over how many seeds the mean is taken."""
    certificate = about.get("certificate")
    return str(len(certificate["values"])) if isinstance(certificate, Mapping) else "1"


def chance_of(about: Mapping[str, Any]) -> str:
    """Return how probable it is that this is the best of the retrained configurations."""
    certificate = about.get("certificate") or {}
    return format_chance(certificate.get("probability"))


def retraining_seconds(about: Mapping[str, Any]) -> float:
    """Return how long the retrainings took, with all seeds."""
    certificate = about.get("certificate")
    if not isinstance(certificate, Mapping):
        return float(about["seconds"])
    rows = {row["trial"]: row for row in certificate["compared"]}
    return float(rows[certificate["trial"]]["seconds"])


def format_spread(mean: float, deviation: float) -> str:
    """Return a mean with its deviation, both to the digits that the deviation leaves:
    ``0.02347 ± 0.00031``, ``101.3 ± 8.1``."""
    if not deviation:
        return f"{mean:.6g} ± 0"
    digits = 1 - int(f"{deviation:.1e}".partition("e")[2])  # two digits of the deviation
    if 0 <= digits <= 9:
        return f"{mean:.{digits}f} ± {deviation:.{digits}f}"
    return f"{mean:.6g} ± {deviation:.2g}"


def format_chance(probability: float | None) -> str:
    """Return ``87 %``, ``> 99 %``, ``< 1 %``, and a dash where nothing is known."""
    if probability is None:
        return "-"
    if 0.01 <= probability <= 0.99:
        return f"{probability * 100:.0f} %"
    return "> 99 %" if probability > 0.5 else "< 1 %"


def _front_lines(about: Mapping[str, Any]) -> list[str]:
    """Say what it means that an export is on a front."""
    goals: Sequence[Mapping[str, Any]] = about.get("goals") or ()
    if not goals:
        return []
    names = [str(goal["name"]) for goal in goals]
    both = f"{', '.join(names[:-1])} and {names[-1]}"
    searched = ", ".join(f"{goal['name']} {goal['searched']:.6g}" for goal in goals)
    return [
        f"It stands on the front of the search: no other trial was better in {both} at once "
        f"({searched}). None of a front is the best of all; this export has "
        f"{goals_in_words(about)}."
    ]


def _spread_lines(about: Mapping[str, Any], certificate: Mapping[str, Any]) -> list[str]:
    metric, values = about["metric"], certificate["values"]
    lines = []
    if certificate["deviation"] is None:
        says = "; SEEDS=3 says" if certificate["seeds"] == 1 else ""
        lines.append(
            f"One seed: {metric} {values[0]:.6g} on the validation images. How far another seed "
            f"would come is not known{says}."
        )
    else:
        spread = format_spread(certificate["mean"], certificate["deviation"])
        each = ", ".join(f"{value:.5g}" for value in values[:SHOWN])
        each += f" and {len(values) - SHOWN} more" if values[SHOWN:] else ""
        lines.append(
            f"Over {len(values)} seeds: {metric} {spread} on the validation images ({each}). The "
            "weights are those of the median run."
        )
    if certificate["failed"]:
        reasons: Sequence[str] = certificate["failed"]
        have = "has" if len(reasons) == 1 else "have"
        lines.append(
            f"{format_count(len(reasons), 'seed')} of {len(values) + len(reasons)} {have} no model "
            f"({reasons[0]}): this ranks behind those that never failed."
        )
    return lines


def _chance_lines(certificate: Mapping[str, Any]) -> list[str]:
    compared: Sequence[Mapping[str, Any]] = certificate["compared"]
    sound = [row for row in compared if not row.get("failed")]
    lines = []
    if certificate["probability"] is not None:
        lines.append(
            f"Of the {len(compared)} configurations that were trained again it is the best with a "
            f"probability of {format_chance(certificate['probability'])}."
        )
    elif certificate["deviation"] == 0 and not certificate["failed"] and len(sound) > 1:
        lines.append(
            "Its seeds gave equal values, which is no measure of noise: how probable it is that "
            f"it is the best of the {len(compared)} is not known."
        )
    left = certificate["seeds"] - len(certificate["values"])
    if left > 0 and not certificate["failed"]:
        lines.append(
            "It was clearly worse than the best by then, and "
            f"{format_count(left, 'further seed')} {'was' if left == 1 else 'were'} not trained."
        )
    return lines


def _luck_lines(certificate: Mapping[str, Any]) -> list[str]:
    """Say how much of the search's lead is left over the seeds."""
    rows = {row["trial"]: row for row in certificate["compared"]}
    searched = rows.get(certificate["trial"], {}).get("searched")
    lines = []
    if searched is not None:
        lines.append(f"In the search its value was {searched:.6g}: the best epoch of one seed.")
    before, after = certificate.get("lead_in_search"), certificate.get("lead_over_seeds")
    if before is None or after is None or before <= 0:  # older versions have other names
        return lines
    if all(len(row["values"]) < 2 for row in rows.values()):
        return lines  # another seed may turn a lead of one seed round
    unit = "{:.1f} %" if certificate["is_relative"] else "{:.4g}"
    scale = 100 if certificate["is_relative"] else 1
    led, lead = unit.format(scale * before), unit.format(scale * abs(after))
    left = f"it leads by {lead}" if after > 0 else f"it is {lead} behind the best"
    luck = min(max(1 - after / before, 0.0), 1.0)
    share = next(words for most, words in LUCK if luck <= most).format(100 * luck)
    lines.append(
        f"The search's best of these, trial {certificate['search_best']}, led the next by "
        f"{led}; over the seeds {left}: {share} of its lead was luck{_as_far(certificate)}."
    )
    return lines


def _as_far(certificate: Mapping[str, Any]) -> str:
    """Return how little the seeds may tell, where they leave open which one is the best."""
    probability = certificate.get("probability")
    if probability is None or not UNSURE < probability < 1 - UNSURE:
        return ""
    seeds = max(len(row["values"]) for row in certificate["compared"])
    return f", as far as {format_count(seeds, 'seed')} each can tell"


def _real_lines(about: Mapping[str, Any]) -> list[str]:
    """Say which value real images get, or which value a model has to beat."""
    metric = about["metric"]
    judges = {"validation": about.get("judge") or {}, "test": about.get("test_judge") or {}}
    floors = [
        f"{judge['floor'][metric]:.5g} ({part})"
        for part, judge in judges.items()
        if metric in judge.get("floor", {})
    ]
    if floors:
        return [f"Real images get {metric} {', '.join(floors)}."]
    baseline: Mapping[str, Any] = about.get("baseline") or {}
    if "valid" in baseline:
        what = str(baseline["what"])
        return [f"{what[:1].upper()}{what[1:]} has {metric} {baseline['valid']:.6g} there."]
    return []
