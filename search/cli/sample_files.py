"""The files that `make sample` writes: an image a file, and a picture of all.

    write_samples(place, images, about)      # a folder, or one picture where place ends in .png

A folder that holds anything but samples stays as it is, and so does a picture of anything else.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from models.figures.canvas import own_style, save_figure
from models.figures.grids import sample_figure
from search.errors import BadVariable
from storage.files.atomic import atomic_file
from storage.files.exports import atomic_folder

ABOUT = "samples.json"  # also tells a folder of samples from any other
PICTURE = "samples.png"
MOST_SHOWN = 400  # images in the picture of all
COLUMNS = 10
SOURCE = "samples by genstudy"  # in a picture: it may be overwritten by the next one


def check_place(place: Path) -> None:
    """Raise `BadVariable` for a place that nothing can be written to, or that holds anything else.

    place: a file that ends in .png, or a folder
    """
    above = next(each for each in (*place.parents, Path()) if os.path.lexists(each))
    if not above.is_dir():
        raise BadVariable(f"OUT={place} cannot be made: {above} is not a folder")
    if _is_picture(place):
        if place.is_dir():
            raise BadVariable(f"OUT={place} is a folder; a picture needs a file's name")
        if place.is_file() and not _is_our_picture(place):
            raise BadVariable(
                f"OUT={place} is there, and nothing in it says that it shows samples; name another "
                "file, or remove it"
            )
    elif place.is_file():
        raise BadVariable(f"OUT={place} is a file; name a folder, or a file that ends in .png")
    elif not _is_ours(place):
        raise BadVariable(f"OUT={place} holds other files; give a folder that is new or empty")


def write_samples(place: Path, images: Tensor, about: dict[str, Any]) -> Path:
    """Write images (N, C, H, W) in [0, 1]; return where they are.

    place: a file that ends in .png receives a picture of all, a folder each image, too
    Raises `BadVariable` as `check_place` does: somebody may have written there meanwhile.
    """
    check_place(place)
    title = f"{about['study']} trial {about['trial']}, seed {about['seed']}"
    if _is_picture(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(place) as beside:
            _draw_all(beside, images, title)
        return place
    digits = len(str(len(images) - 1))
    with atomic_folder(place) as folder:
        for number, image in enumerate(_as_bytes(images)):
            Image.fromarray(image).save(folder / f"{number:0{digits}}.png")
        _draw_all(folder / PICTURE, images, title)
        (folder / ABOUT).write_text(json.dumps(about) + "\n", encoding="utf-8")
    return place


def _is_picture(place: Path) -> bool:
    """Whether a single picture is asked for."""
    return place.suffix.lower() == ".png"


def _is_our_picture(place: Path) -> bool:
    """Whether a file is a picture of samples, or empty."""
    if not place.stat().st_size:
        return True
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(place, formats=["PNG"]) as picture,
        ):
            return picture.info.get("Source") == SOURCE
    except (OSError, ValueError, Image.DecompressionBombError):  # no picture, or too large a one
        return False


def _is_ours(place: Path) -> bool:
    """Whether nothing is lost with what stands in ``place``: nothing, or samples alone."""
    if not place.exists():
        return not place.is_symlink()
    if not place.is_dir() or place.is_symlink():
        return False
    names = {path.name for path in place.iterdir()}
    made = {name for name in names if name.endswith(".png") and name[:-4].isdecimal()}
    return not names or (ABOUT in names and names == {*made, ABOUT, PICTURE})


@own_style()
def _draw_all(path: Path, images: Tensor, title: str) -> None:
    shown = images[:MOST_SHOWN]
    if len(shown) < len(images):
        title += f", the first {len(shown)}"
    figure = sample_figure(shown, title, columns=min(COLUMNS, len(shown)))
    save_figure(figure, path, source=SOURCE)


def _as_bytes(images: Tensor) -> list[Any]:
    """Return images as arrays of bytes, (H, W) or (H, W, 3)."""
    scaled = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [image.squeeze(2) if image.shape[2] == 1 else image for image in scaled]
