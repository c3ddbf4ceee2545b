"""Texts of users in figures: as they are written, in the letters of all languages.

    show_as_written(figure)        # before it is saved

Matplotlib's own font knows Latin, Greek, Cyrillic, Arabic and Hebrew letters. Others come from the
fonts below, where one is installed. A letter that no font has is drawn as a box, without a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.text import Text

OWN = "DejaVu Sans"
FORMULA = r"$\mathdefault{"  # how matplotlib begins 10 to the power of a number
FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC",
    "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback",
    "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Tamil", "Noto Sans Thai", "Noto Sans Arabic", "Noto Sans Hebrew",
    "Noto Sans Ethiopic", "Noto Sans Symbols", "Noto Sans Symbols 2", "Noto Emoji", "Symbola",
    "FreeSans",
)  # fmt: skip


@cache
def installed_families() -> list[str]:
    """Return the fonts that letters are looked for in, the own one first."""
    from matplotlib.font_manager import fontManager

    known = {font.name for font in fontManager.ttflist}
    return [OWN, *(name for name in FAMILIES if name in known)]


@cache
def own_letters() -> frozenset[int]:
    """Return the codes of all letters that matplotlib's own font has."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont(OWN)).get_charmap())


def show_as_written(figure: Figure) -> None:
    """Show every letter of the texts of a figure: a dollar sign begins no formula, and what the
    own font lacks is looked for in others. Numbers on axes stay as matplotlib writes them."""
    for text in _drawn_texts(figure):
        written = text.get_text()
        if "$" in written and FORMULA not in written:  # numbers on axes are written later
            text.set_parse_math(False)
        if not written.isascii() and not own_letters().issuperset(map(ord, written)):
            text.set_fontfamily(installed_families())


def _drawn_texts(artist: Artist) -> Iterator[Text]:
    """Yield all texts of ``artist`` and its parts.

    The numbers of an axis that is off are left out. Matplotlib makes them only on demand, which
    takes longer than drawing an image.
    """
    from matplotlib.axes import Axes
    from matplotlib.text import Text

    if isinstance(artist, Text):
        yield artist
    unused = (artist.xaxis, artist.yaxis) if isinstance(artist, Axes) and not artist.axison else ()
    for part in artist.get_children():
        if part not in unused:
            yield from _drawn_texts(part)
