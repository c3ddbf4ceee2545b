"""Every study of genstudy trains and makes what its export shows, in its smallest form, on digits.

One study of each kind runs as a whole, as a user starts it: its trial, retraining, test images,
export and the lines of its card (`WHOLE`, and the classifier after what it starts from). Of all
others the model is built, trained, measured and drawn in this process, by the same calls; and
exported where no other test exports its networks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.trial import FixedTrial
from PIL import Image, ImageDraw

from models.base import Model, ModelConfig, build, evaluating
from models.cae import CAE
from models.data.images import ImageSplits, Shape
from models.data.loading import load_images
from models.export import check_export, load_export, write_export
from models.training.loop import fit
from models.usage import EXAMPLE, genstudy_usage, onnx_usage
from search.setup.loading import load_study, study_names
from search.setup.sampled import sample_configurations
from search.study import Study
from search.worker.tried_model import first_images
from storage import trials
from tests.model_cards import run_card
from tests.preloaded import Preloaded
from tests.user import User

FEW_DIGITS = True

SMALLEST: dict[str, Any] = {
    "DATA": "digits", "TRIALS": 1, "EPOCHS": 1, "RETRAIN_EPOCHS": 1, "WORKERS": 1, "TOP": 1,
}  # fmt: skip
RUN_BY_ANOTHER = {"cae", "classifier", "classifier_tuned"}  # one after the other, by FIRST
WHOLE = ("vae", "gan", "acgan", "augmentation")  # a VAE, a GAN, one with labels, one with a table
FEW = 64  # images of each part, for what runs in this process
# Whose networks no other test exports: of test_models, test_vae, test_gan and test_stargan.
EXPORTED = {"gan_faces", "gan_wide", "gan_stacked", "stargan", "stargan_few", "acgan_few"}
TOO_WIDE = {
    "vae": 0.1,
    "vae_faces": 0.02,
    "vae_wide": 0.01,
    "vae_binary": 0.1,
}  # for a CPU: in this width instead

# Of these the samples are judged. Where a study's images are too large for a test, smaller ones:
# the networks' stages follow from the size.
GANS: dict[str, tuple[float, tuple[int, int, int] | None]] = {
    "gan": (0.03, None),
    "gan_balance": (0.03, None),
    "gan_dropout": (0.03, None),
    "gan_stacked": (0.03, None),
    "gan_faces": (0.02, (3, 32, 32)),
    "gan_wide": (0.004, (3, 64, 64)),
    "acgan": (0.03, (3, 32, 32)),
    "acgan_few": (0.03, (3, 32, 32)),
    "stargan": (0.03, (3, 32, 32)),
    "stargan_few": (0.03, (3, 32, 32)),
    "augmentation": (0.02, None),
    "gan_balances": (0.03, None),
    "gan_losses": (0.03, None),
    "gan_rates": (0.03, None),
    "few_images": (0.03, None),
}

NARROW = """
'''{name} in a reduced width: the same networks, space and loss.'''
from dataclasses import replace
from search.studies import {name} as full

def suggest(trial):
    return replace(full.suggest(trial), width={width}{more})

references = full.STUDY.references if {tried} else {{}}
shape = {shape} or full.STUDY.shape
STUDY = replace(
    full.STUDY, suggest=suggest, references=references, shape=shape, adapts={adapts}
)
"""

# What each shows beyond reconstructions, latent space and learning curve.
PICTURES = {
    "cae_upsample": ["checkerboard.png"],
    "denoise": ["denoising.png"],
    "dense_denoise": ["denoising.png"],
    "vae": ["samples.png", "prior_grid.png", "learning_curve_kl.png", "learning_curve_mse.png"],
    "vae_faces": ["samples.png", "learning_curve_kl.png"],
    "acgan": ["labels.png"],
    "acgan_few": ["labels.png"],
    "stargan": ["translations.png"],
    "stargan_few": ["translations.png"],
}
OF_A_GAN = ["samples.png", "interpolations.png"]
OF_EVERY_GAN = {
    "learning_curve.png", "game.png", "losses.png", "learned.png", "learned.gif"
}  # fmt: skip


def narrow(
    name: str,
    width: float | None,
    shape: tuple[int, int, int] | None = None,
    *,
    tried: bool = False,
) -> str:
    """A study file; tried: whether the study's references are."""
    more = ", importance_samples=20" if name == "vae_binary" else ""
    return NARROW.format(
        name=name, width=width, more=more, shape=shape, tried=tried, adapts=shape is None
    )


def provenance(user: User, study: str) -> dict[str, Any]:
    folder = user.runs / "exports" / study / "1"
    check_card(user, folder)
    found: dict[str, Any] = json.loads((folder / "provenance.json").read_text())
    assert set(found["pictures"]) <= {path.name for path in folder.iterdir()}
    return found


