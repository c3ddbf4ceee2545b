"""A page of blocks as one HTML file, which can be mailed: style, pictures and charts inside.

    to_html("Study cae", blocks)

The page is complete without its script, which lets a click on a column's name sort a table. It
loads nothing from anywhere: its policy forbids that, and allows this one script by its hash.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape

from search.reporting.document import Block
from search.reporting.svg import FIGURE_STYLE

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 64rem; margin: 2rem auto 4rem; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.8rem; margin-bottom: .3rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: .8rem 0 .2rem; }
a { color: inherit; text-decoration-color: var(--grey); text-underline-offset: .2em; }
p { max-width: 46rem; margin: .5rem 0; }
p.lead { font-size: 1.15rem; } p.warning { color: var(--orange); font-weight: 600; }
p.soft, figcaption { color: var(--soft); font-size: .88rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.4rem; margin: .8rem 0; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; }
pre { overflow-x: auto; padding: .8rem 1rem; border-radius: 6px; font-size: .88rem;
  background: color-mix(in srgb, var(--ink) 7%, transparent); }
figure { margin: .9rem 0; } figure > div, .wide { overflow-x: auto; }
svg.chart { display: block; width: 100%; height: auto; overflow: visible; }
.wide > svg.chart { min-width: 44rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: white; }
.group { display: grid; gap: .4rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.group.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.group > * { min-width: 0; } .group.small > * { margin: .2rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .24rem 1.2rem .24rem 0; text-align: left; white-space: nowrap;
  vertical-align: top; }
td.wide { white-space: normal; min-width: 16rem; overflow: visible; }
.number { text-align: right; }
thead th { border-bottom: 2px solid var(--grey); vertical-align: bottom; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0;
  cursor: pointer; }
th[aria-sort=ascending] button::after { content: " ↑"; }
th[aria-sort=descending] button::after { content: " ↓"; }
tbody tr { border-bottom: 1px solid var(--line); }
:target { outline: 2px solid var(--orange); outline-offset: 3px; border-radius: 2px; }
@media (max-width: 600px) { body { margin-top: 1rem; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; } }
@media print { .wide { overflow: visible; } figure { break-inside: avoid; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, place) => {
    const cell = row.cells[place], text = cell.dataset.value ?? cell.textContent;
    return text === "-" || text === "" ? null : isNaN(text) ? text : Number(text);
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b :
    String(a).localeCompare(String(b), undefined, {numeric: true});
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map(row => [key(row, place), row]);
      rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) :
        down ? compare(b, a) : compare(a, b));
      body.append(...rows.map(([, row]) => row));
    };
  });
}
"""


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """Return the page."""
    allowed = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{allowed}'"
    )
    body = "\n".join(block.to_html() for block in blocks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{FIGURE_STYLE}{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""
