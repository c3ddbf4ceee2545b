"""Labels that a person asks for, as text: classes or attributes by their names.

    asked = read_labels("smile=1, beard=0.2", names, ranges)    # attributes, in their own units
    asked = read_labels("boot, bag", names)                     # classes, taken in turn
    asked.put_on(labels)                                        # (N, L) -> (N, L)

Shape legend: N images, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.errors import ConfigError, short, suggest_name

SHOWN = 8  # names in a message


@dataclass(frozen=True, kw_only=True)
class AskedLabels:
    """Places of labels that are to be shown.

    classes: taken in turn, one an image; attributes: place -> value in [0, 1]; others stay
    """

    classes: tuple[int, ...] = ()
    attributes: Mapping[int, float] = field(default_factory=dict)

    def put_on(self, labels: Tensor) -> Tensor:
        """Return labels (N, L) with those that were asked for."""
        wanted = labels.clone()
        if self.classes:
            turns = torch.arange(len(labels)) % len(self.classes)
            wanted.zero_()
            wanted[torch.arange(len(labels)), torch.tensor(self.classes)[turns]] = 1.0
        for place, value in self.attributes.items():
            wanted[:, place] = value
        return wanted


def read_labels(
    text: str, names: Sequence[str], ranges: Sequence[tuple[float, float]] = ()
) -> AskedLabels:
    """Return what ``text`` asks for; raises `ConfigError`.

    names: of the classes or attributes; ranges: lowest and highest value of each attribute, empty
    for classes
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise ConfigError(f"LABELS names none of {_list(names)}")
    if not ranges:
        return AskedLabels(classes=tuple(_find(part, names, "class") for part in parts))
    found: dict[int, float] = {}
    for part in parts:
        name, equals, written = part.rpartition("=")
        if not equals:
            raise ConfigError(
                f"LABELS has {short(repr(part))}; say a value of the attribute, as in {names[0]}=1"
            )
        place = _find(name.strip(), names, "attribute")
        if place in found:
            raise ConfigError(
                f"LABELS gives {short(names[place])} two values; say one for all images"
            )
        found[place] = _scale(name.strip(), written.strip(), *ranges[place])
    return AskedLabels(attributes=found)


def _find(name: str, names: Sequence[str], kind: str) -> int:
    """Return the place of a label by its name, or by its number where no name is that."""
    if name in names:
        return list(names).index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    hint = suggest_name(name, names).strip()
    meant = f"; {hint}" if hint else ""
    raise ConfigError(
        f"LABELS names {short(repr(name))}, which is no {kind}: {_list(names)}{meant}"
    )


def _scale(name: str, written: str, low: float, high: float) -> float:
    """Return the value of an attribute as its place between ``low`` and ``high``, in [0, 1]."""
    try:
        value = float(written)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise ConfigError(
            f"LABELS gives {name} the value {short(repr(written))}; in training it goes from "
            f"{low:g} to {high:g}"
        )
    return (value - low) / (high - low)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(short(name) for name in names[:SHOWN]) + more
