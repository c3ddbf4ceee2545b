"""The benchmark suite itself: ratios, table, CSV and picture; nothing is measured here."""

from __future__ import annotations

import ast
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.cae import CAE
from models.data.loading import prepare_images
from search.errors import BadVariable
from search.strategies.samplers import make_sampler
from search.studies import cae
from search.supervisor import process
from tests.benchmarks import __main__ as bench
from tests.benchmarks import picture, table
from tests.benchmarks.processes import PYTHON, MeasurementFailed, Team, environment
from tests.benchmarks.rows import (
    Row,
    agreement,
    paired_agreement,
    read_csv,
    stamped,
    write_csv,
)
from tests.benchmarks.scale import BEHIND, BUSY, CALM, Projection, make_rows
from tests.benchmarks.sizes import SHORT, Settings
from tests.benchmarks.startup import EPOCH, until_shown
from tests.benchmarks.steps import Step, run
from tests.benchmarks.study import Course, create_with_draws
from tests.benchmarks.trainee import ours, sgemm
from tests.benchmarks.training import Training, layout_environment, layouts
from tests.benchmarks.trial_database import TrialDatabase
from tests.benchmarks.work import FOUR, SHAPE, adam, epoch_gigaflops, searched

ROOT = Path(__file__).parent.parent
PEERS = ("lightning", "pytorch_lightning", "ray", "optuna_integration", "tests")

FASTER = Row(
    section="training",
    what="n 9, Z 27",
    peer="Optuna's PyTorch example, 2 processes x 1 thread",
    ours=0.9,
    theirs=0.2,
    unit="epochs/s",
    more_is_better=True,
    target=3.0,
    note="MSE 0.0101 / 0.0102",
    form="full",
    measured="2026-11-20T12:00+00:00",
    machine="a processor, 2 cores",
)
SLOWER = Row(
    section="start-up",
    what="make study, digits",
    peer="import torch, torchvision, optuna",
    ours=6.0,
    theirs=3.0,
    unit="s",
    more_is_better=False,
    target=2.0,
)
ABSENT = Row(
    section="study",
    what="until the best",
    peer="Optuna's PyTorch example",
    ours=None,
    theirs=2400.0,
    unit="s",
    more_is_better=False,
    target=5.0,
)


def test_a_ratio_says_how_many_times_better_ours_is() -> None:
    assert FASTER.ratio == pytest.approx(4.5)
    assert SLOWER.ratio == pytest.approx(0.5)
    assert ABSENT.ratio is None
    assert [row.met for row in (FASTER, SLOWER, ABSENT)] == [True, False, False]


def test_final_errors_agree_within_noise_or_the_row_says_so() -> None:
    assert "DIFFERENT" not in agreement([0.0100, 0.0104], [0.0102, 0.0108])
    assert "DIFFERENT" not in agreement([0.0100], [0.0105])
    assert "DIFFERENT" in agreement([0.0100, 0.0101], [0.0150, 0.0151])
    assert agreement([float("nan")], [0.01]) == "no final MSE"
    assert "DIFFERENT" not in paired_agreement({0: 0.010, 1: 0.020}, {0: 0.0104, 1: 0.0205})
    assert "DIFFERENT" in paired_agreement({0: 0.010, 1: 0.020}, {0: 0.015, 1: 0.030})


def test_the_csv_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_csv(path, [SLOWER, FASTER])
    assert read_csv(path) == [FASTER, SLOWER]
    (again,) = stamped([SLOWER], form="short")
    assert again.form == "short"
    assert re.match(r"\d{4}-\d\d-\d\dT", again.measured)
    assert again.machine
    assert write_csv(path, [again]) == [FASTER, again]
    lines = path.read_text().splitlines()
    assert lines[0].endswith("ratio,met")
    assert lines[1].endswith(",4.500,True")


def test_the_table_shows_every_row_whole() -> None:
    console = Console(record=True, width=10_000, markup=False, file=io.StringIO())
    table.show([FASTER, ABSENT, SLOWER], console)
    shown = console.export_text()
    assert "[" not in shown  # no style stands there as words
    assert max(map(len, shown.splitlines())) <= table.WIDTH  # a log is as wide as it likes
    for text in ("n 9, Z 27", "4.50x", "0.50x", ">= 3x", "met", "missed", "2400", "0.900"):
        assert text in shown


