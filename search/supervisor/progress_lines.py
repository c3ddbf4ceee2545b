"""Lines that fit the terminal: what is known of a trial, and how far a study is.

    fit_items("trial   7  complete", ["channels 9", "lr 0.00312"], width=80, tail="*best")

Items stay whole. Those that two lines have no room for are counted, as in ``and 6 more``;
`make trials` shows them all.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

INDENT = " " * 11  # of a second line: below the outcome of a trial
MOST_LINES = 2


def pack(parts: Sequence[str], *, width: int, gap: str = "  ", indent: str = "") -> list[str]:
    """Return ``parts`` in as few lines as hold them, none of them broken."""
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(lines[-1] + gap + part) <= width:
            lines[-1] += gap + part
        else:
            lines.append((indent if lines else "") + part)
    return lines


def fit_items(start: str, items: Sequence[str], *, width: int, tail: str = "") -> list[str]:
    """Return ``start``, then as many items as `MOST_LINES` lines hold, then ``tail``.

    An item that would take most of a line gives way first, then the last ones.
    """
    shown = [_shorten_middle(item, width - len(INDENT) - 1) for item in items]
    while True:
        left = len(items) - len(shown)
        ends = [*shown, f"and {left} more"] if left else shown
        parts = [f"{start} ", *(f"{item}," for item in ends[:-1]), *ends[-1:]]
        if tail:
            parts = [*parts[:-1], f"{parts[-1]} " if ends else parts[-1], tail]
        lines = [line.rstrip() for line in pack(parts, width=width, gap=" ", indent=INDENT)]
        if len(lines) <= MOST_LINES or not shown:
            return lines
        wide = [item for item in shown if cell_len(item) > width // 2]
        shown.remove(wide[-1] if wide else shown[-1])


def _shorten_middle(item: str, width: int) -> str:
    """Return an item without its middle where it is longer than a line: the beginning of its name
    stays, and the end of its value."""
    if cell_len(item) <= width:
        return item
    half = max((width - 1) // 2, 1)
    return set_cell_size(item, half).rstrip() + "…" + item[-half:].lstrip()
