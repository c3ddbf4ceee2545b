"""The winner of a study in words: how good it is, and how to load it.

describe_winner(provenance)              # Markdown
describe_dominated(records)              # exports of a front that another one beats by now
sort_pictures(provenance["pictures"])    # the one that says most comes first
loading_lines(folder, provenance)        # Python
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.console import shorten_path
from search.words import format_parameters
from storage.files.certificate_words import goals_in_words
from storage.files.markdown import escape_markup

TELLING = ("reconstructions", "denoised", "samples", "translations")  # what a person looks for


def sort_pictures(files: Iterable[str]) -> list[str]:
    """Return an export's pictures: what the model makes of images or noise comes first."""
    return sorted(files, key=lambda file: (not file.startswith(TELLING), "curve" in file))


def describe_winner(about: Mapping[str, Any]) -> str:
    """Return the winner and its values. about: the export's provenance"""
    metric = str(about["metric"])
    test = ""
    if about["test"] is not None:
        test = f" **{about['test'][metric]:.6g}** on {about['images']['test']:,} test images,"
    if about.get("goals"):
        return (
            f"**Trial {about['trial']} of the front**, trained again: "
            f"{escape_markup(goals_in_words(about))} on the validation images. "
            f"{escape_markup(format_parameters(about['parameters']))}"
        )
    return (
        f"**The winner is trial {about['trial']}**, trained again: {escape_markup(metric)}{test} "
        f"{about['valid'][metric]:.6g} on the validation images. "
        f"{escape_markup(format_parameters(about['parameters']))}"
    )


def describe_dominated(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each export of a front that another export dominates.

    Both were trained again since: a trial may owe its place on the front to a lucky seed.
    records: of the exports; the quality is the mean over their seeds
    """
    reached = [(about, vector) for about in records if (vector := _vector_of(about)) is not None]
    lines = []
    for about, own in reached:
        better = [
            other["rank"]
            for other, vector in reached
            if vector != own and all(a <= b for a, b in zip(vector, own, strict=True))
        ]
        if better:
            lines.append(
                f"trained again, rank {about['rank']} is off the front: rank {better[0]} is as "
                "good or better in all goals"
            )
    return lines


def _vector_of(about: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return what an export reaches in each goal, less is better; None: the study has one goal."""
    goals, certificate = about.get("goals"), about.get("certificate")
    if not goals or not isinstance(certificate, Mapping):
        return None
    signs = [1 if goal["direction"] == "minimize" else -1 for goal in goals]
    values = [certificate["mean"], *(goal["value"] for goal in goals[1:])]
    return tuple(sign * value for sign, value in zip(signs, values, strict=True))


def loading_lines(folder: Path, about: Mapping[str, Any]) -> str:
    """Return the lines of Python that load and use an export."""
    place = shorten_path(folder)
    lines = about.get("loading", ['model = load_export(".")', about.get("usage", "")])
    if "loading" not in about:  # an older version's
        lines = ["from models.export import load_export", "", *lines]
    return (
        "\n".join(lines)
        .replace('load_export("."', f"load_export({place!r}")
        .replace('"example.png"', repr(f"{place}/example.png"))
        .replace("  # this folder", "")
    )
