"""Exports: every file is loaded back and computes what the live model computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models.base import Model, Program, Shape, build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import ImageSplits
from models.errors import ExportError
from models.export import check_export, load_export, write_export
from models.figures.curves import draw_learning_curve
from models.figures.grids import draw_rows
from models.program_files import open_onnx
from models.programs import TensorSpec
from models.training.loop import fit
from models.usage import genstudy_usage

pytestmark = pytest.mark.usefixtures("quick_onnx")


@pytest.fixture(scope="module")
def model(digits: ImageSplits) -> Model:
    made = build(CAE, CAEConfig(channels=2, latent=4, batch_size=128), (1, 28, 28), seed=0)
    list(fit(made, digits, epochs=1, seed=0))
    return made


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("export")
    write_export(model, place, {"study": "small", "trial": "3"})
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
    (codes,) = encoder.run(["codes"], {"images": images})
    (made,) = decoder.run(["images"], {"codes": codes})
    assert codes.shape == (count, 4)
    assert made.shape == (count, 1, 28, 28)


def test_programs_say_what_goes_in_and_what_comes_out(folder: Path) -> None:
    session = onnxruntime.InferenceSession(folder / "encoder.onnx")
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("images", ["N", 1, 28, 28])
    assert (given.name, given.shape) == ("codes", ["N", 4])
    said = session.get_modelmeta().custom_metadata_map
    kept = {"genstudy.json": ""}
    torch.export.load(folder / "encoder.pt2", extra_files=kept)
    assert json.loads(kept["genstudy.json"]) == said
    assert (said["study"], said["trial"], said["program"]) == ("small", "3", "encoder")
    assert json.loads(said["inputs"]) == [
        {
            "name": "images", "shape": ["N", 1, 28, 28], "type": "float32", "holds": "images",
            "bounds": [0, 1], "drawn_from": None,
        }
    ]  # fmt: skip
    (codes,) = json.loads(said["outputs"])
    assert (codes["name"], codes["shape"], codes["bounds"]) == ("codes", ["N", 4], None)


def test_a_check_needs_no_further_thread(folder: Path, model: Model) -> None:
    """Where none may be started, an export was taken for damaged."""
    program = model.programs()["encoder"].named()
    before = count_threads()
    run = open_onnx(folder / "encoder.onnx", program)
    assert count_threads() == before
    run(*program.arguments)


def test_a_shortage_is_no_damage(
    folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("env.cc:327 pthread_create failed, error code: 11")

    for place in ("models.export.open_onnx", "models.export.load_file"):
        with monkeypatch.context() as patch:
            patch.setattr(place, refuse)
            with pytest.raises(RuntimeError, match="pthread_create"):
                check_export(model, folder)


def count_threads() -> int:
    return len([*Path("/proc/self/task").iterdir()])


class Two(nn.Module):
    """Takes two tensors, gives two that a caller may confuse."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        made = self.layer(left) + right
        return made, made * 1e3


LEFT, RIGHT = (TensorSpec(name=name, holds=name) for name in ("left", "right"))


class Pair(CAE):
    """A family of one's own, with a program of two inputs and two outputs."""

    taken: tuple[TensorSpec, ...] = ()
    given: tuple[TensorSpec, ...] = ()

    def __init__(self, config: CAEConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.two = Two()

    def programs(self) -> dict[str, Program]:
        example = (torch.rand(2, 3), torch.rand(2, 3))
        program = Program(module=self.two, example=example, inputs=self.taken, outputs=self.given)
        return {"two": program}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Path]:
    made = build(Pair, CAEConfig(channels=1, latent=2), (1, 12, 12), seed=0)
    assert isinstance(made, Pair)
    place = tmp_path_factory.mktemp("pair")
    write_export(made, place)
    return made, place


def test_a_program_without_names_has_those_of_its_arguments(pair: tuple[Pair, Path]) -> None:
    model, folder = pair
    session = onnxruntime.InferenceSession(folder / "two.onnx")
    assert [value.name for value in session.get_inputs()] == ["left", "right"]
    assert [value.name for value in session.get_outputs()] == ["output_0", "output_1"]
    assert {value.shape[0] for value in (*session.get_inputs(), *session.get_outputs())} == {"N"}
    assert max(check_export(model, folder).values()) < 1e-5


