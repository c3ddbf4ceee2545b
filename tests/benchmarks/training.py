"""Rows `training`: trial-epochs a second of the whole machine, all cores at work.

    make bench ROWS=training

Ours is a process a core, each with one thread. The peer is Optuna's PyTorch example in the best
of three layouts. The processes start once and wait; they are asked at the same moment, after
imports and a warm-up, so that only training and validation are measured, model building
included. Beside it stands the share of the sgemm ceiling: what the layers' multiplications
need, over what a matrix product does on the same cores at the same time.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median

from search.supervisor.process import KEEP_MEMORY
from tests.benchmarks.processes import PYTHON, Team, environment
from tests.benchmarks.rows import Row, agreement
from tests.benchmarks.sizes import Settings
from tests.benchmarks.steps import Step
from tests.benchmarks.work import BATCH, epoch_gigaflops

TARGET = 3.0
TRAIN, VALID = 48_000, 12_000
SECONDS = {"ours": 5.0, "peer": 9.0}  # expected for an epoch of each process

Width = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """processes that train at once; threads: of PyTorch in each; workers: of each DataLoader."""

    side: str
    name: str
    processes: int
    threads: int | None
    workers: int = 0


def layouts(cores: int) -> list[Layout]:
    every = Layout(side="peer", name="1 process x all threads", processes=1, threads=None)
    loading = replace(every, name=f"1 process, DataLoader workers {cores}", workers=cores)
    return [
        Layout(side="ours", name="ours", processes=cores, threads=1),
        Layout(side="peer", name=f"{cores} processes x 1 thread", processes=cores, threads=1),
        every,
        loading,
    ]


def layout_environment(layout: Layout) -> dict[str, str]:
    """Ours gets what `search/supervisor/process.py` gives a worker; a peer what its user's shell
    has."""
    return environment(KEEP_MEMORY if layout.side == "ours" else None, threads=layout.threads)


class Training:
    name = "training"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layouts = layouts(settings.cores)
        self.teams: dict[str, Team] = {}
        self.rates: dict[tuple[str, Width], list[float]] = defaultdict(list)
        self.errors: dict[tuple[str, Width], list[float]] = defaultdict(list)
        self.ceilings: list[float] = []

    def steps(self) -> list[Step]:
        sizes = self.settings.sizes
        steps = [Step(what="starting processes", seconds=45, run=self._start)]
        for repeat in range(sizes.training_repeats):
            ceiling = Step(what="sgemm on all cores", seconds=3, run=self._ceiling)
            steps.append(ceiling)
            for width in sizes.widths:
                for layout in self.layouts:
                    what = f"n {width[0]}, Z {width[1]}, {layout.name}"
                    run = functools.partial(self._measure, layout, width, repeat)
                    seconds = sizes.training_epochs * SECONDS[layout.side]
                    steps.append(Step(what=what, seconds=seconds, run=run))
        return steps

    def _start(self) -> str:
        from models.data.loading import prepare_images
        from tests.benchmarks.work import SHAPE

        settings = self.settings
        cached = prepare_images(
            "fashion_mnist", root=settings.data_root, cache=settings.folder / "cache", shape=SHAPE
        )
        for layout in self.layouts:
            place = cached if layout.side == "ours" else settings.data_root
            command = [PYTHON, "-m", "tests.benchmarks.trainee", layout.side, str(place)]
            if settings.sizes.images is not None:
                command += ["--images", str(settings.sizes.images)]
            if layout.threads is not None:
                command += ["--threads", str(layout.threads)]
            command += ["--workers", str(layout.workers)]
            team = Team(
                command,
                count=layout.processes,
                log=settings.folder / f"{layout.name}.log",
                env=layout_environment(layout),
            )
            self.teams[layout.name] = team
            for channels, latent in settings.sizes.widths:
                team.ask({"job": "warm", "channels": channels, "latent": latent})
        return f"{sum(layout.processes for layout in self.layouts)} are up"

    def _ceiling(self) -> str:
        answers, _ = self.teams["ours"].ask({"job": "sgemm"})
        self.ceilings += [answer["gigaflops"] for answer in answers]
        return f"{median(self.ceilings):.0f} GFLOP/s a core"

    def _measure(self, layout: Layout, width: Width, repeat: int) -> str:
        epochs = self.settings.sizes.training_epochs
        job = {"job": "train", "channels": width[0], "latent": width[1], "epochs": epochs}
        answers, seconds = self.teams[layout.name].ask({**job, "seed": 100 * repeat})
        rate = layout.processes * epochs / seconds
        self.rates[layout.name, width].append(rate)
        self.errors[layout.name, width] += [answer["mse"] for answer in answers]
        return f"{rate:.3f} epochs/s, MSE {median(self.errors[layout.name, width]):.4f}"

    def rows(self) -> list[Row]:
        return [self._row(width) for width in self.settings.sizes.widths]

    def _row(self, width: Width) -> Row:
        peers = [layout for layout in self.layouts if layout.side == "peer"]
        best = max(peers, key=lambda layout: median(self.rates[layout.name, width]))
        ours = median(self.rates["ours", width])
        images = self.settings.sizes.images
        train = TRAIN if images is None else images - images // 5
        valid = VALID if images is None else images // 5
        work = epoch_gigaflops(*width, train // BATCH * BATCH, valid)
        ceiling = median(self.ceilings)
        done = ours * work / self.settings.cores
        share = f"{done:.0f} GFLOP/s a core, {done / ceiling:.0%} of sgemm's {ceiling:.0f}"
        alike = agreement(self.errors["ours", width], self.errors[best.name, width])
        return Row(
            section=self.name,
            what=f"n {width[0]}, Z {width[1]}",
            peer=f"Optuna's PyTorch example, {best.name}",
            ours=ours,
            theirs=median(self.rates[best.name, width]),
            unit="epochs/s",
            more_is_better=True,
            target=TARGET,
            note=f"{share}; {alike}",
        )

    def close(self) -> None:
        for team in self.teams.values():
            team.close()
