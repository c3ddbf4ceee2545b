"""Every study of genstudy runs to its exports, in its smallest form, on the digits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from models.export import load_export
from search.setup.loading import study_names
from storage import trials
from tests.model_cards import run_card
from tests.preloaded import Preloaded
from tests.user import User

SMALLEST: dict[str, Any] = {
    "DATA": "digits", "TRIALS": 1, "EPOCHS": 1, "RETRAIN_EPOCHS": 1, "WORKERS": 1, "TOP": 1,
}  # fmt: skip
RUN_BY_ANOTHER = {"cae", "classifier", "classifier_tuned"}  # one after the other, by FIRST
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
    "stargan": (0.03, (3, 32, 32)),
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
    "stargan": ["translations.png"],
}
OF_EVERY_GAN = {
    "learning_curve.png", "game.png", "losses.png", "learned.png", "learned.gif"
}  # fmt: skip


def narrow(
    name: str, width: float, shape: tuple[int, int, int] | None = None, *, tried: bool = False
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
    family = re.split(r"[-_]", folder.parent.name)[0]
    assert first.splitlines()[-1] == GIVEN.get(family, "codes images")


@pytest.mark.parametrize("name", sorted(set(study_names()) - RUN_BY_ANOTHER - set(GANS)))
def test_a_study_runs_to_its_export(user: User, tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.py"
    if name in TOO_WIDE:
        tried = name == "vae"  # two numbers an image: they are a plane
        file.write_text(narrow(name, TOO_WIDE[name], tried=tried))
    code, _, error = user.run(NAME=file if file.exists() else name, **SMALLEST)
    assert (code, error) == (0, "")
    found = provenance(user, f"{name}-digits")
    assert found["test"][found["metric"]] > 0
    shown = set(found["pictures"])
    assert {"learning_curve.png", "reconstructions.png", *PICTURES.get(name, [])} <= shown
    assert any(file.startswith("latent_") for file in shown)


@pytest.mark.parametrize("name", sorted(GANS))
def test_a_gans_study_runs_to_its_export(
    user: User, quick_cache: Path, tmp_path: Path, name: str
) -> None:
    user.runs.mkdir()
    (user.runs / "cache").symlink_to(quick_cache)  # it has extractors
    width, shape = GANS[name]
    file = tmp_path / f"{name}.py"
    file.write_text(narrow(name, width, shape))
    smallest, stored = SMALLEST, f"{name}-digits"
    if shape is not None:  # colour images with attributes, as these studies are for
        draw_folder(tmp_path / "shapes", 120)
        smallest = {**SMALLEST, "DATA": f"folder:{tmp_path / 'shapes'}"}
        stored = f"{name}-folder-shapes"
    code, _, error = user.run(NAME=file, **smallest)
    assert (code, error) == (0, "")
    found = provenance(user, stored)
    assert found["test"]["frechet"] > found["test_judge"]["floor"]["frechet"] > 0
    assert found["verdict"]["verdict"] in ("healthy", "collapsed", "d_won", "g_won")
    pictures = PICTURES.get(name, ["samples.png", "interpolations.png"])
    assert {*OF_EVERY_GAN, *pictures} <= set(found["pictures"])
    row = trials(stored, storage=user.url).iloc[0]
    assert row["verdict"]
    assert row["value"] > row["floor"] > 0


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
    rows = ["file,bright,share"]
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
        rows.append(f"{name}/{index}.png,{int(bright)},{(box[2] - left) * (box[3] - top)}")
    (folder / "attributes.csv").write_text("\n".join(rows))


def test_a_folder_of_colour_images_of_many_sizes_runs_to_its_export(
    user: User, tmp_path: Path
) -> None:
    draw_folder(tmp_path / "shapes", 120)
    file = tmp_path / "vae_faces.py"
    file.write_text(narrow("vae_faces", 0.03))
    data: dict[str, Any] = {
        "DATA": f"folder:{tmp_path / 'shapes'}",
        "EPOCHS": 4,
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
