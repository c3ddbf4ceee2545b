"""Metrics of single training steps, sampled at intervals: what the means of epochs hide.

    sampler = StepSampler(("loss_g", "loss_d"), steps=375)      # one for each epoch
    sampler.add(step, metrics)                                  # tensors; nothing waits for them
    curve.add(epoch=3, sampled=sampler.on_host())               # one for a whole training

A step is sampled if it is the first of its interval, and an epoch has `PER_EPOCH` intervals at
most. A curve keeps `MOST` samples at most: where there are more, it drops every second one, and
takes every second one from then on. What it keeps follows from the epochs alone, so that a training
that was interrupted and went on has the same curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from models.base import Metrics

PER_EPOCH = 50  # samples
MOST = 1000  # samples of a curve; there are at least half as many once there were more
DIGITS = 5  # of a sample: more would not be seen


@dataclass(frozen=True, kw_only=True)
class SampledSteps:
    """What some of an epoch's steps measured.

    steps: how many the epoch had; at: those that were sampled, from 1
    values: name -> a number for each of them
    """

    steps: int
    at: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]


class StepSampler:
    """Takes samples during one epoch, and leaves them on the device until it ends.

    names: of the metrics; steps: how many the epoch has
    """

    def __init__(self, names: tuple[str, ...], steps: int) -> None:
        self.names, self.steps = names, steps
        self.interval = -(-steps // PER_EPOCH)
        self.at: list[int] = []
        self.taken: list[Tensor] = []  # (names,) each

    def add(self, step: int, metrics: Metrics) -> None:
        """Take a sample if ``step``, from 1, is the first of its interval."""
        if self.names and (step - 1) % self.interval == 0:
            self.at.append(step)
            # a copy: the next step of a recorded graph overwrites its metrics
            self.taken.append(torch.stack([metrics[name].detach() for name in self.names]))

    def on_host(self) -> SampledSteps | None:
        """Return the samples, by one copy from the device; None where there are none."""
        if not self.taken:
            return None
        columns = torch.stack(self.taken, dim=1).tolist()  # (names, samples)
        values = {name: tuple(column) for name, column in zip(self.names, columns, strict=True)}
        return SampledSteps(steps=self.steps, at=tuple(self.at), values=values)


@dataclass(kw_only=True)
class StepCurve:
    """The sampled steps of a whole training.

    per_epoch: steps of an epoch; seen: samples so far; every: one of so many is kept
    at: steps of the kept ones, counted from 1 over all epochs; values: name -> a number for each
    """

    per_epoch: int = 0
    seen: int = 0
    every: int = 1
    at: list[int] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, epoch: int, sampled: SampledSteps | None) -> None:
        """Add the samples of ``epoch`` (from 1)."""
        if sampled is None:
            return
        self.per_epoch = sampled.steps
        for index, step in enumerate(sampled.at):
            if self.seen % self.every == 0:
                self.at.append((epoch - 1) * sampled.steps + step)
                for name, numbers in sampled.values.items():
                    rounded = float(f"{numbers[index]:.{DIGITS}g}")
                    self.values.setdefault(name, []).append(rounded)
            self.seen += 1
        while len(self.at) > MOST:
            self.every *= 2
            self.at = self.at[::2]
            self.values = {name: numbers[::2] for name, numbers in self.values.items()}

    def write(self, path: Path) -> None:
        """Write the samples as CSV: a row for each, with its epoch from 1."""
        rows = [",".join(("step", "epoch", *self.values))]
        for step, *numbers in zip(self.at, *self.values.values(), strict=True):
            epoch = (step - 1) // self.per_epoch + 1
            rows.append(",".join([f"{step}", f"{epoch}", *(f"{number:g}" for number in numbers)]))
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")

    def to_plain(self) -> dict[str, Any]:
        """Return the curve as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any] | None) -> Self:
        """Return the curve in ``plain``; an empty one for None, which older versions left.

        Raises `ValueError` for what is no curve.
        """
        if plain is None:
            return cls()
        try:
            curve = cls(
                per_epoch=int(plain["per_epoch"]),
                seen=int(plain["seen"]),
                every=max(1, int(plain["every"])),
                at=[int(step) for step in plain["at"]],
                values={
                    str(name): [float(number) for number in numbers]
                    for name, numbers in plain["values"].items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no curve of steps ({error})") from error
        if any(len(numbers) != len(curve.at) for numbers in curve.values.values()):
            raise ValueError("the curve of steps is not whole")
        return curve
