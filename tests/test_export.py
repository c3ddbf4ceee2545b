"""Exports: every file is loaded back and computes what the live model computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from models.base import Model, build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.errors import ExportError
from models.export import check_export, load_export, write_export
from models.figures.curves import draw_learning_curve
from models.figures.grids import draw_rows
from models.training.loop import fit

pytestmark = pytest.mark.usefixtures("quick_onnx")


@pytest.fixture(scope="module")
def model(digits: ImageSplits) -> Model:
    made = build(CAE, CAEConfig(channels=2, latent=4, batch_size=128), (1, 28, 28), seed=0)
    list(fit(made, digits, epochs=1, seed=0))
    return made


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export")
    write_export(model, place)
    return place


def test_an_export_has_weights_configuration_and_programs(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "weights.safetensors", "config.json",
        "encoder.onnx", "encoder.pt2", "decoder.onnx", "decoder.pt2",
    }  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    assert config["model"] == "models.cae:CAE"
    assert config["config"]["latent"] == 4


def test_every_file_is_compared_with_the_live_model(model: Model, folder: Path) -> None:
    differences = check_export(model, folder)
    assert set(differences) == {
        f"{kind}{name}{suffix}"
        for name in ("encoder", "decoder")
        for kind, suffix in (("weights.safetensors ", ""), ("", ".onnx"), ("", ".pt2"))
    }
    assert max(differences.values()) < 1e-5


def test_a_loaded_export_reconstructs_like_the_live_model(
    model: Model, folder: Path, digits: ImageSplits
) -> None:
    images = digits.test.batch(slice(0, 7)).images
    loaded = load_export(folder)
    with evaluating(model), torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("count", [1, 2, 17])
def test_onnx_takes_any_number_of_images(folder: Path, digits: ImageSplits, count: int) -> None:
    images = digits.test.batch(slice(0, count)).images.numpy()
    encoder = onnxruntime.InferenceSession(folder / "encoder.onnx")
    decoder = onnxruntime.InferenceSession(folder / "decoder.onnx")
    (codes,) = encoder.run(None, {encoder.get_inputs()[0].name: images})
    (made,) = decoder.run(None, {decoder.get_inputs()[0].name: codes})
    assert codes.shape == (count, 4)
    assert made.shape == (count, 1, 28, 28)


def test_an_export_that_computes_something_else_is_refused(
    model: Model, folder: Path, tmp_path: Path
) -> None:
    other = build(CAE, CAEConfig(channels=2, latent=4), (1, 28, 28), seed=77)
    with pytest.raises(ExportError, match=r"differ from the live model's: .*encoder.onnx by"):
        check_export(other, folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("weights.safetensors", b""),
        ("weights.safetensors", b"\x80\x04}q\x00."),
        ("config.json", b"{}"),
        ("config.json", b"not json"),
        ("config.json", b'{"model": "models.cae:CAE", "config": {}, "shape": [1, 8, 8]}'),
        (
            "config.json",
            b'{"model": "models.cae:CAE", "config": {"depth": 3}, "shape": [1, 28, 28]}',
        ),
    ],
)
def test_a_damaged_export_is_refused(
    model: Model, tmp_path: Path, file: str, content: bytes
) -> None:
    from safetensors.torch import save_file

    from models.export import describe

    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(describe(model)))
    load_export(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ExportError, match="is not a whole export"):
        load_export(tmp_path)


@pytest.mark.parametrize("name", ["os:system", "models.nothing:CAE", "models.cae:CAEConfig", "x"])
def test_a_configuration_cannot_choose_code_to_run(
    model: Model, folder: Path, tmp_path: Path, name: str
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model": name}))
    with pytest.raises(ExportError, match="model"):
        load_export(tmp_path)


def test_reconstructions_are_drawn_in_two_rows(tmp_path: Path, digits: ImageSplits) -> None:
    images = digits.test.batch(slice(0, 10)).images
    draw_rows(tmp_path / "r.png", {"original": images, "made": 1 - images}, title="digits")
    drawn = np.asarray(Image.open(tmp_path / "r.png").convert("L")).astype(float)
    left = drawn.shape[1] // 5
    half = (drawn.shape[0] - 40) // 2
    upper, lower = drawn[-2 * half : -half, left:], drawn[-half:-12, left:]
    assert drawn.shape[1] > 900
    assert upper.mean() < lower.mean() - 50  # digits are bright on dark, their negatives not


def test_learning_curves_are_drawn_for_one_epoch_and_for_many(tmp_path: Path) -> None:
    for count in (1, 50):
        curve = [1 / (epoch + 1) for epoch in range(count)]
        draw_learning_curve(
            tmp_path / "l.png", {"train": curve, "validation": curve}, metric="mse", title="t"
        )
        assert np.asarray(Image.open(tmp_path / "l.png")).std() > 5
