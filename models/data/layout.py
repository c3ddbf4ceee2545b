"""Which images a folder holds, and what its folders mean. No image is opened.

    PATH/*.png                         no classes
    PATH/cats/*.jpg PATH/dogs/...      a folder for each class (torchvision's ImageFolder layout)
    PATH/train/... PATH/val/... PATH/test/...    the same, already split
    PATH/pets/...                      a folder around any of these; one class is no class

    layout = read_layout(Path("pets"))
    layout.classes, len(layout.files), layout.skipped

The names of parts count in any case. `skipped` says what is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.data.folder_tree import (
    ATTRIBUTES,
    SUFFIXES,
    FolderTree,
    Names,
    Skipped,
    printable,
    read_tree,
)
from models.errors import DataError, short

PART_NAMES = {
    "train": "train", "training": "train",
    "val": "valid", "valid": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
EXPECTED = f"expected files ending in {', '.join(sorted(SUFFIXES))}"


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image: its place, and the names on the way to it; its part and class, where it has one.

    part: ``train``, ``valid`` or ``test``; empty: the folder is not split
    """

    path: Path
    names: Names
    part: str = ""
    label: int | None = None


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """What a folder holds.

    files: sorted by part and name; classes: names as they can be shown; empty: there are none
    parts: that the folder has itself, of ``train``, ``valid`` and ``test``; empty: it is not split
    inner: names of the folders around all images
    """

    folder: Path
    files: tuple[ImageFile, ...]
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    inner: Names = ()

    def of_part(self, part: str) -> list[ImageFile]:
        """Return the images of one part; with ``""`` those of a folder that is not split."""
        return [file for file in self.files if file.part == part]


def read_layout(folder: Path) -> FolderLayout:
    """Find all images below ``folder``. Raises `DataError` where it is unclear what they are."""
    tree = read_tree(folder)
    if not tree.images:
        found = "".join(f"; {skipped}" for skipped in tree.describe_unread()[:3])
        raise DataError(f"no images in {folder}{short(found)}; {EXPECTED}")
    for names in tree.images:
        _check_file(folder.joinpath(*names))
    return _Arrangement(tree).arrange()


def _check_file(path: Path) -> None:
    """Raise `DataError` for what is no file: reading a pipe, for one, would wait for ever."""
    if not path.is_file():
        link = f" is a link to {path.readlink()}, which" if path.is_symlink() else ""
        raise DataError(f"{path}{link} is not a file; replace or remove it")


def _tops(names: Iterable[Names]) -> list[str]:
    """Return the folders in which the images lie, sorted."""
    return sorted({each[0] for each in names if len(each) > 1})