@pytest.mark.parametrize(
    ("value", "written"),
    [(None, "-"), (0.0, "0"), (0.00123, "0.00123"), (0.742, "0.742"), (1.5, "1.50"),
     (12.34, "12.3"), (1234.5, "1234")],
)  # fmt: skip
def test_figures_have_three_digits(value: float | None, written: str) -> None:
    assert table.figure(value) == written


def test_the_picture_is_written(tmp_path: Path) -> None:
    picture.draw(tmp_path / "few.png", [FASTER])
    picture.draw(tmp_path / "more.png", [FASTER, ABSENT, SLOWER])
    sizes = [(tmp_path / name).stat().st_size for name in ("few.png", "more.png")]
    assert 5000 < sizes[0] < sizes[1]
    picture.draw(tmp_path / "none.png", [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.png", "more.png"]


def test_variables_are_checked(tmp_path: Path) -> None:
    wanted = bench.read({"ROWS": "start-up, training", "OUT": str(tmp_path), "FULL": "1"})
    assert wanted.rows == ("training", "start-up")
    assert wanted.sizes.form == "full"
    assert wanted.csv.parent == wanted.picture.parent == tmp_path
    assert bench.read({}).rows == tuple(bench.SECTIONS)
    for wrong in ({"ROWS": "trainning"}, {"FULL": "yes"}, {"GENSTUDY_GIVEN": "ROW"}):
        with pytest.raises(BadVariable):
            bench.read(wrong)


def test_no_variable_of_the_run_reaches_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENSTUDY_GIVEN", "ROWS")
    monkeypatch.setenv("TRIALS", "7")
    seen = environment({"NAME": "cae"}, threads=1)
    assert seen["NAME"] == "cae"
    assert seen["OMP_NUM_THREADS"] == "1"
    assert not {"GENSTUDY_GIVEN", "TRIALS", "ROWS"} & set(seen)
    assert "OMP_NUM_THREADS" not in environment()


def test_the_product_never_imports_a_peer() -> None:
    for path in [file for room in ("search", "models", "storage") for file in
                 (ROOT / room).rglob("*.py")]:  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if path.match("search/engines/ray.py"):  # it places workers; Ray Tune is the peer
                names = [name for name in names if name != "ray"]
            assert not [name for name in names if name.split(".")[0] in PEERS], path


def test_the_peer_trains_the_same_plain_network() -> None:
    from tests.benchmarks.peers.optuna_example import network

    torch.manual_seed(0)
    theirs, optimizer = network(adam(9, 27))
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 60_240
    assert isinstance(optimizer, torch.optim.Adam)
    layers = [layer for layer in theirs.modules() if not list(layer.children())]
    assert all(type(layer).__module__.startswith("torch.nn.") for layer in layers)
    assert all("forward" not in vars(layer) for layer in layers), "no kernels of ours"


@pytest.mark.parametrize("config", FOUR, ids=lambda config: f"{config.channels}-{config.latent}")
def test_operations_are_counted_as_torch_counts_them(config: object) -> None:
    assert isinstance(config, type(FOUR[0]))
    model: nn.Module = CAE(config, SHAPE)
    images = torch.rand(16, *SHAPE)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    ours = epoch_gigaflops(config.channels, config.latent, 0, 16)
    assert ours * 1e9 == pytest.approx(counter.get_total_flops(), rel=0.001)
    assert epoch_gigaflops(9, 27, 16, 0) == pytest.approx(3 * epoch_gigaflops(9, 27, 0, 16))


def test_the_best_layout_of_the_peer_counts(tmp_path: Path) -> None:
    settings = Settings(sizes=SHORT, data_root=tmp_path, folder=tmp_path, cores=2)
    section = Training(settings)
    section.ceilings = [90.0, 92.0]
    for layout, rate in zip(section.layouts, (1.0, 0.2, 0.13, 0.25), strict=True):
        for width in SHORT.widths:
            section.rates[layout.name, width] = [rate]
            section.errors[layout.name, width] = [0.0101, 0.0102]
    row = section.rows()[0]
    assert row.peer == "Optuna's PyTorch example, 1 process, DataLoader workers 2"
    assert row.ratio == pytest.approx(4.0)
    # 162,270 multiplications and additions either way, (3 x 47,872 + 12,000) images, two cores
    assert row.note == "51 GFLOP/s a core, 55% of sgemm's 91; MSE 0.0101 / 0.0101"


def test_our_side_trains_as_a_worker_does(tmp_path: Path) -> None:
    cached = prepare_images("digits", root=tmp_path, cache=tmp_path, shape=SHAPE)
    train, warm = ours(cached, images=1280, device="cpu")
    assert 0 < train(4, 10, 1, 0) < 0.5
    assert 0 < warm(4, 10, 1, 0) < 0.5
    assert sgemm(seconds=0.05) > 0.1


def test_figures_of_the_database_become_rows(tmp_path: Path) -> None:
    script = tmp_path / "figures.py"
    script.write_text(
        "import json, sys\n"
        "print('filling', sys.argv[1], file=sys.stderr)\n"
        "for side, ms in (('genstudy', 1), ('optuna', 40), ('genstudy', 3), ('genstudy', 2)):\n"
        "    line = {'figure': 'growth', 'trials': int(sys.argv[5]), 'sampler': 'tpe'}\n"
        "    print(json.dumps({**line, 'side': side, 'warm_ms': ms}))\n"
        "for side, ms in (('genstudy', 1), ('optuna', 4)):\n"
        "    small = {'trials': 100, 'sampler': 'tpe', 'side': side, 'warm_ms': ms}\n"
        "    print(json.dumps(small))\n"
        "print(json.dumps({'trials': 7, 'sampler': 'gp', 'side': 'genstudy', 'warm_ms': 1}))\n"
    )
    settings = Settings(sizes=SHORT, data_root=tmp_path, folder=tmp_path, cores=2)
    section = TrialDatabase("growth", settings, script=(str(script),))
    assert section.steps()[0].run() == "7 figures, 20.0x to 20.0x"
    section.close()
    (row,) = section.rows()
    assert (row.ours, row.theirs, row.unit, row.more_is_better) == (2, 40, "ms", False)
    assert row.what == "a trial's database work, 10,000 trials, tpe, SQLite"
    assert row.note == "100 trials: 1 / 4 ms; 2.00 / 10.00 times that of the smallest"


def test_our_side_has_the_environment_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, str] = {}

    def instead(*_: object, env: dict[str, str], **__: object) -> None:
        seen.update(env)
        raise InterruptedError

    monkeypatch.setattr("subprocess.Popen", instead)
    with pytest.raises(InterruptedError):
        process.start_process(tmp_path / "log")
    mine = layout_environment(layouts(cores=2)[0])
    for name in ("PYTHONPATH", "ROWS", "FULL", "OUT"):  # the suite's own, and of no effect
        mine.pop(name, None)
        seen.pop(name, None)
    assert mine == seen


class Few:
    """A section of two steps, the second of which fails on request."""

    name = "few"

    def __init__(self, second: Callable[[], str]) -> None:
        self.second = second
        self.closed = False

    def steps(self) -> list[Step]:
        return [
            Step(what="one", seconds=2, run=lambda: "fine"),
            Step(what="two", seconds=2, run=self.second),
        ]

    def rows(self) -> list[Row]:
        return [FASTER]

    def close(self) -> None:
        self.closed = True


def test_a_section_that_fails_does_not_end_the_others() -> None:
    def fail() -> str:
        raise MeasurementFailed("no such thing")

    broken, whole = Few(fail), Few(lambda: "fine too")
    console = Console(record=True, width=160, file=io.StringIO())
    rows, failed = run([broken, whole], console)
    assert rows == [FASTER]
    assert failed == ["few"]
    assert broken.closed
    assert whole.closed
    shown = console.export_text()
    assert "no such thing" in shown
    assert "[4/4] few: two: fine too  (0 s left)" in shown


def test_a_course_knows_when_a_value_was_reached() -> None:
    course = Course()
    for seconds, best in ((1.0, None), (2.0, 0.5), (3.0, 0.5), (4.0, 0.2)):
        course.see(seconds, best)
    assert course.best == 0.2
    assert course.reached(0.5) == 2.0
    assert course.reached(0.3) == 4.0
    assert course.reached(0.1) is None


def test_the_peer_tries_what_our_study_draws(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/peer.db"
    create_with_draws(url, 3)
    waiting = optuna.load_study(study_name="peer", storage=url)
    sampler = make_sampler("random", seed=cae.STUDY.seed, space={})
    study = optuna.create_study(sampler=sampler)
    for _ in range(3):
        their_trial, our_trial = waiting.ask(), study.ask()
        searched(their_trial)
        cae.suggest(our_trial)
        assert their_trial.params == our_trial.params


def test_a_team_answers_and_tells_of_its_death(tmp_path: Path) -> None:
    program = (
        "import json, sys\n"
        "for line in sys.stdin:\n"
        "    job = json.loads(line)\n"
        "    assert job['job'] == 'add', 'unknown job'\n"
        "    print(json.dumps({'sum': job['seed'] + 1}), flush=True)\n"
    )
    with Team([PYTHON, "-c", program], count=2, log=tmp_path / "log", env=environment()) as team:
        answers, seconds = team.ask({"job": "add", "seed": 10})
        assert [answer["sum"] for answer in answers] == [11, 12]
        assert seconds > 0
        with pytest.raises(MeasurementFailed, match="unknown job"):
            team.ask({"job": "subtract"})


def test_what_a_live_display_shows_is_found(tmp_path: Path) -> None:
    program = (
        "import time\n"
        "print('\\x1b[1mworker 0  cpu  trial 0  epoch 0/20\\x1b[0m', flush=True)\n"
        "time.sleep(0.3)\n"
        "print('worker 0  cpu  trial 0  \\x1b[32mepoch\\x1b[0m 1/20', flush=True)\n"
        "time.sleep(60)\n"
    )
    seconds = until_shown([sys.executable, "-c", program], EPOCH, environment())
    assert 0.3 <= seconds < 20
    with pytest.raises(MeasurementFailed, match="nothing to see"):
        until_shown([sys.executable, "-c", "print('nothing to see')"], EPOCH, environment())


LINE = {
    "workers": 64, "trials_a_s": 6.4, "server_ms": 40.0, "client_ms": 60.0, "wait_ms": 90.0,
    "connections": 64, "busy_cores": 0.6, "lock_ms": 12.0,
}  # fmt: skip


def test_a_thousand_workers_are_projected_from_what_was_measured() -> None:
    calm = {(CALM, "genstudy"): [LINE], (CALM, "optuna"): [{**LINE, "server_ms": 80.0}]}
    busy = {(BUSY, side): [{**LINE, "trials_a_s": 32.0}] for side in ("genstudy", "optuna")}
    rows = make_rows({**calm, **busy})
    assert [(row.ours, row.theirs, row.ratio) for row in rows] == [
        (40.0, 80.0, 2.0), (90.0, 90.0, 1.0), (32.0, 32.0, 1.0),
    ]  # fmt: skip
    assert all(row.section == "scale" and "64 connections" in row.note for row in rows)
    assert (
        "1,000 workers with trials of 60 s: 16.7 trials/s, 0.7 cores of the server, 1031% of "
        "connections, 20% of the study's lock"
    ) in rows[0].note
    assert "1,000 workers" not in rows[1].note
    assert make_rows({(CALM, "genstudy"): [LINE]}) == []  # half a comparison is no row
    (behind,) = make_rows({(BEHIND, "genstudy"): [LINE]})
    assert (behind.theirs, behind.ratio) == (None, None)
    assert "wait for a second connection" in behind.note

    crowded = Projection(workers=90, trial_s=1.0, server_ms=40.0, lock_ms=12.0)
    assert crowded.shares["the study's lock"] == pytest.approx(1.08)
