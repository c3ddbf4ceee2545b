"""A disk that is full: what was whole stays whole, trials go on, and the next run finds no mess.

Every test meets two disks: a small one that is really full (where one may mount it), and a
limit on the size of files, which any user can set and which fails in the same places.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, nn

from models.base import Metrics, Model, ModelConfig, Program, build
from models.data.images import Batch, Shape
from models.data.loading import prepare_images
from models.export import export_size, write_export
from storage import curves, trials
from storage.database.connection import open_storage
from storage.errors import DatabaseUnreachable, DiskFull
from storage.files.exports import atomic_folder, is_whole, publish, read_provenance
from tests.user import (
    LONG,
    LONGER,
    User,
    WriteStudy,
    is_error_line,
    limit_files,
    progress,
    slow,
    wait_until,
    watched,
)

FEW_DIGITS = True

pytestmark = pytest.mark.usefixtures("quick_onnx")

PAGE = 4096
FULL = "(?:No space left on device|File too large)"
# It keeps a checkpoint of every epoch, and prints more than a full disk takes.
TALKATIVE = {
    "model=CAE,": "model=Talkative,",
    "def suggest": """import search.worker.trial_epochs
    search.worker.trial_epochs.CHECKPOINT_EVERY = 0.0

    class Talkative(CAE):
        def train_step(self, batch):
            print("a step" * 1000)
            return super().train_step(batch)

    def suggest""",
}


class SmallDisk:
    """A tmpfs. `leave` fills it up to so many bytes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ballast = place / "ballast"

    @contextmanager
    def leave(self, room: int, *processes: psutil.Process) -> Iterator[None]:
        try:
            with self.ballast.open("wb", buffering=0) as file:
                left = os.statvfs(self.place).f_bavail * PAGE - room
                while left > 0:
                    left -= file.write(bytes(min(left, 2**20)))
        except OSError as error:  # what runs there has written meanwhile
            if error.errno != errno.ENOSPC:
                raise
        try:
            yield
        finally:
            self.ballast.unlink()


