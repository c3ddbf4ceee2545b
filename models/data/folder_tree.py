"""All that lies below a folder: images, other files, and what is left out. No image is opened.

    tree = read_tree(Path("pets"))
    tree.images                    # [("cats", "0.png"), ...]
    tree.describe_unread()         # [Skipped("3 files", ".gif is not read"), ...]

Links are followed, but no folder is read twice. Hidden files and folders, and those that other
programs keep for themselves, are left out and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import DataError, first_line

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
ATTRIBUTES = "attributes.csv"
# Folders beside those that begin with a dot: of network drives, archives, recycle bins, Python.
FOREIGN = {
    "@eadir", "#recycle", "@recycle", "@recently-snapshot", "__macosx", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "__pycache__",
}  # fmt: skip
UNREAD = {
    ".gif", ".heic", ".heif", ".avif", ".svg", ".jfif", ".jpe", ".jp2", ".jxl", ".tga", ".ico",
    ".psd", ".eps", ".exr", ".hdr", ".dng", ".cr2", ".nef", ".arw", ".dcm", ".nii", ".npy", ".npz",
    ".mp4", ".mov", ".avi", ".zip", ".tar", ".gz", ".7z", ".rar",
}  # fmt: skip
JOINERS = "\u200c\u200d"  # they shape letters and emoji, and show nothing of their own

Names = tuple[str, ...]
"""The names on the way from the folder to a file."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """Something that is not read: ``3 files: .gif is not read``."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@dataclass(kw_only=True)
class FolderTree:
    """All that lies below a folder.

    images: the names of each; folders: the names of each folder that was read
    unusual: folders that were not read, and why; other: files that are no images
    hidden: how many files and folders were left out
    """

    folder: Path
    images: list[Names] = field(default_factory=list)
    folders: list[Names] = field(default_factory=list)
    unusual: dict[Names, str] = field(default_factory=dict)
    other: list[Names] = field(default_factory=list)
    hidden: Counter[str] = field(default_factory=Counter)

    def describe_unread(self, inside: Names = ()) -> list[Skipped]:
        """Return what is not read below ``inside``: first what may have been meant as images."""
        found = [names for names in self.other if names[: len(inside)] == inside]
        kinds = Counter(Path(names[-1]).suffix.lower() for names in found)
        images = {kind: count for kind, count in sorted(kinds.items()) if kind in UNREAD}
        skipped = [
            Skipped(what=_count(count, "file"), why=f"{kind} is not read")
            for kind, count in images.items()
        ]
        skipped += [
            Skipped(what=printable("/".join(names)), why=why)
            for names, why in sorted(self.unusual.items())
            if names[: len(inside)] == inside
        ]
        if not inside:
            skipped += [
                Skipped(what=_count(count, what), why="left out")
                for what, count in sorted(self.hidden.items())
            ]
            skipped += self._others(sum(kinds.values()) - sum(images.values()))
        return skipped

    def _others(self, count: int) -> list[Skipped]:
        tables = sum(names[-1] == ATTRIBUTES for names in self.other)
        rest = count - tables
        return [Skipped(what=_count(rest, "other file"), why="no images")] if rest > 0 else []


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def read_tree(folder: Path) -> FolderTree:
    """Read the names of all that lies below ``folder``.

    What lies there itself comes first, then what links lead to: so a folder and a link to it are
    one, and a link to a folder around it ends the way.
    """
    tree = FolderTree(folder=folder)
    seen: dict[tuple[int, int], str] = {}
    for around in folder.parents:
        status = around.stat()
        seen[status.st_dev, status.st_ino] = "a link to a folder around this one"
    waiting: list[Names] = [()]
    links: list[Names] = []
    while waiting or links:
        names = waiting.pop() if waiting else links.pop(0)
        place = folder.joinpath(*names)
        try:
            status = place.stat()
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                tree.unusual[names] = seen[identity]
                continue
            seen[identity] = f"a link to the same folder as {place}"
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"cannot read the folder {place} ({first_line(error)}); change its permissions or "
                "take it away"
            ) from error
        tree.folders.append(names)
        for entry in entries:
            inner = (*names, entry.name)
            if is_foreign(entry.name):
                what = f"{printable(entry.name)} folder" if _is_folder(entry) else "hidden file"
                tree.hidden[what] += 1
            elif _is_folder(entry):
                (links if entry.is_symlink() else waiting).append(inner)
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                tree.images.append(inner)
            elif entry.is_symlink() and not Path(entry.name).suffix and not Path(entry).exists():
                tree.unusual[inner] = f"a link to {Path(entry).readlink()}, which is not there"
            else:
                tree.other.append(inner)
    tree.images.sort()
    return tree


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def printable(name: str) -> str:
    r"""Return a name as figures, pages and databases can show it: ``a\nb`` for two lines.

    Bytes that are no UTF-8 read ``\xff``; every letter of every language stays as it is.
    """
    shown = []
    for letter in name:
        if letter.isprintable() or letter in JOINERS:
            shown.append(letter)
        elif "\udc80" <= letter <= "\udcff":
            shown.append(f"\\x{ord(letter) - 0xDC00:02x}")
        else:
            shown.append(letter.encode("unicode_escape").decode("ascii"))
    return "".join(shown)


def is_foreign(name: str) -> bool:
    """Say whether a file or folder is hidden, or kept by another program for itself."""
    return name.startswith(".") or name.lower() in FOREIGN
