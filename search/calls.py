"""Names with arguments, as one writes them in Python: ``tpe(n_startup_trials=5)``.

    >>> parse_call("percentile(25.0, n_warmup_steps=2)")
    ('percentile', [25.0], {'n_warmup_steps': 2})

Only literals are read: nothing is evaluated.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from typing import Any

from search.errors import BadVariable
from storage.errors import LONGEST, short


def parse_call(written: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name, positional and named arguments of ``written``; raises `BadVariable`."""
    hint = f"{short(repr(written))} is not NAME or NAME(argument=value, ...) with plain values"
    try:
        node = ast.parse(written.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadVariable(hint) from error
    if isinstance(node, ast.Name):
        return node.id, [], {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise BadVariable(hint)
    try:
        positional = [ast.literal_eval(argument) for argument in node.args]
        named = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise BadVariable(hint) from error
    if len(named) < len(node.keywords):
        raise BadVariable(hint)
    return node.func.id, positional, named


def unknown(kind: str, name: str, available: Iterable[str]) -> str:
    """``unknown study 'caee'; available: cae, vae (did you mean 'cae'?)``"""
    names = sorted(available)
    close = difflib.get_close_matches(name[:LONGEST], names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"unknown {kind} {short(repr(name))}; available: {', '.join(names)}{hint}"
