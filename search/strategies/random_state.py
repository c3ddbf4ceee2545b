"""The random state inside Optuna's samplers, which may hold other samplers.

    parts_of(sampler)             # the sampler and all samplers that it holds
    seed_sampler(sampler, 7)      # seeds all random generators in them
    seed_given_to(sampler)        # a number that follows from the user's seed; None: there is none

Optuna has no public calls for this, so private attributes are read here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from copy import deepcopy

import numpy as np
from optuna.samplers import BaseSampler
from optuna.samplers._lazy_random_state import LazyRandomState

from models.seeds import derive_seed


def uses_seed(make: Callable[[int], BaseSampler]) -> bool:
    """Whether the samplers that ``make`` returns for two seeds have different random state."""
    first, second = ([_draw(each) for each in _generators_of(make(seed))] for seed in (1, 2))
    return not first or first != second


def seed_sampler(sampler: BaseSampler, seed: int) -> None:
    """Seed all random generators inside of ``sampler``, those of its parts among them.

    Optuna's own ``reseed_rng`` takes no seed.
    """
    for index, part in enumerate(parts_of(sampler)):
        for name, value in list(vars(part).items()):
            own = derive_seed(seed, "generator", index, name)
            if isinstance(value, LazyRandomState):
                value.rng.seed(own)
            elif isinstance(value, np.random.RandomState | random.Random):
                value.seed(own)
            elif isinstance(value, np.random.Generator):
                setattr(part, name, np.random.default_rng(own))


def seed_given_to(sampler: BaseSampler) -> int | None:
    """Return a number that follows from the seed a user gave; None if they gave none."""
    drawn = (_draw(each) for each in _generators_of(sampler))
    return next((number for number in drawn if number is not None), None)


def _draw(generator: LazyRandomState) -> int | None:
    """Return what the generator would draw next; None if it was never seeded."""
    return None if generator._rng is None else int(deepcopy(generator).rng.randint(2**31))


def _generators_of(sampler: BaseSampler) -> Iterator[LazyRandomState]:
    for part in parts_of(sampler):
        yield from (value for value in vars(part).values() if isinstance(value, LazyRandomState))


def parts_of(sampler: BaseSampler) -> Iterator[BaseSampler]:
    """Yield the sampler and all samplers that it holds, each once."""
    waiting, seen = [sampler], set()
    while waiting:
        part = waiting.pop(0)
        if id(part) in seen or not isinstance(part, BaseSampler):
            continue
        seen.add(id(part))
        yield part
        waiting.extend(value for value in vars(part).values() if isinstance(value, BaseSampler))
