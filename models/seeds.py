"""Seeds: every random choice of a trial follows from (study seed, trial number).

A seed is derived from a path of integers and words, so that neighbours share nothing and the
order in which workers take trials does not matter:

    >>> derive_seed(0, "trial", 7) == derive_seed(0, "trial", 7)
    True
    >>> derive_seed(0, "trial", 7) == derive_seed(0, "trial", 8)
    False

A block inside `drawing` draws the same numbers every time.
"""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def derive_seed(*path: int | str) -> int:
    """The seed in [0, 2**31) that belongs to ``path``.

    2**31 because torch, numpy and Optuna all take it.
    """
    text = "/".join(f"{type(part).__name__}:{part}" for part in path)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 2**31


@contextmanager
def drawing(device: str | torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of ``device`` inside the block.

    Afterwards the caller's random numbers go on as if nothing had been drawn.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.manual_seed(seed)
        else:  # `torch.manual_seed` would seed all GPUs, whose numbers are not put back
            torch.default_generator.manual_seed(seed)
        yield


def same_draws(device: str | torch.device) -> AbstractContextManager[None]:
    """`drawing` with the seed of all evaluations, so that epochs and trials are measured alike."""
    return drawing(device, derive_seed(0, "evaluation"))


def seeded(seed: int | None, generator: torch.Generator | None = None) -> torch.Generator | None:
    """Return a generator of the CPU with that seed, or ``generator`` where there is no seed.

    None, where neither is given, stands for torch's global random numbers.
    """
    if seed is None:
        return generator
    if generator is not None:
        raise ValueError(f"seed={seed} and a generator are given; give one of them")
    return torch.Generator().manual_seed(seed)
