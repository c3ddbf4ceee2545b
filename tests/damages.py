"""What happens to files: bits flip, ends are missing, content becomes zeros."""

from __future__ import annotations

from pathlib import Path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def zero_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def flip_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (value,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([value ^ 1]))


DAMAGES = [flip, cut, empty, zero]
