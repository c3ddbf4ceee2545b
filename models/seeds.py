"""Seeds: every random choice of a trial follows from (study seed, trial number).

A seed is derived from a path of integers and words, so that neighbours share
nothing and the order in which workers take trials does not matter::

    >>> derive_seed(0, "trial", 7) == derive_seed(0, "trial", 7)
    True
    >>> derive_seed(0, "trial", 7) == derive_seed(0, "trial", 8)
    False
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(*path: int | str) -> int:
    """The seed, in [0, 2**31), that belongs to ``path``.

    2**31 because torch, numpy and Optuna all take it.
    """
    text = "/".join(f"{type(part).__name__}:{part}" for part in path)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**31


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """What is drawn at random inside is the same every time; the caller's random numbers go on
    undisturbed."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(0, "evaluation"))
        yield
