"""Export folders that somebody damaged or forged: refused in one line, or made anew."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.base import build
from models.cae import CAE, CAEConfig
from models.errors import ExportError
from models.export import describe, load_export
from models.tensor_files import write_tensors
from search.trials.leaderboard import Leaderboard
from search.trials.retraining_record import RetrainingRecord
from storage.files.exports import atomic_folder, is_whole, ranks_beyond, read_provenance
from storage.paths import RunPaths
from tests.conftest import contents

pytestmark = pytest.mark.usefixtures("quick_onnx")

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
MODEL = build(CAE, CAEConfig(channels=1, latent=2), (1, 12, 12), seed=0)
WHOLE = describe(MODEL)


class Trap:
    """A pickle that leaves a file behind when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("from pathlib import Path; Path('trapped').touch()",))


def header(length: int, text: bytes = b"{}") -> bytes:
    return struct.pack("<Q", length) + text


def described(**changes: object) -> bytes:
    return json.dumps({**WHOLE, **changes}).encode()


# a file of the export, what it holds instead (None: nothing), and words of the message
FILES: dict[str, tuple[str, bytes | None, list[str]]] = {
    "no-weights": (WEIGHTS, None, ["no file weights.safetensors", "export again"]),
    "no-config": (CONFIG, None, ["no file config.json", "export again"]),
    "empty-weights": (WEIGHTS, b"", ["export again"]),
    "huge-header": (WEIGHTS, header(2**62), ["export again"]),
    "header-beyond-the-end": (WEIGHTS, header(5000), ["export again"]),
    "header-no-json": (WEIGHTS, header(4, b"\xff\xfe\0\0"), ["export again"]),
    "tensor-beyond-the-end": (
        WEIGHTS,
        header(64, b'{"a":{"dtype":"F32","shape":[99],"data_offsets":[0,396]}}'.ljust(64)),
        ["export again"],
    ),
    "no-tensors": (WEIGHTS, header(2), ["Missing key"]),
    "a-pickle": (WEIGHTS, pickle.dumps(Trap()), ["export again"]),
    "a-zip": (WEIGHTS, b"PK\x03\x04" + bytes(99), ["export again"]),
    "config-empty": (CONFIG, b"", ["export again"]),
    "config-binary": (CONFIG, bytes(range(256)), ["utf-8"]),
    "config-pickle": (CONFIG, pickle.dumps(Trap()), ["export again"]),
    "config-list": (CONFIG, b"[]", ["export again"]),
    "config-null": (CONFIG, b"null", ["export again"]),
    "config-deep": (CONFIG, b"[" * 100_000, ["export again"]),
    "model-number": (CONFIG, described(model=5), ["5 is no model of genstudy", "family="]),
    "model-null": (CONFIG, described(model=None), ["None is no model"]),
    "model-elsewhere": (CONFIG, described(model="os:system"), ["os:system is no model"]),
    "model-inside": (CONFIG, described(model="models.export:json"), ["is not a model"]),
    "model-dots": (
        CONFIG,
        described(model="models...storage:best"),
        ["no model models...storage:best"],
    ),
    "model-path": (CONFIG, described(model="models./tmp/x:Y"), ["no model models./tmp/x:Y"]),
    "model-nul": (CONFIG, described(model="models.\0:Y"), ["models."]),
    "model-long": (CONFIG, described(model="models." + "x" * 9999), ["no model models.xxx"]),
    "model-abstract": (CONFIG, described(model="models.base:Model"), ["export again"]),
    "config-text": (CONFIG, described(config="latent"), ["export again"]),
    "latent-text": (CONFIG, described(config={"latent": "8"}), ["export again"]),
    "latent-huge": (CONFIG, described(config={"latent": 10**30}), ["latent=1000", "[1, 65536]"]),
    "unknown-field": (CONFIG, described(config={"depth": 3}), ["depth"]),
    "shape-short": (CONFIG, described(shape=[1, 12]), ["unpack"]),
    "shape-text": (CONFIG, described(shape="abc"), ["export again"]),
    "shape-huge": (CONFIG, described(shape=[1, 10**15, 10**15]), ["export again"]),
    "shape-endless": (CONFIG, described(shape=[1, 10**40, 12]), ["export again"]),
    "shape-negative": (CONFIG, described(shape=[1, -12, 12]), ["export again"]),
    "shape-other": (CONFIG, described(shape=[1, 28, 28]), ["size mismatch"]),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A right export, without its programs."""
    place = tmp_path / "exports" / "cae" / "1"
    place.mkdir(parents=True)
    save_file(MODEL.state_dict(), place / WEIGHTS)
    (place / CONFIG).write_text(json.dumps(WHOLE))
    load_export(place)
    monkeypatch.chdir(tmp_path)
    return place


def refused(folder: Path, words: list[str]) -> None:
    before = contents(folder.parents[2])
    with pytest.raises(ExportError) as caught:
        load_export(folder)
    said = str(caught.value)
    for word in words:
        assert word in said
    assert "\n" not in said
    assert len(said) < 500
    assert contents(folder.parents[2]) == before


@pytest.mark.parametrize("mistake", FILES)
def test_a_damaged_export_is_one_line(folder: Path, mistake: str) -> None:
    name, content, words = FILES[mistake]
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    refused(folder, words)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("gone")])
def test_an_export_whose_files_are_none_is_one_line(
    folder: Path, make: Callable[[Path], None], name: str
) -> None:
    (folder / name).unlink()
    make(folder / name)
    refused(folder, [f"no file {name}"])


def test_weights_of_another_kind_are_one_line(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights[next(iter(weights))]
    save_file({**weights, "more": torch.zeros(2)}, folder / WEIGHTS)
    refused(folder, ["Missing key", "export again"])


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"7", b'"x"', b"\xff\xfe", b"{", b"[" * 100_000,
     b'{"sha256": null}', b'{"sha256": ["weights.safetensors"]}', b'{"sha256": {"gone": "0"}}',
     b'{"sha256": {"../../../../etc/shadow-of-nobody": "0"}}', b'{"sha256": {"a\\u0000b": "0"}}'],
)  # fmt: skip
def test_a_damaged_provenance_is_no_whole_export(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "provenance.json").write_bytes(content)
    found = read_provenance(tmp_path)
    assert found is None or not is_whole(tmp_path, found)


RECORD = {
    "token": "t", "trial": 3, "made": "now", "patience": 4, "ended_by": "patience", "epochs": 2,
    "most_epochs": 9, "valid": {"mse": 0.5}, "test": None,
    "study": "cae", "study_file": "cae", "trial_value": 0.5, "parameters": {}, "starts_from": None,
    "config": {}, "model": "CAE", "model_parameters": 7, "data": "digits", "images": {},
    "pixels": "p", "metric": "mse", "direction": "minimize", "seed": 1, "study_seed": 0,
    "best_epoch": 1, "judge": None, "verdict": {}, "tables": [], "curve": [], "seconds": 1.0,
    "device": "cpu", "revision": "abc",
}  # fmt: skip


@pytest.fixture
def leaderboard(tmp_path: Path) -> Leaderboard:
    """That of a study with one retrained and exported trial, number 3."""
    paths = RunPaths(tmp_path)
    spec: Any = SimpleNamespace(quality="mse", minimizes=True, patience=4)
    run: Any = SimpleNamespace(paths=paths, study="cae", token="t", retrain_epochs=9)
    kept = paths.retraining("cae", 3)
    kept.folder.mkdir(parents=True)
    identity = RetrainingRecord.from_plain(RECORD).identity()
    write_tensors(kept.best, {}, {"checkpoint": {}}, of=identity)
    kept.record.write_text(json.dumps(RECORD))
    paths.export("cae", 2).mkdir(parents=True)
    provenance = json.dumps({**RECORD, "rank": 2, "sha256": {}})
    (paths.export("cae", 2) / "provenance.json").write_text(provenance)
    made = Leaderboard(spec, run, cast(Any, None))
    assert made.is_exported(3, 2)
    return made


@pytest.mark.parametrize(
    "changes",
    [*({name: None} for name in RECORD if name != "test"), {"valid": {}}, {"valid": {"mse": "x"}},
     {"valid": [0.5]}, {"test": {"mae": 1.0}}, {"epochs": "many"}],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_made_anew(leaderboard: Leaderboard, changes: dict[str, Any]) -> None:
    """A field that is gone or another; never a traceback in a study that was finished."""
    damaged = {**RECORD, **changes}
    for name, value in changes.items():
        if value is None:
            del damaged[name]
    record = leaderboard.run.paths.retraining("cae", 3).record
    record.write_text(json.dumps(damaged))
    assert leaderboard.record(3) is None
    assert not leaderboard.is_exported(3, 2)
    record.write_text(json.dumps(RECORD))
    provenance = leaderboard.run.paths.export("cae", 2) / "provenance.json"
    provenance.write_text(json.dumps({**damaged, "rank": 2, "sha256": {}}))
    assert leaderboard.record(3) is not None
    assert not leaderboard.is_exported(3, 2)


def test_an_export_that_is_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").write_text("kept")
    exports = tmp_path / "exports"
    exports.mkdir()
    for rank in ("1", "2"):
        (exports / rank).symlink_to(mine)
    (exports / "3").symlink_to("gone")
    (exports / "4").write_text("a file")
    for rank in ("1", "3", "4"):
        with atomic_folder(exports / rank) as staging:
            (staging / "new").write_text("new")
    assert {path.name for path in exports.iterdir()} == {"1", "2", "3", "4"}
    assert all((exports / rank / "new").exists() for rank in ("1", "3", "4"))
    assert ranks_beyond(exports, 1) == [2, 3, 4]
    assert (mine / "notes").read_text() == "kept"
