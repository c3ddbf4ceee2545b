"""What an autoencoder's codes look like, and what its decoder makes of others.

    a map                   codes in two dimensions: PCA, or the latent plane itself if Z is 2
    t-SNE                   neighbours in Z dimensions stay neighbours (van der Maaten 2008)
    decoded grid            what the decoder makes of points all over the plane, if Z is 1 or 2
    samples                 random points of the PCA plane -> inverse PCA -> decoder
    interpolations          decoded steps from one image's code to another's

    for picture in latent_pictures(model, images, "test"):
        picture.draw(folder / picture.file, "cae trial 7")

The figures themselves are in `models/figures/latent.py`. The same model and images give the same
pictures, byte for byte.

Shape legend: N images, C channels, H/W pixels, Z latent width, K steps or points of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from models.analysis.latent_models import LatentModel, codes_of
from models.data.images import Images, ImageSplits
from models.figures.canvas import figure_picture
from models.figures.grids import interpolation_figure, sample_figure
from models.figures.latent import Coloring, grid_figure, line_figure, map_figure
from models.results import Picture
from models.seeds import derive_seed

if TYPE_CHECKING:
    from sklearn.decomposition import PCA


Array = np.ndarray[Any, np.dtype[Any]]

EMBEDDED = 2000  # images that t-SNE takes: 7 s on one core
PERPLEXITY = 30.0  # neighbours that t-SNE minds
FEWEST = 5  # images for a t-SNE
GRID = 15  # points of the decoded grid in each direction
SAMPLES = 50
PAIRS = 5  # interpolations
STEPS = 8  # decoded images of each, both ends among them
EQUAL = 1e-6  # of the largest code: codes that differ by less are equal


@dataclass(frozen=True, kw_only=True)
class Codes:
    """The codes of one part of a set.

    values: (N, Z) float64 on the host; where: "test" or "validation"
    """

    model: LatentModel
    values: Array
    coloring: Coloring
    where: str

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return int(self.values.shape[1])

    @property
    def images(self) -> str:
        return f"{self.count:,} {self.where} image{'s' * (self.count != 1)}"

    @property
    def equal(self) -> bool:
        """Whether all images have the same code: dead units, or a single image."""
        spread = np.ptp(self.values, axis=0).max()
        return bool(spread <= EQUAL * np.abs(self.values).max())

    def decode(self, codes: Array) -> Tensor:
        """(n, Z) -> images (n, C, H, W) in [0, 1], on the host."""
        taken = torch.from_numpy(codes).to(self.model.device, torch.float32)
        return self.model.decode(taken).cpu()


def latent_pictures(model: LatentModel, images: ImageSplits, part: str) -> Iterator[Picture]:
    """All pictures of the codes of ``part`` ("valid" or "test") of ``images``.

    In eval mode, without gradients, on the model's device. Images are encoded as they are, also
    by a model that was trained on noisy ones.
    """
    shown: Images = getattr(images, part)
    codes = Codes(
        model=model,
        values=codes_of(model, shown).numpy(),
        coloring=coloring(images, shown),
        where={"valid": "validation"}.get(part, part),
    )
    if codes.equal:
        yield _equal(codes)
    else:
        yield from _maps(codes)
        yield _samples(codes)
    if codes.count > 1:
        yield _interpolations(codes, shown)


def coloring(images: ImageSplits, part: Images) -> Coloring:
    """By class; without classes by the first attribute; without either plain.

    An attribute with one value or two stands for classes, with more for a scale.
    """
    if part.labels is not None:
        return Coloring(by="class", values=part.labels.cpu().numpy(), names=images.classes)
    if part.attributes is None:
        return Coloring(by="", values=np.zeros(len(part), dtype=int))
    name = images.attribute_names[0]
    values = part.attributes[:, 0].cpu().numpy()
    found, index = np.unique(values, return_inverse=True)
    if len(found) > 2:
        return Coloring(by=name, values=values)
    return Coloring(by=name, values=index, names=tuple(f"{name} = {value:g}" for value in found))


def _maps(codes: Codes) -> Iterator[Picture]:
    """The codes in two dimensions, and what the decoder makes of those two."""
    if codes.width > 2:
        yield _principal(codes)
    else:
        scale = codes.width == 1 and not codes.coloring.names  # which a histogram cannot show
        caption = f"codes of {codes.images}{'' if scale else codes.coloring.said}"
        yield _as_they_are(codes, f"codes of {codes.images}", caption)
    if codes.count >= FEWEST:
        yield _embedded(codes)
    if codes.width <= 2:
        yield _decoded(codes)


def _equal(codes: Codes) -> Picture:
    """No colours: nobody could see them."""
    plain = Coloring(by="", values=np.zeros(codes.count, dtype=int))
    what = f"one and the same code for {codes.images}"
    caption = f"the codes of {codes.images} are all equal: they tell nothing of the images"
    return _as_they_are(replace(codes, coloring=plain), what, caption)


def _as_they_are(codes: Codes, what: str, caption: str) -> Picture:
    """The first two dimensions, or the only one."""
    if codes.width == 1:
        line = codes.values[:, 0]
        return figure_picture(
            "latent_line", caption, what, lambda title: line_figure(line, codes.coloring, title)
        )
    points = codes.values[:, :2]
    return figure_picture(
        "latent_plane" if codes.width == 2 else "latent_pca",
        caption,
        what,
        lambda title: map_figure(points, codes.coloring, title, axes=("z1", "z2")),
    )


def _principal(codes: Codes) -> Picture:
    pca = principal_plane(codes.values)
    points = pca.transform(codes.values)
    shares = pca.explained_variance_ratio_
    axes = [
        f"component {i + 1} ({100 * share:.1f} % of the variance)" for i, share in enumerate(shares)
    ]
    caption = (
        f"codes of {codes.images} on the first two of {codes.width} principal components, which "
        f"hold {100 * shares.sum():.0f} % of the variance{codes.coloring.said}"
    )
    return figure_picture(
        "latent_pca",
        caption,
        f"PCA of the codes of {codes.images}",
        lambda title: map_figure(points, codes.coloring, title, axes=(axes[0], axes[1])),
    )


def principal_plane(values: Array) -> PCA:
    """scikit-learn's PCA of codes (N, Z) that are not all equal, to two dimensions at most."""
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return PCA(min(2, *values.shape), svd_solver="full").fit(values)


