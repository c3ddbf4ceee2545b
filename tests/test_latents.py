"""Latent pictures: which ones come, what stands in them, and sets that have little to show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor, nn

from models.analysis import latent_space
from models.analysis.latent_codes import colorings, coloured_by
from models.analysis.latent_models import codes_of
from models.analysis.latent_projections import STEPS, draw_pairs, embed
from models.analysis.latent_space import latent_pictures
from models.autoencoder import Autoencoder
from models.base import build, evaluating
from models.cae import CAE, CAEConfig
from models.data.images import Images, ImageSplits
from models.figures import canvas
from models.figures.canvas import as_picture, as_strip
from models.figures.latent import GROUPS, OTHERS, Coloring, as_row, map_figure

FEW_DIGITS = True

SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def few(digits: ImageSplits) -> ImageSplits:
    """The digits with 60 test images, so that t-SNE takes no time."""
    return replace(digits, test=digits.test.take(torch.arange(60)))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """What was saved, by file name."""
    saved: dict[str, Figure] = {}
    monkeypatch.setattr(
        canvas, "save_figure", lambda figure, path: saved.update({path.name: figure})
    )
    return saved


def cae(latent: int) -> Autoencoder:
    made = build(CAE, CAEConfig(channels=2, latent=latent), SHAPE, seed=0).eval()
    assert isinstance(made, Autoencoder)
    return made


def dead(latent: int) -> Autoencoder:
    """Every image gets the code 0, as when all latent units have died."""
    model = cae(latent)
    for module in model.encoder:  # type: ignore[attr-defined]
        if isinstance(module, nn.Linear):
            module.weight.zero_()
            module.bias.zero_()
    return model


def draw(model: Autoencoder, images: ImageSplits, part: str = "test") -> dict[str, str]:
    """Captions by name, everything drawn."""
    captions = {}
    for picture in latent_pictures(model, images, part):
        picture.draw(Path(picture.file), "cae trial 7")
        captions[picture.name] = picture.caption
    return captions


def legend(figure: Figure) -> dict[str, Any]:
    """Names and their colours."""
    (found,) = figure.legends
    handles = [handle.get_color() for handle in found.legend_handles]  # type: ignore[union-attr]
    return dict(zip([text.get_text() for text in found.get_texts()], handles, strict=True))


def drawn_images(figure: Figure) -> list[Tensor]:
    arrays = [image.get_array() for axes in figure.axes for image in axes.get_images()]
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def point_colors(axes: Axes) -> np.ndarray[Any, Any]:
    (points,) = axes.collections
    return np.asarray(points.get_facecolors())[:, :3]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("latent", "first"),
    [
        (1, ["latent_line", "latent_tsne", "decoded_grid"]),
        (2, ["latent_plane", "latent_tsne", "decoded_grid"]),
        (3, ["latent_pca", "latent_tsne"]),
        (8, ["latent_pca", "latent_tsne"]),
    ],
)
def test_every_width_has_its_pictures(
    few: ImageSplits, figures: dict[str, Figure], latent: int, first: list[str]
) -> None:
    captions = draw(cae(latent), few)
    assert list(captions) == [*first, "pca_samples", "interpolations"]
    assert "60 test images" in captions[first[0]]
    assert list(figures) == [f"{name}.png" for name in captions]


def test_pictures_of_lower_ranks_are_of_validation_images(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    few = replace(few, valid=few.valid.take(torch.arange(20)))
    captions = draw(cae(3), few, "valid")
    assert "20 validation images" in captions["latent_pca"]
    assert not any("test" in caption for caption in captions.values())


def test_points_have_the_colour_of_their_class(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    draw(cae(4), few)
    assert few.test.labels is not None
    for name in ("latent_pca.png", "latent_tsne.png"):
        assert legend(figures[name]) == dict(zip(few.classes, GROUPS, strict=True))
    expected = [to_rgba(GROUPS[label])[:3] for label in few.test.labels]
    assert np.allclose(point_colors(figures["latent_pca.png"].axes[0]), expected)


def test_the_axes_of_a_pca_say_what_they_hold(few: ImageSplits, figures: dict[str, Figure]) -> None:
    model = cae(4)
    draw(model, few)
    centred = codes_of(model, few.test).numpy() - codes_of(model, few.test).numpy().mean(axis=0)
    squares = np.linalg.svd(centred, compute_uv=False) ** 2
    (axes,) = figures["latent_pca.png"].axes
    share = 100 * squares[0] / squares.sum()
    assert axes.get_xlabel() == f"component 1 ({share:.1f} % of the variance)"
    assert axes.get_aspect() == 1.0
    (points,) = axes.collections
    places = np.asarray(points.get_offsets())
    assert np.allclose(np.sort((places**2).sum(axis=0)), np.sort(squares[:2]))


def test_a_latent_plane_shows_the_codes_as_they_are(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    model = cae(2)
    draw(model, few)
    (axes,) = figures["latent_plane.png"].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("z1", "z2")
    (points,) = axes.collections
    assert np.allclose(np.asarray(points.get_offsets()), codes_of(model, few.test).numpy())


def with_attributes(few: ImageSplits, *values: Tensor) -> ImageSplits:
    """The same images with attributes instead of classes."""
    test = Images(pixels=few.test.pixels, attributes=torch.stack(values, dim=1))
    names = ("width_$x", "other", "third")[: len(values)]
    return replace(few, test=test, classes=(), attribute_names=names)


def titles(figure: Figure) -> list[str]:
    """The names of a figure's panels."""
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_without_classes_an_attribute_is_a_scale(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    values = torch.linspace(-3, 3, 60)
    captions = draw(cae(4), with_attributes(few, values))
    assert "coloured by width_$x" in captions["latent_pca"]
    axes, scale = figures["latent_pca.png"].axes
    assert scale.get_ylabel() == "width_$x"
    assert not figures["latent_pca.png"].legends
    assert np.allclose(np.asarray(axes.collections[0].get_array()), values)
    line = draw(cae(1), with_attributes(few, values))["latent_line"]
    assert line == "codes of 60 test images"  # a histogram has no place for a scale


def test_an_attribute_of_two_values_has_two_colours(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    values = (torch.arange(60) % 3 == 0).float()
    images = with_attributes(few, values)
    draw(cae(4), images)
    assert list(legend(figures["latent_tsne.png"])) == ["width_$x = 0", "width_$x = 1"]
    chosen = draw_pairs(colorings(images, images.test)[0])
    assert {tuple(sorted(values[list(pair)].tolist())) for pair in chosen} == {(0.0, 1.0)}


@pytest.mark.parametrize(("latent", "name"), [(4, "latent_pca"), (2, "latent_plane")])
def test_points_are_coloured_by_each_attribute(
    few: ImageSplits, figures: dict[str, Figure], latent: int, name: str
) -> None:
    """Reference system A6, t-SNE of the latents by an attribute: of a face there are many."""
    scale, flag = torch.linspace(-3, 3, 60), (torch.arange(60) % 3 == 0).float()
    other = (torch.arange(60) % 2 == 0).float()
    captions = draw(cae(latent), with_attributes(few, scale, flag, other))
    for file in (name, "latent_tsne"):
        assert "coloured by width_$x, other and third" in captions[file]
        figure = figures[f"{file}.png"]
        assert titles(figure) == ["width_$x", "other", "third"]
        panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
        places = [np.asarray(axes.collections[0].get_offsets()) for axes in panels]
        assert all(np.array_equal(places[0], points) for points in places), "the same points"
        legends = [axes.get_legend() for axes in panels]
        assert [legend is None for legend in legends] == [True, False, False]
        found = [text.get_text() for text in legends[2].get_texts()]  # type: ignore[union-attr]
        assert found == ["0", "1"], "the panel has the name"
    figure = figures[f"{name}.png"]
    colors = point_colors([axes for axes in figure.axes if axes.get_title(loc="left")][1])
    assert np.allclose(colors, [to_rgba(GROUPS[int(value)])[:3] for value in flag])


def test_a_single_dimension_is_drawn_by_each_attribute_of_two_values(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    flag, other = (torch.arange(60) % 3 == 0).float(), (torch.arange(60) % 2 == 0).float()
    captions = draw(cae(1), with_attributes(few, flag, torch.linspace(0, 1, 60), other))
    assert captions["latent_line"].endswith("coloured by width_$x and third")
    assert titles(figures["latent_line.png"]) == ["width_$x", "third"]


def test_classes_and_attributes_are_shown_together(few: ImageSplits) -> None:
    test = replace(few.test, attributes=torch.rand(60, 50))
    names = tuple(f"attribute {i}" for i in range(50))
    found = colorings(replace(few, attribute_names=names), test)
    assert [each.by for each in found] == ["class", *names[:39]]
    assert coloured_by(found) == ", coloured by class and 39 others"
    assert coloured_by(found[:2]) == ", coloured by class and attribute 0"
    assert coloured_by(found[:1]) == ", coloured by class"


def test_without_classes_and_attributes_points_are_plain(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    plain = replace(few, test=Images(pixels=few.test.pixels), classes=())
    for latent in (1, 4):
        captions = draw(cae(latent), plain)
        assert not any("coloured" in caption for caption in captions.values())
    assert not any(figure.legends for figure in figures.values())


def test_beyond_ten_classes_the_ten_largest_have_a_colour(tmp_path: Path) -> None:
    values = np.repeat(np.arange(13), 13 - np.arange(13))  # 13 of class 0, ..., 1 of class 12
    names = tuple(f"_{'long' * 9} ${i}$^" if i == 3 else f"class {i}" for i in range(13))
    groups = Coloring(by="class", values=values, names=names)
    figure = map_figure(np.random.default_rng(0).normal(size=(91, 2)), groups, "t")
    figure.savefig(tmp_path / "map.png", format="png")
    found = legend(figure)
    assert len(found) == 11
    assert (found["class 9"], found["3 others"]) == (GROUPS[9], OTHERS)
    assert any(name.startswith("_longlong") and name.endswith("…") for name in found)


def test_interpolations_lead_from_one_original_to_the_other(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    model = cae(5)
    draw(model, few)
    figure = figures["interpolations.png"]
    tiles = drawn_images(figure)
    names = [text.get_text() for text in figure.texts]
    chosen = draw_pairs(colorings(few, few.test)[0])
    assert few.test.labels is not None
    for row, (first, last) in enumerate(chosen):
        labels = few.test.labels[[first, last]]
        assert labels[0] != labels[1]
        assert names[2 * row : 2 * row + 2] == [few.classes[label] for label in labels]
        ends = few.test.batch(torch.tensor([first, last])).images
        codes = model.encode(ends)
        steps = torch.stack([torch.lerp(codes[0], codes[1], k / (STEPS - 1)) for k in range(STEPS)])
        left, between, right = tiles[3 * row : 3 * row + 3]
        assert torch.equal(left, torch.from_numpy(as_strip(ends[:1])))
        assert torch.equal(right, torch.from_numpy(as_strip(ends[1:])))
        expected = torch.from_numpy(as_strip(model.decode(steps)))
        assert torch.allclose(between, expected, atol=1e-5)
    assert len(tiles) == 3 * len(chosen) == 15


def test_the_decoded_grid_is_what_the_decoder_makes(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    model = cae(2)
    draw(model, few)
    (axes,) = figures["decoded_grid.png"].axes
    (grid,) = drawn_images(figures["decoded_grid.png"])
    low, high = np.quantile(codes_of(model, few.test).numpy(), [0.025, 0.975], axis=0)
    z1, z2 = (np.linspace(low[i], high[i], 15) for i in (0, 1))
    for row, column in ((0, 0), (14, 0), (3, 11)):
        code = torch.tensor([[z1[column], z2[row]]], dtype=torch.float32)
        top = 28 * (14 - row)  # z2 grows upwards
        tile = grid[top : top + 28, 28 * column : 28 * (column + 1)]
        expected = torch.from_numpy(as_picture(model.decode(code)[0]))
        assert torch.allclose(tile, expected, atol=1e-5)
    assert axes.get_xticklabels()[-1].get_text() == f"{z1[14]:.2f}"
    assert axes.get_ylim() == (-0.5, 14.5)


def test_a_model_may_say_where_its_plane_is_decoded(
    few: ImageSplits, figures: dict[str, Figure]
) -> None:
    class Prior(CAE):
        def plane(self, codes: Tensor) -> Tensor:
            return torch.tensor([[-2.0, -1.0], [2.0, 1.0]])

    model = build(Prior, CAEConfig(channels=2, latent=2), SHAPE, seed=0).eval()
    assert isinstance(model, Prior)
    assert "z1 from -2.00 to 2.00, z2 from -1.00 to 1.00" in draw(model, few)["decoded_grid"]
    (grid,) = drawn_images(figures["decoded_grid.png"])
    corner = model.decode(torch.tensor([[-2.0, 1.0]]))
    assert torch.allclose(grid[:28, :28], torch.from_numpy(as_row(corner)), atol=1e-5)


def test_samples_are_points_of_the_pca_plane(
    few: ImageSplits, figures: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cae(6)
    decoded: list[Tensor] = []
    decode = model.decode

    def remember(codes: Tensor) -> Tensor:
        decoded.append(codes)
        return decode(codes)

    monkeypatch.setattr(model, "decode", remember)
    draw(model, few)
    points = decoded[0].double().numpy()
    codes = codes_of(model, few.test).numpy()
    _, sizes, directions = np.linalg.svd(codes - codes.mean(axis=0), full_matrices=False)
    placed = (points - codes.mean(axis=0)) @ directions.T  # (50, 6)
    assert len(points) == 50
    assert np.abs(placed[:, 2:]).max() < 1e-5
    spread = placed[:, :2].std(axis=0) / (sizes[:2] / np.sqrt(len(codes) - 1))
    assert ((spread > 0.7) & (spread < 1.4)).all()
    expected = torch.from_numpy(as_strip(decode(decoded[0][:10])))
    assert torch.equal(drawn_images(figures["pca_samples.png"])[0], expected)


def test_tsne_takes_a_stated_number_of_images(
    few: ImageSplits, figures: dict[str, Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latent_space, "EMBEDDED", 20)
    caption = draw(cae(4), few)["latent_tsne"]
    assert caption.startswith("t-SNE (perplexity 6.33) of the codes of 20 of 60 test images")
    (axes,) = figures["latent_tsne.png"].axes
    assert "20 of 60" in axes.get_title(loc="left")
    assert np.shape(axes.collections[0].get_offsets())[0] == 20


def test_tsne_keeps_groups_apart() -> None:
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(40, 8)) + np.repeat([[0.0], [20.0]], 20, axis=0)
    points = embed(codes, 10.0)
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1e9 * np.eye(40)
    assert ((distances.argmin(axis=1) < 20) == (np.arange(40) < 20)).all()


@pytest.mark.parametrize("latent", [1, 2, 5])
def test_codes_that_are_all_equal_are_called_so(
    few: ImageSplits, figures: dict[str, Figure], latent: int
) -> None:
    captions = draw(dead(latent), few)
    name = {1: "latent_line", 2: "latent_plane", 5: "latent_pca"}[latent]
    assert list(captions) == [name, "interpolations"]
    assert "the codes of 60 test images are all equal" in captions[name]


def test_a_dead_unit_leaves_a_grid_of_one_row(few: ImageSplits, figures: dict[str, Figure]) -> None:
    model = cae(2)
    code = model.encoder[-2]  # type: ignore[index]
    code.weight[1] = 0.0
    code.bias[1] = -1.0
    captions = draw(model, few)
    assert captions["decoded_grid"].endswith("z2 from 0.00 to 0.00")
    (grid,) = drawn_images(figures["decoded_grid.png"])
    assert grid.shape[:2] == (28, 15 * 28)


@pytest.mark.usefixtures("small_figures")
@pytest.mark.parametrize("latent", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_the_smallest_sets_are_drawn(
    few: ImageSplits, tmp_path: Path, latent: int, count: int
) -> None:
    tiny = replace(few, test=few.test.take(torch.arange(count)))
    names = []
    for picture in latent_pictures(cae(latent), tiny, "test"):
        picture.draw(tmp_path / picture.file, "t")
        assert (tmp_path / picture.file).stat().st_size > 1000
        names.append(picture.name)
    assert ("latent_tsne" in names) == (count == 6)
    assert ("interpolations" in names) == (count > 1)
    assert len(names) >= 1


def test_colour_images_are_drawn(few: ImageSplits, tmp_path: Path) -> None:
    pixels = few.test.pixels[:, :, ::2, ::2].repeat(1, 3, 1, 1)
    images = replace(few, train=Images(pixels=pixels), test=Images(pixels=pixels), classes=())
    model = build(CAE, CAEConfig(channels=2, latent=2), (3, 14, 14), seed=0).eval()
    assert isinstance(model, Autoencoder)
    for picture in latent_pictures(model, images, "test"):
        picture.draw(tmp_path / picture.file, "t")
    assert len(list(tmp_path.glob("*.png"))) == 5


def test_a_denoiser_encodes_clean_images(few: ImageSplits, figures: dict[str, Figure]) -> None:
    noisy = build(
        CAE, CAEConfig(channels=2, latent=3, noise="gaussian", strength=0.5), SHAPE, seed=0
    ).eval()
    assert isinstance(noisy, Autoencoder)
    draw(noisy, few)
    assert np.array_equal(codes_of(noisy, few.test), codes_of(cae(3), few.test))


@pytest.mark.usefixtures("small_figures")
@pytest.mark.parametrize("latent", [1, 2])  # the t-SNE of one dimension begins at random
def test_the_same_model_gives_the_same_files(few: ImageSplits, tmp_path: Path, latent: int) -> None:
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        torch.rand(3), np.random.default_rng().normal()  # whatever happened before
        with evaluating(cae(latent)) as model:
            assert isinstance(model, Autoencoder)
            for picture in latent_pictures(model, few, "test"):
                picture.draw(tmp_path / run / picture.file, "t")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
