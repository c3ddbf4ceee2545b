"""genstudy as an installed package: the command, its import path, the module, and the wheel.

python -m pytest tests/test_package.py
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from search.spelling import CALLED_AS, spell

ROOT = Path(__file__).parent.parent
ROOMS = ("search", "models", "storage")
TYPED = re.compile(r"\bmake (study|studies|trials|report|dashboard|look|help)\b")


# ---- how a command is spelt ----


def test_a_command_is_spelt_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spell("dashboard") == "make dashboard"
    assert spell("trials", NAME="cae", CSV="my table") == "make trials NAME=cae CSV='my table'"
    monkeypatch.setenv(CALLED_AS, "genstudy")
    assert spell("dashboard") == "genstudy dashboard"
    assert spell("trials", CSV="my table", NAME="a b") == "genstudy trials 'a b' CSV='my table'"


def test_a_spelt_command_means_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "it's $HOME/ü.py"
    assert shlex.split(spell("study", NAME=odd))[2] == "NAME=it's $$HOME/ü.py"  # make halves it
    monkeypatch.setenv(CALLED_AS, "genstudy")
    assert shlex.split(spell("study", NAME=odd)) == ["genstudy", "study", odd]


def strings_of(path: Path) -> list[ast.Constant]:
    """All texts in a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_no_message_tells_an_installed_person_to_use_make() -> None:
    """Messages that name a command are made by `search.spelling.spell`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{text.lineno} {text.value!r}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for text in strings_of(path)
        if TYPED.search(str(text.value))
    ]
    assert not wrong, f"use search.spelling.spell: {wrong}"
