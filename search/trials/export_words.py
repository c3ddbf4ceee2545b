"""The winner of a study in words: how good it is, and how to load it.

describe_winner(provenance)              # Markdown
sort_pictures(provenance["pictures"])    # the one that says most comes first
loading_lines(folder, provenance)        # Python
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