class _Arrangement:
    """Finds out what the folders of a tree mean: a wrapping, parts, or classes."""

    def __init__(self, tree: FolderTree) -> None:
        self.tree = tree
        self.folder = tree.folder

    def arrange(self) -> FolderLayout:
        inner = self._find_inner()
        names = [each[len(inner) :] for each in self.tree.images]
        parts = self._find_parts(inner, names)
        split = parts or {"": ""}
        files: list[ImageFile] = []
        classes: list[str] | None = None
        for part in ("train", "valid", "test") if parts else ("",):
            if part not in split:
                continue
            way = (*inner, split[part]) if parts else inner
            inside = [each for each in self.tree.images if each[: len(way)] == way]
            if classes is None:
                way = self._unwrap(way, inside, ())
                classes = self._find_classes(way, inside)
            else:
                way = self._unwrap(way, inside, classes)
            files += self._label(way, inside, part, classes)
        found = classes or []
        shown = tuple(printable(name) for name in found)
        if len(set(shown)) < len(shown):
            raise DataError(f"{self.folder} has two class folders whose names look equal: {shown}")
        return FolderLayout(
            folder=self.folder,
            files=tuple(files),
            classes=shown,
            parts=tuple(part for part in ("train", "valid", "test") if part in parts),
            skipped=tuple(self.tree.describe_unread()),
            inner=inner,
        )

    def _find_inner(self) -> Names:
        """Return the names of the folders that hold all images, down to one that may be a part."""
        inner: Names = ()
        while True:
            names = [each[len(inner) :] for each in self.tree.images]
            tops = _tops(names)
            if any(len(each) == 1 for each in names) or len(tops) != 1:
                return inner
            if PART_NAMES.get(tops[0].lower()) == "train":
                return inner
            self._check_siblings(inner, tops)
            inner = (*inner, tops[0])

    def _find_parts(self, inner: Names, names: Sequence[Names]) -> dict[str, str]:
        """Return the folder of each part; nothing where the folders are no parts."""
        tops = _tops(names)
        kinds = {top: PART_NAMES.get(top.lower()) for top in tops}
        here = self.folder.joinpath(*inner)
        found = {kind for kind in kinds.values() if kind}
        others = [top for top in tops if not kinds[top]]
        if not found or ("train" not in found and others) or (found == {"train"} and others):
            return {}
        if "train" not in found:
            raise DataError(f"{here} has {' and '.join(tops)}, but no train; call one of them so")
        outside = next((each for each in names if not kinds.get(each[0])), None)
        if outside is not None:
            raise DataError(
                f"{here} holds images outside of {' and '.join(sorted(found, key=_place))}, such "
                f"as {'/'.join(outside)}; move them into train, or away"
            )
        parts: dict[str, str] = {}
        for top, kind in kinds.items():
            assert kind is not None
            if kind in parts:
                raise DataError(
                    f"{here} has two {kind} parts, {parts[kind]} and {top}; keep one of them"
                )
            parts[kind] = top
        for name in self._siblings(inner, tops):
            if PART_NAMES.get(name[-1].lower()):
                self._refuse_empty(name, "part")
        return parts

    def _unwrap(self, way: Names, inside: Sequence[Names], classes: Sequence[str]) -> Names:
        """Return the way to the classes or images of a part: through a folder that holds all."""
        while True:
            names = [each[len(way) :] for each in inside]
            tops = _tops(names)
            if any(len(each) == 1 for each in names) or len(tops) != 1 or tops[0] in classes:
                return way
            self._check_siblings(way, tops)
            way = (*way, tops[0])

    def _find_classes(self, way: Names, inside: Sequence[Names]) -> list[str]:
        """Return the names of the class folders; none where images lie at the end of the way."""
        names = [each[len(way) :] for each in inside]
        tops = _tops(names)
        flat = [each[0] for each in names if len(each) == 1]
        if flat and tops:
            raise DataError(
                f"{self.folder.joinpath(*way)} holds images both directly ({flat[0]}) and in "
                f"folders ({tops[0]}); put every image in a class folder, or none"
            )
        if tops:
            self._check_siblings(way, tops)
        return tops

    def _label(
        self, way: Names, inside: Sequence[Names], part: str, classes: Sequence[str]
    ) -> Iterator[ImageFile]:
        place = {name: index for index, name in enumerate(classes)}
        for names in inside:
            path = self.folder.joinpath(*names)
            if not classes:
                yield ImageFile(path=path, names=names, part=part)
                continue
            own = names[len(way) :]
            if len(own) == 1:
                raise DataError(
                    f"{path} lies in no class folder, but the training images do; classes there: "
                    f"{short(', '.join(classes))}"
                )
            if own[0] not in place:
                raise DataError(
                    f"{self.folder.joinpath(*way)} has the class {own[0]!r}, which the training "
                    f"images lack; classes there: {short(', '.join(classes))}"
                )
            yield ImageFile(path=path, names=names, part=part, label=place[own[0]])

    def _siblings(self, way: Names, tops: Sequence[str]) -> list[Names]:
        """Return the folders, and links to none, that lie beside ``tops`` and hold no images."""
        known = {names[: len(way) + 1] for names in (*self.tree.folders, *self.tree.unusual)}
        return sorted(
            names
            for names in known
            if len(names) > len(way)
            and names[: len(way)] == way
            and names[-1] not in (*tops, ATTRIBUTES)
        )

    def _check_siblings(self, way: Names, tops: Sequence[str]) -> None:
        """Raise `DataError` for a folder beside ``tops`` that may have been meant as a class."""
        for names in self._siblings(way, tops):
            inside = [each for each in self.tree.other if each[: len(names)] == names]
            if not inside or self.tree.describe_unread(names):
                self._refuse_empty(names, "class folder")

    def _refuse_empty(self, names: Names, what: str) -> None:
        """Raise `DataError` for a folder without images."""
        place = self.folder.joinpath(*names)
        if names in self.tree.unusual:
            raise DataError(
                f"{place} is {self.tree.unusual[names]}; put other images there or take it away"
            )
        unread = "".join(f" ({skipped})" for skipped in self.tree.describe_unread(names)[:1])
        raise DataError(
            f"{place} is a {what}, but has no images{unread}; put images there or take it away"
        )


def _place(part: str) -> int:
    return ("train", "valid", "test").index(part)
