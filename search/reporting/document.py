"""The blocks of a page. Each can be written as Markdown and as HTML.

    blocks = [Heading("Trials"), Words("..."), Table(columns=["trial"], rows=[["7"]])]
    to_markdown("Study cae", blocks)      # README.md
    to_html("Study cae", blocks)          # one page (`search.reporting.page`)
    files_of(blocks)                      # the files that README.md shows, by name

Every text is shown as it is: names that users give hold no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Protocol

from search.reporting.pictures import to_data_uri
from storage.files.markdown import (
    escape_markup,
    escape_paragraph,
    format_code,
    format_picture,
    format_rows,
)

LONG = 40  # letters: a cell with more goes on in the next line


class Block(Protocol):
    """A part of a page, from one margin to the other."""

    def to_markdown(self) -> str: ...

    def to_html(self) -> str: ...


@dataclass(frozen=True)
class Heading:
    """A heading below the page's title."""

    text: str

    def to_markdown(self) -> str:
        return f"## {escape_markup(self.text)}"

    def to_html(self) -> str:
        return f"<h2>{escape(self.text)}</h2>"


@dataclass(frozen=True)
class Words:
    """A paragraph; what looks like the start of a list is none. kind: of its style"""

    text: str
    kind: str = ""

    def to_markdown(self) -> str:
        return escape_paragraph(self.text)

    def to_html(self) -> str:
        kind = f' class="{self.kind}"' if self.kind else ""
        return f"<p{kind}>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Code:
    """Lines of Python, to be copied."""

    text: str

    def to_markdown(self) -> str:
        return format_code(self.text, "python")

    def to_html(self) -> str:
        return f"<pre><code>{escape(self.text)}</code></pre>"


