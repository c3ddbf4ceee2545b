"""The table of a model card that sets measures of a model's samples beside those of real images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.evaluation.measures import CLASS_MEASURES, LABEL_MEASURES, MEASURES
from models.results import Table


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The measures of a model's samples against one part of the images.

    measured: its measures by name
    record: `models.evaluation.sample_evaluator.SampleEvaluator.record`
    """

    part: str
    measured: Mapping[str, float]
    record: Mapping[str, Any]


def quality_table(*parts: Judged) -> Table:
    """Return the table: a row for each measure, and two columns for each part of the images.

    The first column is that of the model, the second that of real images.
    """
    first = parts[0].record
    rows = []
    for name, meaning in {**MEASURES, **CLASS_MEASURES, **LABEL_MEASURES}.items():
        if name in first["floor"]:
            values = [(part.measured[name], part.record["floor"][name]) for part in parts]
            rows.append((name, *(number for pair in values for number in pair), meaning))
    heads = [head for part in parts for head in (part.part, f"real images ({part.part})")]
    accuracy = first["accuracy"]
    tells = "" if accuracy is None else f", which gets {accuracy:.1%} of the classes right"
    has_labels = "label_accuracy" in first["floor"]
    held = ", held-out images for the shares of labels" if has_labels else ""
    return Table(
        name="quality",
        title="Quality of the samples",
        columns=("measure", *heads, "what it says"),
        rows=tuple(rows),
        note=f"Of {first['samples']:,} samples, in the features of the {first['extractor']} "
        f"{first['hash'][:16]}{tells}. Real images: as many training images{held}; samples can "
        "hardly get better. Values compare only where samples and extractor are the same.",
        seeds=1,
        measured_on=f"{first['samples']:,} samples",
    )