def _embedded(codes: Codes) -> Picture:
    """t-SNE, of `EMBEDDED` images drawn at random: it takes more than linear time."""
    chosen = _random("t-sne").permutation(codes.count)[:EMBEDDED]
    perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
    points = embed(codes.values[chosen], perplexity)
    shown = f"{len(chosen):,} of " if len(chosen) < codes.count else ""
    caption = (
        f"t-SNE (perplexity {perplexity:.3g}) of the codes of {shown}{codes.images}"
        f"{codes.coloring.said}; who is near whom has a meaning, distances between groups have none"
    )
    return figure_picture(
        "latent_tsne",
        caption,
        f"t-SNE of the codes of {shown}{codes.images}",
        lambda title: map_figure(points, codes.coloring.of(chosen), title),
    )


def embed(values: Array, perplexity: float) -> Array:
    """t-SNE of codes (N, Z), at least `FEWEST` and not all equal -> (N, 2).

    On one thread: a worker has one core, and threads that wait for each other on a busy machine
    took five times as long.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    start = "pca" if values.shape[1] > 1 else "random"
    with threadpool_limits(1):
        points: Array = TSNE(perplexity=perplexity, init=start, random_state=0).fit_transform(
            values
        )
    return points


def _decoded(codes: Codes) -> Picture:
    axes = grid_axes(codes)
    spans = [f"z{i + 1} from {z[0]:.2f} to {z[-1]:.2f}" for i, z in enumerate(axes)]
    caption = f"what the decoder makes of codes from all over: {', '.join(spans)}"
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, codes.width)  # z1 goes fastest
    images = codes.decode(points)
    return figure_picture(
        "decoded_grid",
        caption,
        "what the decoder makes of each code",
        lambda title: grid_figure(images, axes, title),
    )


def grid_axes(codes: Codes) -> list[Array]:
    """The points of the decoded grid in each latent dimension; one alone where a unit is dead."""
    low, high = codes.model.plane(torch.from_numpy(codes.values)).tolist()
    return [
        np.linspace(start, end, GRID if end > start else 1)
        for start, end in zip(low, high, strict=True)
    ]


def _samples(codes: Codes) -> Picture:
    pca = principal_plane(codes.values)
    points = _random("samples").standard_normal((SAMPLES, pca.n_components_))
    images = codes.decode(pca.inverse_transform(points * np.sqrt(pca.explained_variance_)))
    caption = (
        "new images: random points of the codes' PCA plane, from the Gaussian that fits the codes "
        f"of {codes.images} there, through the inverse PCA and the decoder"
    )
    return figure_picture(
        "pca_samples",
        caption,
        "new images from the PCA plane of the codes",
        lambda title: sample_figure(images, title),
    )


def _interpolations(codes: Codes, images: Images) -> Picture:
    chosen = pairs(codes.coloring)
    ways = [codes.decode(way(codes.values[first], codes.values[last])) for first, last in chosen]
    flat = torch.tensor(chosen, device=images.pixels.device).flatten()
    ends = torch.split(images.batch(flat).images.cpu(), 2)  # each (2, C, H, W)
    caption = (
        f"on the left and right {codes.where} images, between them {STEPS} decoded steps from the "
        "one's code to the other's"
    )
    return figure_picture(
        "interpolations",
        caption,
        f"from one {codes.where} image to another",
        lambda title: interpolation_figure(
            [torch.cat([end[:1], steps, end[1:]]) for steps, end in zip(ways, ends, strict=True)],
            [(codes.coloring.name(first), codes.coloring.name(last)) for first, last in chosen],
            title,
        ),
    )


def way(first: Array, last: Array) -> Array:
    """`STEPS` codes (K, Z) on the straight line between two (Z,), both ends among them."""
    return np.linspace(first, last, STEPS)


def pairs(groups: Coloring) -> list[tuple[int, int]]:
    """Up to `PAIRS` pairs of images drawn at random; of different classes if there are several."""
    order = _random("pairs").permutation(len(groups.values))
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


def _random(purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(0, "latents", purpose))
