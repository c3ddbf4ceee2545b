"""Pictures that a page holds itself, so that it can be mailed as one file.

    to_data_uri(Path("samples.png").read_bytes())        # data:image/webp;base64,...
    is_picture(Path("samples.png"))                      # whether a page can show it

A page of many pictures stays small: each becomes WebP where that takes less space, no wider than
a screen shows it.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path

from PIL import Image

from models.data.decoding import open_image

WIDEST = 1400  # pixels
QUALITY = 88  # of WebP: no difference is seen in pictures of this kind


def is_picture(path: Path) -> bool:
    """Whether a file is a whole picture of a kind that is read, and no link to another file."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with open_image(path) as image:
            image.load()
    except Exception:  # damaged files make Pillow's readers raise errors of all kinds
        return False
    return True


@lru_cache(maxsize=256)
def to_data_uri(content: bytes) -> str:
    """Return a picture as the address that holds it."""
    kind, smallest = _smallest(content)
    return f"data:image/{kind};base64,{base64.b64encode(smallest).decode()}"


def _smallest(content: bytes) -> tuple[str, bytes]:
    """Return a picture's format and bytes: as they are, or as WebP. Moving pictures stay."""
    with open_image(io.BytesIO(content)) as image:
        kind = (image.format or "png").lower()
        if getattr(image, "is_animated", False):
            return kind, content
        if image.width > WIDEST:
            height = round(image.height * WIDEST / image.width)
            smaller = image.convert("RGBA").resize((WIDEST, height), Image.Resampling.LANCZOS)
        else:
            smaller = image.convert("RGBA")
        made = io.BytesIO()
        smaller.save(made, format="WEBP", quality=QUALITY, method=4)
    return ("webp", made.getvalue()) if made.tell() < len(content) else (kind, content)
