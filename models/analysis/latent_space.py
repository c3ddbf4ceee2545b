"""Pictures of an autoencoder's codes, and of what its decoder makes of other codes.

    a map                   codes in two dimensions: PCA, or the latent plane itself if Z is 2
    t-SNE                   neighbours in Z dimensions stay neighbours (van der Maaten 2008)
    decoded grid            what the decoder makes of points all over the plane, if Z is 1 or 2
    samples                 random points of the PCA plane -> inverse PCA -> decoder
    interpolations          decoded steps from one image's code to another's

    for picture in latent_pictures(model, images, "test"):
        picture.draw(folder / picture.file, "cae trial 7")

`models/figures/latent.py` draws the figures. The same model and images give the same pictures, byte
for byte.

Shape legend: N images, C channels, H/W pixels, Z latent width, K steps or points of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from models.analysis.latent_codes import Codes, colorings, coloured_by
from models.analysis.latent_models import LatentModel, codes_of
from models.analysis.latent_projections import (
    STEPS,
    draw_pairs,
    embed,
    interpolate,
    principal_plane,
    seeded_random,
)
from models.data.images import Images, ImageSplits
from models.figures.canvas import figure_picture
from models.figures.grids import interpolation_figure, sample_figure
from models.figures.latent import Coloring, grid_figure, lines_figure, maps_figure
from models.results import Picture

Array = np.ndarray[Any, np.dtype[Any]]

EMBEDDED = 2000  # images that t-SNE takes: 7 s on one core
PERPLEXITY = 30.0  # neighbours that t-SNE considers
FEWEST = 5  # images for a t-SNE
GRID = 15  # points of the decoded grid in each direction
SAMPLES = 50


def latent_pictures(model: LatentModel, images: ImageSplits, part: str) -> Iterator[Picture]:
    """Yield all pictures of the codes of ``part`` ("valid" or "test") of ``images``.

    The caller puts the model in eval mode, without gradients; images lie on its device. They are
    encoded as they are, also by a model that was trained on noisy ones.
    """
    shown: Images = getattr(images, part)
    codes = Codes(
        model=model,
        values=codes_of(model, shown).numpy(),
        colorings=colorings(images, shown),
        where={"valid": "validation"}.get(part, part),
    )
    if codes.equal:
        yield _equal_codes_picture(codes)
    else:
        yield from _map_pictures(codes)
        yield _sample_picture(codes)
    if codes.count > 1:
        yield _interpolation_picture(codes, shown)


def _map_pictures(codes: Codes) -> Iterator[Picture]:
    """Yield the codes in two dimensions, and what the decoder makes of those two."""
    if codes.width > 2:
        yield _pca_picture(codes)
    else:
        caption = f"codes of {codes.images}{coloured_by(_drawn_colorings(codes))}"
        yield _plain_picture(codes, f"codes of {codes.images}", caption)
    if codes.count >= FEWEST:
        yield _tsne_picture(codes)
    if codes.width <= 2:
        yield _grid_picture(codes)


def _equal_codes_picture(codes: Codes) -> Picture:
    """Show codes that are all equal. They need no colours."""
    plain = Coloring(by="", values=np.zeros(codes.count, dtype=int))
    what = f"one and the same code for {codes.images}"
    caption = f"the codes of {codes.images} are all equal: they tell nothing of the images"
    return _plain_picture(replace(codes, colorings=(plain,)), what, caption)


def _drawn_colorings(codes: Codes) -> tuple[Coloring, ...]:
    """Return what points can be coloured by: a histogram of one dimension shows no scale."""
    if codes.width > 1:
        return codes.colorings
    plain = Coloring(by="", values=np.zeros(codes.count, dtype=int))
    return tuple(each for each in codes.colorings if each.names) or (plain,)


def _plain_picture(codes: Codes, what: str, caption: str) -> Picture:
    """Show the first two dimensions of the codes, or the only one."""
    if codes.width == 1:
        line = codes.values[:, 0]
        return figure_picture(
            "latent_line",
            caption,
            what,
            lambda title: lines_figure(line, _drawn_colorings(codes), title),
        )
    points = codes.values[:, :2]
    return figure_picture(
        "latent_plane" if codes.width == 2 else "latent_pca",
        caption,
        what,
        lambda title: maps_figure(points, codes.colorings, title, axes=("z1", "z2")),
    )


def _pca_picture(codes: Codes) -> Picture:
    """Show the codes on their first two principal components."""
    pca = principal_plane(codes.values)
    points = pca.transform(codes.values)
    shares = pca.explained_variance_ratio_
    axes = [
        f"component {i + 1} ({100 * share:.1f} % of the variance)" for i, share in enumerate(shares)
    ]
    caption = (
        f"codes of {codes.images} on the first two of {codes.width} principal components, which "
        f"hold {100 * shares.sum():.0f} % of the variance{coloured_by(codes.colorings)}"
    )
    return figure_picture(
        "latent_pca",
        caption,
        f"PCA of the codes of {codes.images}",
        lambda title: maps_figure(points, codes.colorings, title, axes=(axes[0], axes[1])),
    )


def _tsne_picture(codes: Codes) -> Picture:
    """Show the t-SNE of at most `EMBEDDED` random images: more of them take too long."""
    chosen = seeded_random("t-sne").permutation(codes.count)[:EMBEDDED]
    perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
    points = embed(codes.values[chosen], perplexity)
    shown = f"{len(chosen):,} of " if len(chosen) < codes.count else ""
    caption = (
        f"t-SNE (perplexity {perplexity:.3g}) of the codes of {shown}{codes.images}"
        f"{coloured_by(codes.colorings)}; neighbours mean something, distances between groups do "
        "not"
    )
    return figure_picture(
        "latent_tsne",
        caption,
        f"t-SNE of the codes of {shown}{codes.images}",
        lambda title: maps_figure(points, [each.of(chosen) for each in codes.colorings], title),
    )


def _grid_picture(codes: Codes) -> Picture:
    """Show what the decoder makes of codes all over the plane."""
    axes = grid_axes(codes)
    spans = [f"z{i + 1} from {z[0]:.2f} to {z[-1]:.2f}" for i, z in enumerate(axes)]
    caption = f"what the decoder makes of evenly spaced codes: {', '.join(spans)}"
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, codes.width)  # z1 goes fastest
    images = codes.decode(points)
    return figure_picture(
        "decoded_grid",
        caption,
        "what the decoder makes of each code",
        lambda title: grid_figure(images, axes, title),
    )


def grid_axes(codes: Codes) -> list[Array]:
    """Return the points of the decoded grid in each latent dimension; a dead unit has one."""
    low, high = codes.model.plane(torch.from_numpy(codes.values)).tolist()
    return [
        np.linspace(start, end, GRID if end > start else 1)
        for start, end in zip(low, high, strict=True)
    ]


def _sample_picture(codes: Codes) -> Picture:
    """Show new images from the PCA plane of the codes."""
    pca = principal_plane(codes.values)
    points = seeded_random("samples").standard_normal((SAMPLES, pca.n_components_))
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


def _interpolation_picture(codes: Codes, images: Images) -> Picture:
    """Show decoded steps between the codes of pairs of images."""
    chosen = draw_pairs(codes.coloring)
    ways = [codes.decode(interpolate(codes.values[i], codes.values[j])) for i, j in chosen]
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