@dataclass(frozen=True)
class Facts:
    """Names and what is to be said of each."""

    pairs: Sequence[tuple[str, str]]

    def to_markdown(self) -> str:
        return format_rows(["", ""], [[escape_markup(t) for t in pair] for pair in self.pairs])

    def to_html(self) -> str:
        rows = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in self.pairs)
        return f"<dl>{rows}</dl>"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell that is more than its text.

    value: what a table is sorted by; None: the text
    link, file: where it leads on the page; beside the Markdown
    wide: whether its text may go on in the next line
    """

    text: str
    value: float | None = None
    link: str | None = None
    file: str | None = None
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, which a click on a column's name sorts.

    anchors: of its rows, for links to them
    most: rows of the Markdown, which has to be read without sorting
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    anchors: Sequence[str] = ()
    most: int | None = None

    def to_markdown(self) -> str:
        rows = [[_cell_markdown(cell) for cell in cells] for cells in self.rows[: self.most]]
        return format_rows(
            [escape_markup(name) for name in self.columns], rows, right=self._numbers()
        )

    def to_html(self) -> str:
        right = self._numbers()
        heads = "".join(
            f"<th{_side(place, right)}>{escape(name)}</th>"
            for place, name in enumerate(self.columns)
        )
        anchors = [*self.anchors, *[""] * len(self.rows)]
        body = "".join(
            (f'<tr id="{anchor}">' if anchor else "<tr>")
            + "".join(_cell_html(cell, _side(place, right)) for place, cell in enumerate(cells))
            + "</tr>\n"
            for anchor, cells in zip(anchors, self.rows, strict=False)
        )
        return (
            f'<div class="wide"><table class="sorts"><thead><tr>{heads}</tr></thead>\n'
            f"<tbody>\n{body}</tbody></table></div>"
        )

    def _numbers(self) -> list[int]:
        """Return the places of columns that hold nothing but numbers."""
        return [
            place
            for place in range(len(self.columns))
            if all(_is_number(cells[place]) for cells in self.rows)
        ]


def _is_number(cell: str | Cell) -> bool:
    if isinstance(cell, Cell):
        return cell.value is not None or cell.text == "-"
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True


def _side(place: int, right: Sequence[int]) -> str:
    return ' class="number"' if place in right else ""


def _cell_markdown(cell: str | Cell) -> str:
    if isinstance(cell, str):
        return escape_markup(cell)
    text = escape_markup(cell.text)
    return f"[{text}]({cell.file})" if cell.file else text


def _cell_html(cell: str | Cell, side: str) -> str:
    if isinstance(cell, str):
        return f"<td{' class=wide' if len(cell) > LONG else side}>{escape(cell)}</td>"
    value = "" if cell.value is None else f' data-value="{cell.value:.8g}"'
    text = escape(cell.text)
    text = f'<a href="{cell.link}">{text}</a>' if cell.link else text
    return f"<td{' class=wide' if cell.wide else side}{value}>{text}</td>"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A chart of `search.reporting.svg`: the page holds it, the Markdown shows a file.

    wide: whether a narrow page scrolls it sideways, instead of making it smaller
    """

    file: str
    svg: str
    alone: str
    caption: str
    wide: bool = False

    def to_markdown(self) -> str:
        return format_picture(self.file, self.caption)

    def to_html(self) -> str:
        kind = ' class="wide"' if self.wide else ""
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f"<figure><div{kind}>{self.svg}</div>{caption}</figure>"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of pixels: the page holds it, the Markdown shows a file.

    anchor: for links to it; link: where its caption leads
    """

    file: str
    content: bytes = field(repr=False)
    caption: str
    anchor: str = ""
    link: str = ""

    def to_markdown(self) -> str:
        return format_picture(self.file, self.caption)

    def to_html(self) -> str:
        caption = escape(self.caption)
        caption = f'<a href="{self.link}">{caption}</a>' if self.link else caption
        anchor = f' id="{self.anchor}"' if self.anchor else ""
        name = escape(Path(self.file).stem.replace("_", " "))
        return (
            f'<figure{anchor}><img alt="{name}" src="{to_data_uri(self.content)}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )


@dataclass(frozen=True)
class Group:
    """Figures or pictures side by side, as many as there is room for.

    size: their width on the page: ``small``, ``half``
    """

    blocks: Sequence[Figure | Picture]
    size: str = "half"

    def to_markdown(self) -> str:
        return "\n\n".join(block.to_markdown() for block in self.blocks)

    def to_html(self) -> str:
        inside = "\n".join(block.to_html() for block in self.blocks)
        return f'<div class="group {self.size}">{inside}</div>'


@dataclass(frozen=True)
class Columns:
    """Pictures side by side under titles, those of the same name in the same row."""

    columns: Mapping[str, Mapping[str, Picture]]

    def to_markdown(self) -> str:
        rows = []
        for name in self._names():
            found = [pictures.get(name) for pictures in self.columns.values()]
            shown = [p.to_markdown().splitlines() if p else ["", ""] for p in found]
            rows += [list(cells) for cells in zip(*shown, strict=True)]
        return format_rows([escape_markup(title) for title in self.columns], rows)

    def to_html(self) -> str:
        parts = []
        for title, pictures in self.columns.items():
            inside = "\n".join(p.to_html() for n in self._names() if (p := pictures.get(n)))
            parts.append(f"<div><h3>{escape(title)}</h3>{inside}</div>")
        return f'<div class="group half">{"".join(parts)}</div>'

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for shown in self.columns.values() for name in shown))


def to_markdown(title: str, blocks: Sequence[Block]) -> str:
    """Return the page's text."""
    parts = [f"# {escape_markup(title)}", *(block.to_markdown() for block in blocks)]
    return "\n\n".join(parts) + "\n"


def files_of(blocks: Iterable[Block]) -> dict[str, bytes]:
    """Return the files that the Markdown shows, by name."""
    files: dict[str, bytes] = {}
    for block in blocks:
        match block:
            case Figure():
                files[block.file] = block.alone.encode()
            case Picture():
                files[block.file] = block.content
            case Group():
                files |= files_of(block.blocks)
            case Columns():
                for pictures in block.columns.values():
                    files |= files_of(pictures.values())
    return files
