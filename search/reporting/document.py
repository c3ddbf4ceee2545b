"""A page of words, tables and pictures, as Markdown and as HTML without scripts.

    page = Page("Study cae", [Words("..."), Rows(["trial"], [["7"]]), Shown("a.png", "...")])
    markdown(page), html(page)

All words are shown as they are: what users have named holds no markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
figure { margin: 1rem 0; } figcaption { color: #6b7280; font-size: .9rem; }
img { max-width: 100%; background: white; border-radius: 4px; }
.pair { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.pair > div { flex: 1 1 26rem; min-width: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem 1.1rem .22rem 0; text-align: left; white-space: nowrap; }
td.number, th.number { text-align: right; }
thead th { border-bottom: 2px solid #9ca3af; } tbody tr { border-bottom: 1px solid #9ca3af55; }
"""


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Shown:
    """A picture that lies beside the page."""

    file: str
    caption: str


@dataclass(frozen=True)
class Rows:
    """Cells as they are shown; columns that are ``numbers`` stand on the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[bool]


@dataclass(frozen=True)
class Beside:
    """Columns that stand next to each other where there is room: each a title and pictures."""

    columns: Sequence[tuple[str, Sequence[Shown]]]


Part = Heading | Words | Shown | Rows | Beside


@dataclass(frozen=True)
class Page:
    title: str
    parts: Sequence[Part]


def markdown(page: Page) -> str:
    parts = "\n\n".join(_markdown(part) for part in page.parts)
    return f"# {_plain(page.title)}\n\n{parts}\n"


def _markdown(part: Part) -> str:
    match part:
        case Heading(text):
            return f"## {_plain(text)}"
        case Words(text):
            return _plain(text)
        case Shown(file, caption):
            return f"![{_plain(caption)}]({file})\n\n*{_plain(caption)}*"
        case Rows(columns, rows, numbers):
            lines = [
                columns,
                ["---:" if number else "---" for number in numbers],
                *rows,
            ]
            return "\n".join(
                "| " + " | ".join(cell if i == 1 else _plain(cell) for cell in line) + " |"
                for i, line in enumerate(lines)
            )
        case Beside(columns):
            found = [[f"### {_plain(title)}", *map(_markdown, shown)] for title, shown in columns]
            return "\n\n".join(line for lines in found for line in lines)


def _plain(text: str) -> str:
    """Words as Markdown shows them: without meaning for it, and on one line."""
    return re.sub(r"([\\`*_\[\]<>|#$~])", r"\\\1", " ".join(text.split()))


def html(page: Page) -> str:
    parts = "\n".join(_html(part) for part in page.parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(page.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(page.title)}</h1>
{parts}
</body>
</html>
"""


def _html(part: Part) -> str:
    match part:
        case Heading(text):
            return f"<h2>{escape(text)}</h2>"
        case Words(text):
            return f"<p>{escape(text)}</p>"
        case Shown(file, caption):
            words = escape(caption)
            image = f'<img src="{escape(file)}" alt="{words}">'
            return f"<figure>{image}<figcaption>{words}</figcaption></figure>"
        case Rows():
            return _table(part)
        case Beside(columns):
            found = [
                f"<div><h3>{escape(title)}</h3>{''.join(map(_html, shown))}</div>"
                for title, shown in columns
            ]
            return f'<div class="pair">{"".join(found)}</div>'


def _table(part: Rows) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        found = (f'<{kind} class="number">' if number else f"<{kind}>" for number in part.numbers)
        filled = (f"{tag}{escape(cell)}</{kind}>" for tag, cell in zip(found, cells, strict=True))
        return f"<tr>{''.join(filled)}</tr>"

    head = line(part.columns, "th")
    body = "\n".join(line(cells, "td") for cells in part.rows)
    table = f"<table><thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide">{table}</div>'
