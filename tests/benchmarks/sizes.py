"""How much is measured: in full, in short, or just enough to see that it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """repeats: runs of each side, interleaved; images: None for all 60,000 of Fashion-MNIST."""

    form: str
    images: int | None
    training_repeats: int
    training_epochs: int
    widths: tuple[tuple[int, int], ...]  # (n, Z)
    framework_repeats: int
    framework_epochs: int
    study_trials: int
    study_epochs: int
    start_repeats: int
    database_trials: int
    database_repeats: int
    scale_seconds: float  # of each measurement of many workers


WIDTHS = ((9, 27), (4, 10), (10, 60))

FULL = Sizes(
    form="full",
    images=None,
    training_repeats=3,
    training_epochs=2,
    widths=WIDTHS,
    framework_repeats=3,
    framework_epochs=3,
    study_trials=50,
    study_epochs=20,
    start_repeats=5,
    database_trials=10_000,
    database_repeats=3,
    scale_seconds=60.0,
)
SHORT = Sizes(
    form="short",
    images=None,
    training_repeats=2,
    training_epochs=2,
    widths=WIDTHS,
    framework_repeats=1,
    framework_epochs=3,
    study_trials=50,
    study_epochs=5,
    start_repeats=3,
    database_trials=10_000,
    database_repeats=1,
    scale_seconds=20.0,
)
TINY = Sizes(  # for who works on the benchmarks
    form="tiny",
    images=1280,
    training_repeats=1,
    training_epochs=1,
    widths=WIDTHS[:2],
    framework_repeats=1,
    framework_epochs=1,
    study_trials=2,
    study_epochs=2,
    start_repeats=1,
    database_trials=200,
    database_repeats=1,
    scale_seconds=4.0,
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """sizes; data_root: torchvision's sets; folder: a scratch folder; cores: that are used."""

    sizes: Sizes
    data_root: Path
    folder: Path
    cores: int

    @property
    def our_data(self) -> str:
        """The set that `make study` trains on: the digits where only a few images are wanted."""
        return "fashion_mnist" if self.sizes.images is None else "digits"