# What the lines of a card are followed by: all that came out is a number and in its bounds.
IN_BOUNDS = """
found = {name: value for name, value in locals().items() if isinstance(value, np.ndarray)}
for name in ("images", "samples"):
    if name in found:
        low, high = found[name].min(), found[name].max()
        assert -1e-6 <= low <= high <= 1 + 1e-6, (name, low, high)
assert all(np.isfinite(value).all() for value in found.values())
print(*sorted(found))
"""

# What the model of a study gives in the lines of its card; all others encode and decode images.
GIVEN = {
    "vae": "codes images log_variance mean",
    "gan": "codes samples",
    "augmentation": "codes samples",
    "few": "codes samples",
    "acgan": "codes labels samples",
    "stargan": "images labels samples",
    "classifier": "images scores",
}


def check_card(user: User, folder: Path) -> None:
    """Run the card's lines as they stand."""
    assert isinstance(user.preloaded, Preloaded)
    first, _ = run_card(folder, user.preloaded, IN_BOUNDS)
    assert first.splitlines()[-1] == GIVEN.get(family_of(folder.parent.name), "codes images")


def family_of(study: str) -> str:
    return re.split(r"[-_]", study)[0]


@pytest.mark.parametrize("name", WHOLE)
def test_a_study_of_each_kind_runs_to_its_export(
    user: User, quick_cache: Path, tmp_path: Path, name: str
) -> None:
    user.runs.mkdir()
    (user.runs / "cache").symlink_to(quick_cache)  # it has extractors
    width, shape = GANS.get(name, (TOO_WIDE.get(name), None))
    file = tmp_path / f"{name}.py"
    # two numbers an image are a plane: the reference of `vae` is tried
    file.write_text(narrow(name, width, shape, tried=name == "vae"))
    smallest, stored = SMALLEST, f"{name}-digits"
    if shape is not None:  # colour images with attributes, as these studies are for
        draw_folder(tmp_path / "shapes", 120)
        smallest = {**SMALLEST, "DATA": f"folder:{tmp_path / 'shapes'}"}
        stored = f"{name}-folder-shapes"
    code, out, error = user.run(NAME=file, **smallest)
    assert (code, error) == (0, "")
    found = provenance(user, stored)
    shown = set(found["pictures"])
    assert found["test"][found["metric"]] > 0
    assert "learning_curve.png" in shown
    if load_study(name).spec.summary is not None:
        assert "Mode collapse by what the GAN was trained on" in out
    if name not in GANS:
        assert {"reconstructions.png", *PICTURES[name]} <= shown
        assert any(file.startswith("latent_") for file in shown)
        return
    assert found["test"]["frechet"] > found["test_judge"]["floor"]["frechet"] > 0
    assert found["verdict"]["verdict"] in ("healthy", "collapsed", "d_won", "g_won")
    assert {*OF_EVERY_GAN, *PICTURES.get(name, OF_A_GAN)} <= shown
    if load_study(name).spec.model.labelled:
        assert found["label_names"] == ["share", "bright"], "in the order of their columns"
    row = trials(stored, storage=user.url).iloc[0]
    assert row["verdict"]
    assert row["value"] > row["floor"] > 0


@pytest.fixture(scope="module")
def digits_in(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], ImageSplits]:
    """Digits in any shape, a few of each part."""
    place = tmp_path_factory.mktemp("images")

    def load(shape: Shape) -> ImageSplits:
        return first_images(load_images("digits", root=place, cache=place, shape=shape), FEW)

    return load


def smallest_config(study: Study) -> ModelConfig:
    """The first configuration that the study tries, in a width for a CPU."""
    references, name = list(study.spec.references.values()), study.name
    config: Any
    if references and name not in GANS:
        config = study.spec.suggest(FixedTrial(dict(references[0])))
    else:
        (config,) = sample_configurations(study, 1)
    if name in GANS:
        few = {"epoch_images": 2 * FEW, "drawn": FEW} if hasattr(config, "epoch_images") else {}
        return replace(config, width=GANS[name][0], **few)
    if name == "vae_binary":
        return replace(config, width=TOO_WIDE[name], importance_samples=20)
    return replace(config, width=TOO_WIDE[name]) if name in TOO_WIDE else config


