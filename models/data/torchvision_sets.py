"""Sources of images: torchvision's MNIST family and scikit-learn's digits.

A source says what its content is (`fingerprint`, which is quick and tells if a cached copy is still
right) and reads it (`read`, which is slow). `models/data/folders.py` reads folders of one's own
images.

Shape legend: N images, C channels, H/W pixels.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models.data.images import (
    STACKED,
    CountProgress,
    ImagePool,
    Images,
    Shape,
    fingerprint_files,
    hold_out,
    resize,
)
from models.errors import DataError, DataMissing, first_line, last_line, short
from models.seeds import derive_seed

DOWNLOAD_PATIENCE = 20.0  # seconds without an answer until a mirror counts as away

# name -> torchvision's class, whose name is also the folder under DATA_ROOT
TORCHVISION_SETS = {"fashion_mnist": "FashionMNIST", "mnist": "MNIST"}


class TorchvisionSource:
    """Fashion-MNIST or MNIST in torchvision's layout under ``root``: 60,000 + 10,000, 28x28x1."""

    background = ""

    def __init__(self, name: str, root: Path) -> None:
        self.label = name
        self.root = root
        self.class_name = TORCHVISION_SETS[name]

    def fingerprint(self) -> str:
        if os.path.lexists(self.root) and not self.root.is_dir():
            raise DataError(f"DATA_ROOT={self.root} is not a folder; name the one with the sets")
        files = self._find_files()
        if not files:
            self._download()
            files = self._find_files()
        return fingerprint_files(files)

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        parts = {}
        for done, train in enumerate((True, False)):
            progress(done, 2)
            try:
                found = self._open_dataset(train=train)
                _check_idx(found)
            except (RuntimeError, ValueError, AssertionError, OSError, LookupError) as error:
                raise DataError(
                    f"{self.class_name} in {self.root} is incomplete or damaged "
                    f"({short(first_line(error))}); delete {self.root / self.class_name} and run "
                    "again, or set DATA_ROOT to a whole copy"
                ) from error
            pixels = found.data.unsqueeze(1)  # (N, 28, 28) -> (N, 1, 28, 28)
            parts[train] = Images(pixels=resize(pixels, shape), labels=found.targets.long())
        progress(2, 2)
        return ImagePool(train=parts[True], test=parts[False], classes=tuple(found.classes))

    def _find_files(self) -> list[Path]:
        return sorted((self.root / self.class_name / "raw").glob("*-ubyte"))

    def _open_dataset(self, *, train: bool, download: bool = False):  # type: ignore[no-untyped-def]
        """Open torchvision's set, of its raw files alone.

        Where an old version left ``processed/training.pt``, torchvision would unpickle that:
        images that are not the fingerprinted ones. Its folder is named like its class.
        """
        from torchvision import datasets  # takes seconds: only where images are decoded

        family = getattr(datasets, self.class_name)
        raw_only = type(self.class_name, (family,), {"_check_legacy_exist": lambda _: False})
        return raw_only(self.root, train=train, download=download)

    def _download(self) -> None:
        """Fetch the set with torchvision, which shows its own progress bar."""
        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_PATIENCE)
        try:
            for train in (True, False):
                self._open_dataset(train=train, download=True)
        except (RuntimeError, OSError) as error:
            for folder in (self.root / self.class_name / "raw", self.root / self.class_name):
                with suppress(OSError):
                    folder.rmdir()  # where nothing was fetched
            raise DataMissing(
                f"{self.class_name} is not in {self.root} and cannot be downloaded "
                f"({last_line(error)}); set DATA_ROOT to a folder that holds "
                f"{self.class_name}/raw, or DATA to another set"
            ) from error
        finally:
            socket.setdefaulttimeout(patience)


def _check_idx(found: Any) -> None:
    """Raise `ValueError` for files of MNIST's format that do not belong together."""
    images, labels = found.data, found.targets
    if images.ndim != 3 or tuple(images.shape[1:]) != (28, 28):
        raise ValueError(f"images of shape {tuple(images.shape)} are not (N, 28, 28)")
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, but {len(labels)} labels")
    if len(labels) and int(labels.max()) >= len(found.classes):
        raise ValueError(f"label {int(labels.max())}, but {len(found.classes)} classes")


class DigitsSource:
    """scikit-learn's 1,797 handwritten digits, 8x8x1: small, real, and no download is needed."""

    label = "digits"
    background = ""

    def fingerprint(self) -> str:
        return "sklearn-digits"

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = torch.from_numpy(found.images).mul(255 / 16).round().to(torch.uint8)
        everything = Images(
            pixels=resize(pixels.unsqueeze(1), shape),  # (1797, 8, 8) -> (1797, C, H, W)
            labels=torch.from_numpy(found.target).long(),
        )
        train, test = hold_out(everything, 0.2)
        return ImagePool(train=train, test=test, classes=tuple(str(digit) for digit in range(10)))


class StackedSource:
    """Three random MNIST digits in the colour channels: 60,000 + 10,000, 28x28x3, 1,000 classes.

    The class is the number that the digits make, the red one its hundreds. The usual measure of
    mode collapse is how many of the 1,000 a generator can make (Metz et al. 2017). Training images
    are made of MNIST's training digits, test images of its test digits.
    """

    label = STACKED
    background = ""

    def __init__(self, root: Path) -> None:
        self.digits = TorchvisionSource("mnist", root)

    def fingerprint(self) -> str:
        return f"{STACKED}|{self.digits.fingerprint()}"

    def read(self, shape: Shape | None, progress: CountProgress) -> ImagePool:
        pool = self.digits.read(None, progress)
        classes = tuple(f"{number:03}" for number in range(1000))
        train, test = _stack(pool.train, "train"), _stack(pool.test, "test")
        return ImagePool(
            train=replace(train, pixels=resize(train.pixels, shape)),
            test=replace(test, pixels=resize(test.pixels, shape)),
            classes=classes,
        )


def _stack(digits: Images, part: str) -> Images:
    """Stack as many images as there are ``digits``; they are always the same.

    Every digit is once in every channel, so that validation images have digits in their first
    channel that no training image has there.
    """
    generator = torch.Generator().manual_seed(derive_seed(0, STACKED, part))
    chosen = torch.stack([torch.randperm(len(digits), generator=generator) for _ in range(3)])
    assert digits.labels is not None
    return Images(
        pixels=torch.cat([digits.pixels[row] for row in chosen], dim=1),  # (N, 3, 28, 28)
        labels=(digits.labels[chosen] * torch.tensor([[100], [10], [1]])).sum(0),
    )