class SmallFiles:
    """No file larger than so many bytes, for this process or those that are given."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @contextmanager
    def leave(self, room: int, *processes: psutil.Process) -> Iterator[None]:
        pids = [process.pid for process in processes] or [os.getpid()]
        kind = resource.RLIMIT_FSIZE
        before = {pid: resource.prlimit(pid, kind) for pid in pids}
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, kind, (room, hard))
        try:
            yield
        finally:
            for pid, limits in before.items():
                if psutil.pid_exists(pid):
                    resource.prlimit(pid, kind, limits)


Disk = SmallDisk | SmallFiles


def may_mount() -> bool:
    return os.geteuid() == 0 and _mounts(Path("/mnt"))


def _mounts(place: Path) -> bool:
    done = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(place)], check=False
    )
    return done.returncode == 0


@pytest.fixture(params=["files", "tmpfs"] if may_mount() else ["files"])
def disk(request: pytest.FixtureRequest, user: User) -> Iterator[Disk]:
    """The place of RUNS, with the images there already."""
    place = user.runs
    place.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(place)], check=True)
    try:
        prepare_images("digits", root=place, cache=place / "cache", shape=(1, 28, 28))
        yield SmallDisk(place) if request.param == "tmpfs" else SmallFiles(place)
    finally:
        if request.param == "tmpfs":
            subprocess.run(["umount", "-l", str(place)], check=True)


def half_files(place: Path) -> list[Path]:
    return [path for path in place.rglob(".*") if path.name != ".gitignore"]


def test_a_full_disk_costs_checkpoints_and_pictures_but_no_trial(
    user: User, disk: Disk, study_file: WriteStudy, postgres_url: str
) -> None:
    name = study_file(replace=TALKATIVE)
    sizes: dict[str, Any] = {"TRIALS": 2, "WORKERS": 1, "TOP": 1}
    variables = {"NAME": name, "STORAGE": postgres_url, **sizes}
    if isinstance(disk, SmallFiles):
        user.before = limit_files(2 * PAGE)
        code, out, error = user.run(**variables)
    else:
        with disk.leave(2 * PAGE):
            code, out, error = user.run(**variables)
    user.before = ""
    frame = trials("small", storage=postgres_url)
    assert frame["outcome"].tolist() == ["complete"] * 2
    for what in ("checkpoint", "picture"):
        said = re.findall(rf"worker 0: goes on without {what}s of trials: (.*)", out)
        assert len(said) == 1  # of the first trial, and not again
        assert re.match(rf"cannot write \S+: {FULL}; .*[\d,]+ are free; make room", said[0])
        assert frame[f"no_{what}"].str.contains(FULL).tolist() == [True] * 2

    # whose exports these are, and weights, are needed: it ends, with the place and the reason
    assert code == 2
    assert is_error_line(error)
    weights = rf"retrain-\d-best.safetensors: {FULL}; it takes at least [\d,]+ bytes, [\d,]+ are"
    needed = rf"{weights}|finishing-identity: {FULL}; (it takes .*)?0 are free"
    assert re.search(needed, error)
    assert half_files(user.runs) == []

    code, out, error = user.run(**variables)  # with space again
    assert (code, error) == (0, "")
    assert trials("small", storage=postgres_url)["value"].equals(frame["value"])
    folder = user.runs / "exports" / "small" / "1"
    assert is_whole(folder, read_provenance(folder) or {})
    assert (user.runs / "logs" / "small" / "worker-0.log").stat().st_size > 50_000


def test_a_database_without_space_is_waited_for_and_loses_nothing(
    user: User, disk: Disk, study_file: WriteStudy
) -> None:
    name = study_file(replace={**LONGER, **slow(0.02)})
    with watched(user.start(NAME=name, TRIALS=1, WORKERS=1, TOP=1)) as process:
        wait_until(lambda: progress(user.url)() > 4)
        family = psutil.Process(process.pid)
        with disk.leave(0, *family.children()):
            said = read_until(process, "the trial database cannot write")
            assert re.search(r"worker 0: .*\((database or disk is full|disk I/O error)\)", said)
            before = progress(user.url)()
        wait_until(lambda: progress(user.url)() == LONG)
        assert before < LONG
        wait_until(lambda: set(trials("small", storage=user.url)["state"]) == {"COMPLETE"})
        process.send_signal(2)
        process.communicate(timeout=30)
    frame = curves("small", storage=user.url)
    assert frame["epoch"].tolist() == list(range(1, LONG + 1))
    assert frame.notna().all(axis=None)


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"it ended without {text!r}")


@pytest.mark.parametrize("room", [0, 5 * PAGE, 20 * PAGE])
def test_a_database_that_finds_no_space_to_begin_is_one_line_and_begins_later(
    disk: Disk, room: int
) -> None:
    url = f"sqlite:///{disk.place / 'studies.db'}"
    said = pytest.raises(DatabaseUnreachable, match=r"on a local disk with space\?")
    with disk.leave(room), said:
        open_storage(url)
    storage = open_storage(url)
    storage.create_new_study([], "whole")
    storage.engine.dispose()


class Line(Model):
    """The smallest model there is to export: one program, one layer."""

    metrics = ("mse",)
    config_type = ModelConfig

    def __init__(self, config: ModelConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.layer = nn.Linear(64, 64)

    def train_step(self, batch: Batch) -> Metrics:
        return self.evaluate(batch)

    def evaluate(self, batch: Batch) -> Metrics:
        return {"mse": batch.images.mean()}

    def preview(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return images

    def programs(self) -> dict[str, Program]:
        return {"layer": Program(module=self.layer, example=torch.zeros(2, 64))}


RECORD = {
    "study": "small", "trial": 3, "trial_value": 0.1, "parameters": {}, "model": "Line",
    "model_parameters": 4160, "data": "digits", "images": {"train": 1, "valid": 1, "test": 1},
    "metric": "mse", "epochs": 2, "ended_by": "patience", "best_epoch": 1, "valid": {"mse": 0.1},
    "test": None, "seed": 1, "device": "cpu", "seconds": 1.0, "revision": "abc", "made": "now",
    "curve": [{"epoch": epoch, "value": 0.123456789} for epoch in range(2000)],
    "rank": 1, "output_differences": {"layer.onnx": 0.0}, "pictures": {}, "tables": [],
}  # fmt: skip


def export(model: Model, folder: Path) -> None:
    with atomic_folder(folder, needs=export_size(model)) as staging:
        write_export(model, staging)
        publish(staging, RECORD)


def test_an_export_that_does_not_fit_leaves_the_older_one_whole(disk: Disk) -> None:
    model = build(Line, ModelConfig(), (1, 8, 8), seed=0)
    folder = disk.place / "exports" / "small" / "1"
    export(model, folder)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    for file, room in rooms(disk, {name: len(data) for name, data in content.items()}).items():
        with disk.leave(room), pytest.raises(DiskFull) as raised:
            export(model, folder)
        told = (
            rf"cannot write {folder} \({file}\): {FULL}; it takes at least 49,920 bytes, [\d,]+ are"
        )
        assert re.match(told, str(raised.value))
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == content
        assert [path.name for path in folder.parent.iterdir()] == ["1"]
    export(model, folder)
    assert is_whole(folder, read_provenance(folder) or {})


def rooms(disk: Disk, sizes: dict[str, int]) -> dict[str, int]:
    """The file that is to fail -> how much room there may be for it to be the first."""
    if isinstance(disk, SmallFiles):
        failing = ("weights.safetensors", "layer.pt2", "provenance.json")
        return {file: sizes[file] - 100 for file in failing}  # each the largest so far
    found, before = {}, 0
    for file in (
        "weights.safetensors",
        "config.json",
        "layer.pt2",
        "layer.onnx",
        "provenance.json",
    ):
        pages = -(-sizes[file] // PAGE)
        if pages > 1:
            found[file] = (before + pages // 2) * PAGE
        before += pages
    return found
