"""The Markdown blocks of a page, and the page as HTML without scripts.

    blocks = [heading("Trials"), paragraph("..."), table(["trial"], [["7"]])]
    text = to_markdown("Study cae", blocks)      # README.md
    to_html("Study cae", text)                   # index.html

Every word is shown as it is: what users have named holds no markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from storage.files.markdown import escape_markup, format_picture, format_rows

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
img { display: block; max-width: 100%; background: white; border-radius: 4px; }
em { color: #6b7280; font-size: .9rem; font-style: normal; }
table { display: block; width: fit-content; max-width: 100%; overflow-x: auto;
  border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem 1.1rem .22rem 0; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid #9ca3af; } tbody tr { border-bottom: 1px solid #9ca3af55; }
table:has(img) { display: table; width: 100%; table-layout: fixed; font-size: 1rem; }
table:has(img) :is(th, tr) { border: none; }
table:has(img) :is(th, td) { vertical-align: top; white-space: normal; }
"""


def heading(text: str) -> str:
    """Return a heading below the page's title."""
    return f"## {escape_markup(text)}"


def paragraph(text: str) -> str:
    """Return a paragraph; what looks like the start of a list is none."""
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", escape_markup(text))


def picture(file: str, caption: str) -> str:
    """Return a picture that lies beside the page, with its caption."""
    return format_picture(file, caption)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; columns that hold nothing but numbers are aligned to the right."""
    right = [
        place for place in range(len(columns)) if all(_is_number(cells[place]) for cells in rows)
    ]
    escaped = [[escape_markup(cell) for cell in cells] for cells in (columns, *rows)]
    return format_rows(escaped[0], escaped[1:], right=right)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True


def pictures_table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """Return pictures side by side, those of the same name in the same row.

    columns: the title of each column, and its files by their names elsewhere
    """
    names = dict.fromkeys(name for files in columns.values() for name in files)
    rows = []
    for name in names:
        caption = Path(name).stem.replace("_", " ")
        found = [files.get(name) for files in columns.values()]
        shown = [format_picture(file, caption).splitlines() if file else ["", ""] for file in found]
        rows += [list(cells) for cells in zip(*shown, strict=True)]
    return format_rows([escape_markup(title) for title in columns], rows)


def to_markdown(title: str, blocks: Sequence[str]) -> str:
    """Return the page's text."""
    return "\n\n".join([f"# {escape_markup(title)}", *blocks]) + "\n"


def to_html(title: str, markdown: str) -> str:
    """Return the page with its style; markup that is no Markdown is shown as text."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}</body>
</html>
"""
