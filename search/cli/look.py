"""`make look DATA=folder:PATH`: what a folder of images holds, and how a study would use it.

Every file is decoded once, so that broken ones are found before a study meets them. With NAME the
shape of that study counts. A contact sheet goes to RUNS/look/.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.data.contact_sheet import draw_contact_sheet
from models.data.copies import find_leaks
from models.data.description import (
    FolderDescription,
    describe_colors,
    describe_sizes,
    describe_use,
)
from models.data.folder_tree import printable
from models.data.folders import FolderSource
from models.data.images import Shape
from models.data.layout import ImageFile
from models.data.loading import find_source
from search.console import open_console, shorten_path
from search.errors import BadVariable
from search.setup.loading import load_study
from search.setup.shapes import choose_shape
from search.spelling import spell
from search.variables import Variables, read_variables
from search.words import format_count

CLASSES = 24  # in the table, at most; the others are counted
LINES = 10  # of what is skipped or broken
EACH = 3  # classes that a line names
PARTS = {"train": "training", "valid": "validation", "test": "test"}


def look() -> int:
    """Print what the folder DATA holds, and draw a contact sheet of it."""
    console, variables = open_console(), read_variables()
    source = _open_source(variables)
    study = None if variables.name is None else load_study(variables.name)
    shape = None if study is None else choose_shape(variables, study, source)
    with console.status("reading ...") as status:
        found = source.inspect(
            lambda done, total: status.update(f"reading: {done} of {total} images")
        )
    report = _Report(console, source, found)
    report.print_images()
    report.print_parts()
    report.print_copies()
    report.print_use(study.name if study else None, shape)
    report.print_lines("not read", found.skipped)
    report.print_lines("broken", [line.replace(f"{source.folder}/", "") for line in found.broken])
    if found.broken:
        report.print_line("", "a study reads no folder with a broken file")
    path = variables.paths.contact_sheet(source.label)
    draw_contact_sheet(path, source, shape)
    report.print_line("picture", shorten_path(path))
    return 0


def _open_source(variables: Variables) -> FolderSource:
    if variables.data is None:
        line = spell("look", DATA="folder:PATH")
        raise BadVariable(f"DATA is not set; say which folder: {line}")
    source = find_source(variables.data, variables.data_root, variables.background)
    if not isinstance(source, FolderSource):
        line = spell("look", DATA="folder:PATH")
        raise BadVariable(f"DATA={variables.data} is no folder; one is shown by: {line}")
    return source


class _Report:
    """Prints what was found, a word and a line at a time."""

    def __init__(self, console: Console, source: FolderSource, found: FolderDescription) -> None:
        self.console, self.source, self.found = console, source, found
        self.parts = source.plan_parts()

    def print_line(self, word: str, line: str) -> None:
        self.console.print(f"{word:<9} {printable(line)}", markup=False, soft_wrap=True)

    def print_lines(self, word: str, lines: tuple[str, ...] | list[str]) -> None:
        """Print the first lines under one word, and how many more there are."""
        for place, line in enumerate(lines[:LINES]):
            self.print_line("" if place else word, line)
        if len(lines) > LINES:
            self.print_line("", f"... and {len(lines) - LINES} more")

    def print_images(self) -> None:
        found = self.found
        self.print_line("folder", str(self.source.folder))
        broken = f" ({len(found.broken)} broken)" if found.broken else ""
        self.print_line("images", f"{found.images}{broken}, {describe_sizes(found)}")
        self.print_lines("colours", describe_colors(found, self.source.background))

    def print_parts(self) -> None:
        """Print how many images of each class are in each part, and what is too few."""
        own = self.source.layout.parts
        held = [PARTS[part] for part in self.parts if part not in own and part != "train"]
        cut = f" ({' and '.join(reversed(held))} images are held out)" if held else ""
        counts = ", ".join(f"{len(files)} {PARTS[part]}" for part, files in self.parts.items())
        self.print_line("split", counts + cut)
        if not all(self.parts.values()):
            self.print_line("", "too few to split: a study needs at least 10")
        classes = self.source.layout.classes
        if not classes:
            one = "all images lie in one folder, and one class is no class"
            why = one if self._is_one_class() else "no class folders"
            self.print_line("classes", f"none: {why}")
            return
        sizes = {part: _count_labels(files) for part, files in self.parts.items()}
        totals = sum(sizes.values(), Counter[int]())
        self.print_line("classes", f"{len(classes)}, of {_span(list(totals.values()))}")
        self.console.print(self._class_table(classes, sizes, totals))
        for part, word in PARTS.items():
            lacking = [name for label, name in enumerate(classes) if not sizes[part][label]]
            if lacking and self.parts[part]:
                more = f" and {len(lacking) - EACH} more" if len(lacking) > EACH else ""
                self.print_line("", f"no {word} image of {', '.join(lacking[:EACH])}{more}")

    def _is_one_class(self) -> bool:
        """Whether a folder holds all images, or all of each part."""
        layout = self.source.layout
        around = len(layout.inner) + 1 if layout.parts else 0
        return all(len(file.names) > around + 1 for file in layout.files)

    def print_copies(self) -> None:
        """Print how many images a model would be tested on that it has learned."""
        leaks = find_leaks(self.parts)
        if not leaks:
            return
        held, learned = ("/".join(file.names) for file in leaks[0])
        words = "image is a training image" if len(leaks) == 1 else "images are training images"
        self.print_line(
            "copies", f"{len(leaks)} validation or test {words} too, such as {held}, the same file "
            f"as {learned}: values on them say little"
        )  # fmt: skip

    def _class_table(
        self, classes: tuple[str, ...], sizes: dict[str, Counter[int]], totals: Counter[int]
    ) -> Table:
        table = Table(box=None, padding=(0, 2), pad_edge=False)
        table.add_column(Text("          class"), overflow="ellipsis", no_wrap=True)
        for column in ("images", *PARTS.values()):
            table.add_column(column, justify="right", no_wrap=True)
        shown = sorted(label for label, _ in totals.most_common(CLASSES))
        for label in shown:
            cells = (totals[label], *(sizes[part][label] for part in PARTS))
            table.add_row(Text(f"          {classes[label]}"), *map(str, cells))
        if len(totals) > len(shown):
            table.add_row(Text(f"          {len(totals) - len(shown)} smaller classes"))
        return table

    def print_use(self, study: str | None, shape: Shape | None) -> None:
        """Print what becomes of the images in a study, or in one that leaves the shape open."""
        if shape is None:
            who = f"study {study} sets no shape" if study else "NAME=cae shows it for that study"
            if self.found.sizes > 1:
                self.print_line("use", f"all need one size, which a study's shape says; {who}")
            else:
                self.print_line("use", f"as they are, where a study sets no shape; {who}")
            return
        words = describe_use(self.found, shape) or ["as they are"]
        self.print_line("use", f"study {study} takes {'x'.join(map(str, shape))}: {words[0]}")
        for word in words[1:]:
            self.print_line("", word)


def _count_labels(files: list[ImageFile]) -> Counter[int]:
    return Counter(file.label for file in files if file.label is not None)


def _span(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return format_count(low, "image") if low == high else f"{low} to {high} images"
