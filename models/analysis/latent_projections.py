"""Codes in two dimensions, and interpolation between codes, for `models.analysis.latent_space`.

Shape legend: N images, Z latent width, K steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.figures.latent import Coloring
from models.seeds import derive_seed

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

Array = np.ndarray[Any, np.dtype[Any]]

PAIRS = 5  # of images that interpolations go between
EMBEDDING_STEPS = 1000  # of t-SNE
STEPS = 8  # decoded images of each, both ends among them


def seeded_random(purpose: str) -> np.random.Generator:
    """Return a generator that draws the same numbers for ``purpose`` every time."""
    return np.random.default_rng(derive_seed(0, "latents", purpose))


def principal_plane(values: Array) -> PCA:
    """Return scikit-learn's PCA, to two dimensions at most, of codes (N, Z) that are not all
    equal."""
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return PCA(min(2, *values.shape), svd_solver="full").fit(values)


def embed(values: Array, perplexity: float) -> Array:
    """Return the t-SNE (N, 2) of codes (N, Z), of which there are five or more, not all equal.

    It runs on one thread: a worker has one core, and threads that wait for each other on a busy
    machine took five times as long.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = "pca" if values.shape[1] > 1 else "random"
    with threadpool_limits(1):
        embedding = TSNE(
            perplexity=perplexity, init=start, random_state=0, max_iter=EMBEDDING_STEPS
        )
        points: Array = embedding.fit_transform(values)
    return points


def interpolate(first: Array, last: Array) -> Array:
    """Return `STEPS` codes (K, Z) on the straight line between two (Z,), both ends among them."""
    return np.linspace(first, last, STEPS)


def draw_pairs(groups: Coloring) -> list[tuple[int, int]]:
    """Return up to `PAIRS` random pairs of images, of different classes if there are several."""
    order = seeded_random("pairs").permutation(len(groups.values))
    kinds = np.unique(groups.values) if groups.names else np.empty(0)
    if len(kinds) < 2:
        return [(int(a), int(b)) for a, b in zip(order[0::2], order[1::2], strict=False)][:PAIRS]
    found = []
    for row in range(PAIRS):
        first, last = (
            order[groups.values[order] == kinds[(2 * row + side) % len(kinds)]] for side in (0, 1)
        )
        found.append((int(first[row % len(first)]), int(last[row % len(last)])))
    return list(dict.fromkeys(found))
