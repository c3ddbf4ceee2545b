"""The lines of Python in a model card, and how a reader of the card runs them."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.preloaded import Preloaded

THERE = "import os, sys; os.chdir(sys.argv[1])\n"
ALONE = {"json", "numpy", "onnxruntime", "PIL"}  # what the first block may import


def card_blocks(folder: Path) -> list[str]:
    """The blocks of Python in the card of an export: with onnxruntime, then with genstudy."""
    parts = (folder / "README.md").read_text(encoding="utf-8").split("```python\n")
    return [part.partition("```")[0] for part in parts[1:]]


def own_models() -> list[str]:
    """The studies with models of one's own that models/README.md shows: Linear, and Squares."""
    readme = Path(__file__).parent.parent / "models" / "README.md"
    parts = readme.read_text(encoding="utf-8").split("```python\n")[1:]
    return [part.partition("```")[0] for part in parts if "STUDY = " in part]


def imports(program: str) -> set[str]:
    """The packages that a program imports."""
    found = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module).partition(".")[0])
    return found


def run_card(folder: Path, preloaded: Preloaded, after: str = "") -> list[str]:
    """Run each block of a card as it stands, in the folder; what they print.

    after: lines that the first block is followed by
    """
    printed, before = [], sorted(folder.iterdir())
    for place, block in enumerate(card_blocks(folder)):
        if place == 0:
            assert imports(block) <= ALONE
        process = preloaded.run_program(THERE + block + ("" if place else after), folder)
        out, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, ""), f"{block}\n{error}"
        printed.append(out)
    assert sorted(folder.iterdir()) == before
    return printed
