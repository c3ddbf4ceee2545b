"""How often a search ends with the truly best of ten configurations, by the old way and the new.

    python -m tests.benchmarks.winner           # a table, in seconds: nothing is trained

It plays searches with measured values (`tests.benchmarks.seed_noise`): each of ten configurations
draws the value of its trial from its runs, the best TOP are trained again with values drawn from
the other runs, and the race and the ranks are those of `make study`. The truly best is the one with
the best mean over all its runs.

A second table stands for GANs at a length that is too long to repeat here: ten configurations, each
5 % worse than the one before, with the noise of the twelve runs of `gan_balances` that
search/studies/README.md lists.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from models.results import Table
from search.console import open_console
from search.reporting.summary import summary_table
from search.trials.seed_race import run_race
from search.trials.seed_statistics import best_place, pool_noise, probabilities_best

CSV = Path(__file__).with_name("seed_noise.csv")
# Fréchet distances of three seeds each, as `gan_balances` measured them.
BALANCES = ((149, 126, 136), (100, 92, 93), (743, 578, 716), (6.8, 8.0, 11.8))
STEP = 0.05  # how much worse each of ten GANs is than the one before
GAMES = 1000  # searches that are played for each row
DRAWS = 500  # of each certificate's probability: their error averages out over the games


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to pick a winner: the best ``top`` trials are trained again with ``seeds`` seeds."""

    words: str
    top: int
    seeds: int


WAYS = (
    Way(words="the best trial", top=1, seeds=1),
    Way(words="best of 3, one seed each (before)", top=3, seeds=1),
    Way(words="best of 3, 3 seeds (now)", top=3, seeds=3),
    Way(words="best of 3, 5 seeds", top=3, seeds=5),
    Way(words="best of 5, 3 seeds", top=5, seeds=3),
    Way(words="best of 5, 5 seeds", top=5, seeds=5),
)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The measured values of a study: (configurations, runs) each; lower is better."""

    searched: np.ndarray
    retrained: np.ndarray

    @property
    def true(self) -> np.ndarray:
        return self.retrained.mean(1)

    def deviation(self) -> float:
        """Return the deviation of a run from its configuration's mean, as a share of it."""
        apart = self.retrained / self.true[:, None] - 1
        runs = self.retrained.shape[1]
        return float(np.sqrt((apart**2).sum(1).mean() / (runs - 1)))


@dataclass(frozen=True, kw_only=True)
class Game:
    """How one search ended.

    picked: the configuration; trained: how many retrainings that took
    said: the probability that the certificate gives; None: it gives none
    among: whether it is the truly best of those that were trained again
    """

    picked: int
    trained: int
    said: float | None
    among: bool


def read_noise() -> dict[str, Noise]:
    """Return what was measured, by study."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    with CSV.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = float(row["searched"]), float(row["retrained"])
            found[row["study"]][int(row["configuration"])].append(values)
    return {
        study: Noise(
            searched=np.array([[before for before, _ in runs] for runs in by.values()]),
            retrained=np.array([[after for _, after in runs] for runs in by.values()]),
        )
        for study, by in found.items()
    }


def gan_noise(runs: int = 64) -> Noise:
    """Return ten configurations in equal steps, with the noise of `BALANCES`."""
    pooled = pool_noise(BALANCES)
    assert pooled is not None
    generator = np.random.default_rng(1)
    true = 1 + STEP * np.arange(10)[:, None]

    def draw() -> np.ndarray:
        """Draw values above 0, whose mean is exactly the true one."""
        drawn = np.exp(pooled.deviation * generator.standard_normal((10, runs)))
        return np.asarray(true * drawn / drawn.mean(1, keepdims=True))

    return Noise(searched=draw(), retrained=draw())


def play(noise: Noise, way: Way, generator: np.random.Generator) -> Game:
    """Play one search: draw the trials, train the best again, pick the winner."""
    configurations, runs = noise.retrained.shape
    order = generator.permuted(np.tile(np.arange(runs), (configurations, 1)), axis=1)
    trials = [noise.searched[place, order[place, 0]] for place in range(configurations)]
    chosen = sorted(range(configurations), key=lambda place: trials[place])[: way.top]
    found: dict[int, dict[int, float | None]] = {place: {} for place in chosen}
    while (race := run_race(found, seeds=way.seeds, minimize=True)).missing:
        for place, repeat in race.missing:
            found[place][repeat] = float(noise.retrained[place, order[place, repeat]])
    values = {place: _values(found[place]) for place in chosen}
    means = [fmean(values[place]) for place in chosen]
    winner = best_place(means, minimize=True)
    said = probabilities_best([*values.values()], minimize=True, draws=DRAWS)
    return Game(
        picked=chosen[winner],
        trained=sum(map(len, values.values())),
        said=said[winner] if said and way.top > 1 else None,
        among=chosen[winner] == min(chosen, key=lambda place: noise.true[place]),
    )


def _values(found: Mapping[int, float | None]) -> list[float]:
    return [value for _, value in sorted(found.items()) if value is not None]


def compare_ways(study: str, noise: Noise, games: int = GAMES) -> Table:
    """Return a row for each way to pick a winner."""
    best = int(noise.true.argmin())
    rows = []
    for way in WAYS:
        generator = np.random.default_rng(0)  # the same trials for every way
        played = [play(noise, way, generator) for _ in range(games)]
        worse = fmean(float(noise.true[game.picked] / noise.true[best]) - 1 for game in played)
        said = [game.said for game in played if game.said is not None]
        rows.append(
            (
                way.words,
                way.seeds,
                f"{fmean(game.picked == best for game in played):.0%}",
                f"{worse:.1%}",
                f"{fmean(game.trained for game in played):.1f}",
                f"{fmean(said):.0%}" if said else "-",
                f"{fmean(game.among for game in played):.0%}" if said else "-",
            )
        )
    return Table(
        name="winner",
        title=f"{study}: which of ten configurations wins",
        columns=(
            "way", "seeds", "truly best", "worse than it by", "retrainings",
            "certificates say", "of those retrained right",
        ),
        rows=tuple(rows),
        note=f"{games:,} searches with measured values; a run is {noise.deviation():.1%} off its "
        "configuration's mean",
        seeds="seeds",
    )  # fmt: skip


def main() -> None:
    console = open_console()
    studies = {**read_noise(), "gan_balances": gan_noise()}
    for study, noise in studies.items():
        console.print(summary_table(compare_ways(study, noise).to_plain()))
        console.print()


if __name__ == "__main__":
    main()
