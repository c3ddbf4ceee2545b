"""The check of a GPU runs on a CPU, so that nothing is wasted on typing errors on the machine."""

from __future__ import annotations

import math
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from models.data.images import ImageSplits
from tests.gpu import __main__ as command
from tests.gpu import fused, pack, resume, steps
from tests.gpu.cases import CASES, Case, batches_of, draw_splits
from tests.gpu.draws import SameDraws
from tests.gpu.part import Row, Settings, read_rows, relative_error, write_rows
from tests.simulated_graphs import simulate_graphs

NAMED = {case.name: case for case in CASES}
DRAWING = ("cae with noise", "gan dropout-28", "gan adaptive augmentation", "acgan")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    work = tmp_path / "work"
    work.mkdir()
    return Settings(device="cpu", tiny=True, data=tmp_path, emoji=tmp_path, work=work, out=tmp_path)


def test_every_part_of_the_plan_is_there() -> None:
    for part in command.PLAN:
        assert callable(part.load())


@pytest.mark.parametrize("name", ["steps", "recording", "resume", "fused"])
def test_a_part_runs_on_a_cpu_with_simulated_graphs(
    name: str, settings: Settings, digits: ImageSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a GPU records is tried; other parts call commands, or draw large models."""
    graphs = simulate_graphs(monkeypatch)
    monkeypatch.setattr(fused, "load_set", lambda *given: digits)
    (part,) = [part for part in command.PLAN if part.name == name]
    rows = list(part.load()(settings))
    assert len(rows) >= 5
    assert not [row.text for row in rows if row.passed is False]
    assert graphs


def test_rows_are_kept_as_they_come_and_tell_what_is_wrong(tmp_path, capsys) -> None:
    rows = [
        Row(name="small", found=1e-6, limit=1e-4),
        Row(name="large", found=2.0, limit=1.0, about="of a unit"),
        Row(name="broken", found=math.inf, limit=1.0),
        Row(name="speed", found=12.345678, unit="x"),
    ]
    assert not write_rows("part", iter(rows), tmp_path / "rows.jsonl")
    assert read_rows(tmp_path / "rows.jsonl") == [("part", row) for row in rows]
    assert [row.passed for row in rows] == [True, False, False, None]
    assert "BAD large: 2 (at most 1)   of a unit" in capsys.readouterr().out


def test_a_part_without_time_is_said_and_costs_its_own_rows(tmp_path, monkeypatch, capsys) -> None:
    given = ["gpu", "--data", ".", "--emoji", ".", "--out", str(tmp_path), "--minutes", "0"]
    monkeypatch.setattr(sys, "argv", [*given, "--only", "steps,speed"])
    assert command.main() == 1
    assert [name for name, _ in read_rows(tmp_path / "rows.jsonl")] == ["steps", "speed"]
    assert "0 checks hold, 2 do not" in capsys.readouterr().out


def test_errors_are_relative_and_no_number_is_an_error_without_end() -> None:
    wanted = [torch.tensor([3.0, 4.0])]
    assert relative_error([torch.tensor([3.0, 4.5])], wanted) == pytest.approx(0.1)
    assert relative_error([torch.tensor([3.0, math.nan])], wanted) == math.inf


def test_draws_are_the_same_in_every_precision() -> None:
    def draw(dtype: torch.dtype) -> list[torch.Tensor]:
        like = torch.full((3, 2), 4.0, dtype=dtype)
        torch.set_default_dtype(dtype)
        try:
            with SameDraws(seed=1) as draws:
                made = [torch.randn(3), torch.rand_like(like), torch.randint(2, 9, (4,))]
                made += [torch.poisson(like), torch.nn.functional.dropout(like, 0.4)]
            assert draws.count == 5
        finally:
            torch.set_default_dtype(torch.float32)
        return made

    before = torch.get_rng_state()
    for one, other in zip(draw(torch.float32), draw(torch.float64), strict=True):
        assert torch.allclose(one.double(), other.double())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", DRAWING)
def test_float32_is_near_float64_where_both_draw_the_same(name: str) -> None:
    (row,) = steps._compare_with_float64(NAMED[name], "cpu")
    assert isinstance(row.found, float)
    assert row.found < steps.FLOAT_LIMIT


def test_another_step_is_seen(monkeypatch) -> None:
    case = NAMED["cae"]
    built = Case.build

    def build_faster(self: Case, device: str, seed: int = 0):
        model = built(self, device, seed)
        if monkeypatched:
            model.optimizers["all"].param_groups[0]["lr"] *= 1.01
        monkeypatched.append(model)
        return model

    monkeypatched: list[object] = []
    monkeypatch.setattr(Case, "build", build_faster)
    (row,) = steps._compare_with_float64(case, "cpu")
    assert isinstance(row.found, float)
    assert row.found > 1e-4


def test_epochs_and_goings_on_are_compared(settings: Settings) -> None:
    case = NAMED["cae by SGD, cosine"]
    assert [row.found for row in steps._compare_epochs(case, "cpu")] == [0.0]
    assert [row.found for row in resume._resume(case, settings)] == [0.0, 0.0]


def test_fused_trials_are_their_single_runs(settings: Settings) -> None:
    check = fused.Check(width=(4, 10), settings=settings)
    images = draw_splits((1, 28, 28), 256).train
    rows = [*check.each_step(images), *check.five_steps(images)]
    assert len(rows) == 4
    for row in rows:
        assert row.passed, row.text


def test_the_times_of_an_h100_make_a_worker_hold_sixteen_trials() -> None:
    gains = {1: 0.89, 2: 1.29, 4: 1.98, 8: 2.59, 16: 3.01, 32: 3.3, 64: 3.5}
    assert fused.chosen(1.0, {count: count / gain for count, gain in gains.items()}) == 16
    assert fused.chosen(1.0, {count: 1.1 * count for count in gains}) == 1


def test_the_batches_of_a_case_are_always_the_same() -> None:
    case = NAMED["acgan"]
    first, second = (list(batches_of(case, "cpu", 2)) for _ in range(2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0].images, first[1].images)


def test_the_archive_holds_the_images_and_no_archives(tmp_path: Path) -> None:
    for folder in pack.parts_of(tmp_path / "data"):
        folder.mkdir(parents=True)
        (folder / "train-images-idx3-ubyte").write_bytes(b"0" * 99)
        (folder / "train-images-idx3-ubyte.gz").write_bytes(b"0")
    pack.pack_images(tmp_path / "data", tmp_path / "data.tar.xz")
    with tarfile.open(tmp_path / "data.tar.xz") as archive:
        assert sorted(archive.getnames()) == [
            "data/FashionMNIST/raw/train-images-idx3-ubyte",
            "data/MNIST/raw/train-images-idx3-ubyte",
            "data/emoji/train-images-idx3-ubyte",
        ]


def test_what_is_packed_is_pinned_and_a_missing_folder_is_said(
    tmp_path, monkeypatch, capsys
) -> None:
    lock = (pack.ROOT / "requirements.lock").read_text()
    for name in pack.LACKING:
        assert pack.pinned_version(lock, name)[0].isdigit()
    monkeypatch.setattr(sys, "argv", ["pack", "--data", str(tmp_path)])
    assert pack.main() == 2
    assert "DATA_ROOT names the folder" in " ".join(capsys.readouterr().out.split())