@pytest.mark.usefixtures("quick_export", "small_figures")
@pytest.mark.parametrize("name", sorted(set(study_names()) - RUN_BY_ANOTHER - set(WHOLE)))
def test_a_study_trains_and_makes_what_its_export_shows(
    name: str,
    digits_in: Callable[[Shape], ImageSplits],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for trained in ("analysis.baselines.EPOCHS", "analysis.checkerboard.EPOCHS"):
        monkeypatch.setattr(f"models.{trained}", 1)
    monkeypatch.setattr(CAE, "noise_epochs", 1)
    study = load_study(name)
    spec = study.spec
    images = digits_in(GANS.get(name, (0, None))[1] or spec.shape or (1, 28, 28))
    config = spec.model.fitted(smallest_config(study), images)
    model = build(spec.model, config, images.shape, seed=0)
    (epoch,) = fit(model, images, epochs=1, seed=0)
    assert all(math.isfinite(value) for value in (*epoch.train.values(), *epoch.valid.values()))
    with evaluating(model):
        model.prepare_export(images)
        if spec.judges_samples:
            assert model.samples(3, images, "valid").shape == (3, *images.shape)
        else:
            assert epoch.valid[spec.quality] > 0
        assert all(table.rows for table in model.tables(images, lambda what: None))
        drawn = {picture.file: picture for picture in model.pictures(images, "test")}
        for file, picture in drawn.items():
            picture.draw(tmp_path / file, "a study")
    # each metric of both parts has a learning curve of its own
    curves = {f"learning_curve_{metric}.png" for metric in epoch.valid.keys() & epoch.train.keys()}
    expected = PICTURES.get(name, OF_A_GAN if name in GANS else [])
    assert set(expected) <= curves | drawn.keys()
    if name not in GANS:
        assert "reconstructions.png" in drawn
        assert any(file.startswith("latent_") for file in drawn)
    if name in EXPORTED:
        monkeypatch.chdir(tmp_path)
        export_and_use(model, images, name)


def export_and_use(model: Model, images: ImageSplits, name: str) -> None:
    """Write an export here, compare it with the model, and run the lines of its card."""
    write_export(model, Path())
    check_export(model, Path())
    pixels = images.test.pixels[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(EXAMPLE)
    known: dict[str, Any] = {}
    exec("\n".join(onnx_usage(model, images.classes)) + IN_BOUNDS, known)
    assert " ".join(sorted(known["found"])) == GIVEN[family_of(name)]
    exec("\n".join(genstudy_usage(model, name)), {})


def test_the_classifier_runs_after_what_it_needs_and_is_tuned_after(user: User) -> None:
    code, out, error = user.run(NAME="classifier", FIRST=1, **SMALLEST)
    assert (code, error) == (0, "")
    lines = [line.split() for line in out.splitlines() if line.startswith("study ")]
    order = [words[1].rstrip(":") for words in lines]
    names = ["cae-digits", "classifier-digits", "classifier_tuned-digits"]
    assert list(dict.fromkeys(order)) == names
    before: dict[str, Any] = {}
    for name in names:
        found = provenance(user, name)
        if before:
            assert found["starts_from"]["study"] == before["study"]
            assert found["starts_from"]["weights"] == before["sha256"]["weights.safetensors"]
            assert "confusion.png" in found["pictures"]
            assert [table["name"] for table in found["tables"]] == ["classes", "baselines"]
        before = found


def draw_folder(folder: Path, count: int) -> None:
    """Colour images of two classes in different sizes, and how bright each one is."""
    chance = np.random.default_rng(0)
    rows = ["file,share,bright"]
    for index in range(count):
        name = ("discs", "bars")[index % 2]
        height, width = chance.integers(70, 110, 2)
        bright = index % 4 < 2
        image = Image.new(
            "RGB", (int(width), int(height)), (200, 220, 255) if bright else (20, 0, 40)
        )
        color = tuple(int(value) for value in chance.integers(60, 255, 3))
        left, top = (int(value) for value in chance.integers(5, 30, 2))
        box = (left, top, left + 35, top + (35 if name == "discs" else 12))
        pen = ImageDraw.Draw(image)
        (pen.ellipse if name == "discs" else pen.rectangle)(box, fill=color)
        (folder / name).mkdir(parents=True, exist_ok=True)
        image.save(folder / name / f"{index}.png")
        rows.append(f"{name}/{index}.png,{(box[2] - left) * (box[3] - top)},{int(bright)}")
    (folder / "attributes.csv").write_text("\n".join(rows))


def test_a_folder_of_colour_images_of_many_sizes_runs_to_its_export(
    user: User, tmp_path: Path
) -> None:
    draw_folder(tmp_path / "shapes", 120)
    file = tmp_path / "vae_faces.py"
    file.write_text(narrow("vae_faces", 0.03))
    data: dict[str, Any] = {
        "DATA": f"folder:{tmp_path / 'shapes'}",
        "EPOCHS": 2,
        "RETRAIN_EPOCHS": 8,
    }
    code, _, error = user.run(NAME=file, **{**SMALLEST, **data})
    assert (code, error) == (0, "")
    found = provenance(user, "vae_faces-folder-shapes")
    assert found["images"] == {"train": 86, "valid": 22, "test": 12}
    folder = user.runs / "exports" / "vae_faces-folder-shapes" / "1"
    model = load_export(folder)
    assert model.shape == (3, 64, 64)
    with Image.open(folder / "reconstructions.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=2).max() > 100, "colours stay colours"
    assert "class" in found["pictures"]["latent_pca.png"]