def test_every_output_is_compared_with_its_own_scale(
    pair: tuple[Pair, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = pair
    right = model.two.forward

    def wrong(left: Tensor, right_: Tensor) -> tuple[Tensor, Tensor]:
        first, second = right(left, right_)
        return first + 0.01, second

    monkeypatch.setattr(model.two, "forward", wrong)
    monkeypatch.setattr(Pair, "taken", (LEFT, RIGHT))
    with pytest.raises(ExportError, match=r"two.onnx output_0 by \d\.\de-0\d") as raised:
        check_export(model, folder)
    assert "output_1" not in str(raised.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["one"], "has 2 outputs, but they are named one; give each a name of its own"),
        (["one", "one"], "named one, one; give each a name of its own"),
        (["left", "other"], "an input and an output that are both named left; ONNX needs two"),
    ],
)
def test_names_that_do_not_fit_are_refused(
    pair: tuple[Pair, Path], monkeypatch: pytest.MonkeyPatch, names: list[str], message: str
) -> None:
    given = tuple(TensorSpec(name=name, holds=name) for name in names)
    monkeypatch.setattr(Pair, "given", given)
    with pytest.raises(ExportError, match=message):
        pair[0].programs()["two"].named()


def test_a_program_that_gives_no_tensor_is_refused() -> None:
    class Words(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"images": images}

    with pytest.raises(ExportError, match="gives a dict; give a tensor or a tuple of tensors"):
        Program(module=Words(), example=torch.zeros(2, 1)).named()


def test_a_folder_is_given_as_text_too(folder: Path) -> None:
    assert isinstance(load_export(str(folder)), CAE)
    link = folder.parent / "study" / "1"
    link.parent.mkdir()
    link.symlink_to(folder)
    with pytest.raises(ExportError, match=f"holds a folder for each rank; give one: {link}"):
        load_export(str(link.parent))


def test_a_family_of_ones_own_is_asked_for_by_name(pair: tuple[Pair, Path]) -> None:
    with pytest.raises(ExportError, match="import its class, and pass family=Pair"):
        load_export(pair[1])
    assert isinstance(load_export(pair[1], family=Pair), Pair)


def test_image_files_are_read_as_the_model_takes_them(model: Model, tmp_path: Path) -> None:
    Image.new("RGB", (60, 30), (255, 255, 255)).save(tmp_path / "wide.jpg")
    Image.new("L", (28, 28), 51).save(tmp_path / "small.png")
    images = model.read_images(tmp_path / "wide.jpg", str(tmp_path / "small.png"))
    assert images.shape == (2, 1, 28, 28)
    torch.testing.assert_close(images.mean((1, 2, 3)), torch.tensor([1.0, 0.2]))


def test_lines_for_a_card_name_what_must_be_imported(pair: tuple[Pair, Path]) -> None:
    def lines(module: str, study_file: str) -> list[str]:
        family = type("Mine", (Pair,), {"__module__": module, "__qualname__": "Mine"})
        mine = build(family, CAEConfig(channels=1, latent=2), (1, 12, 12), seed=0)
        return genstudy_usage(mine, study_file)

    beside = lines("nets.mine", "/place/study.py")
    assert "sys.path.insert(0, '/place')" in beside
    assert "from nets.mine import Mine" in beside
    assert 'model = load_export(".", family=Mine)  # this folder' in beside
    inside = lines("genstudy_study_a-b", "/place/a-b.py")
    assert "Mine = importlib.import_module('a-b').Mine" in inside
    ours = genstudy_usage(build(CAE, CAEConfig(), (1, 28, 28), seed=0), "cae")
    assert 'model = load_export(".")  # this folder' in ours
    assert any('model.read_images("example.png")  #' in line for line in ours)


@pytest.mark.parametrize(
    ("background", "said"),
    [
        ("", ""),
        ("#ffffff", ""),
        ("#000000", ', background="#000000"'),
        ("none", ', background="none"'),
    ],
)
def test_lines_for_a_card_read_images_on_the_background_of_the_training(
    background: str, said: str
) -> None:
    lines = genstudy_usage(build(CAE, CAEConfig(), (1, 28, 28), seed=0), "cae", background)
    assert any(f'model.read_images("example.png"{said})  #' in line for line in lines)


def test_an_export_that_computes_something_else_is_refused(
    model: Model, folder: Path, tmp_path: Path
) -> None:
    other = build(CAE, CAEConfig(channels=2, latent=4), (1, 28, 28), seed=77)
    with pytest.raises(ExportError, match=r"differ from the live model's: .*encoder.onnx codes by"):
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
