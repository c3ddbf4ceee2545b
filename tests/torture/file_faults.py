"""Faults of files: bits flip, ends are missing, content is gone.

They fall on checkpoints, image caches and exports of some machine, and on what machines share
(FILES). The trial database has faults of its own, and logs and pictures are what nothing is
concluded from.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.torture.scene import Aim, Blow, Fault, Scene


def flip_bit(path: Path, chance: random.Random) -> None:
    """Flip one bit where it stands, as a disk does; the file's time changes."""
    with path.open("r+b") as file:
        place = chance.randrange(max(path.stat().st_size, 1))
        file.seek(place)
        found = file.read(1)
        file.seek(place)
        file.write(bytes([found[0] ^ (1 << chance.randrange(8))]) if found else b"")


def flip_bit_of_copy(path: Path, chance: random.Random) -> None:
    """Put a damaged file in the place of the whole one."""
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    beside = path.with_name(f".{path.name}.damaged")
    beside.write_bytes(content)
    beside.replace(path)


def cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    beside = path.with_name(f".{path.name}.damaged")
    beside.write_bytes(content[: chance.randrange(len(content) + 1)])
    beside.replace(path)


def cut_in_place(path: Path, chance: random.Random) -> None:
    """Take the end from a file that others may have mapped into their memory."""
    with path.open("r+b") as file:
        file.truncate(chance.randrange(path.stat().st_size + 1))


def zero(path: Path, chance: random.Random) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


DAMAGES: list[Callable[[Path, random.Random], None]] = [
    flip_bit, flip_bit, flip_bit_of_copy, cut, cut_in_place, zero, remove,
]  # fmt: skip


def damaged(part: str) -> Callable[[Scene, Blow], str]:
    """Return a fault of the files in one folder of RUNS."""

    def damage(scene: Scene, blow: Blow) -> str:
        place = blow.machine.runs / part
        try:
            found = sorted(p for p in place.rglob("*") if p.is_file() and p.suffix != ".lock")
            if not found:
                return ""
            path, how = blow.chance.choice(found), blow.chance.choice(DAMAGES)
            how(path, blow.chance)
        except FileNotFoundError:  # it was removed or renamed meanwhile
            return ""
        return f"{how.__name__} {path.relative_to(scene.folder)}"

    return damage


def damage_shared(scene: Scene, blow: Blow) -> str:
    """A copy in FILES is damaged: of its word, an administrator takes care."""
    place = scene.machines[0].files
    if place is None:
        return ""
    try:
        found = sorted(path for path in (place / "files").glob("[0-9a-f]*") if path.is_file())
        if not found:
            return ""
        path, how = blow.chance.choice(found), blow.chance.choice(DAMAGES)
        how(path, blow.chance)
    except FileNotFoundError:  # it was replaced meanwhile
        return ""
    return f"{how.__name__} {path.relative_to(scene.folder)}"


def take_files_away(scene: Scene, blow: Blow) -> str:
    """As a disk that is not mounted for a while; trainings go on."""
    place = scene.machines[0].files
    if place is None or not place.is_dir():
        return ""
    seconds = blow.chance.uniform(1, 12)
    away = place.with_name(f"{place.name}-away")
    place.rename(away)
    try:
        scene.rest(seconds)
    finally:
        shutil.rmtree(place, ignore_errors=True)  # what was written there is lost
        away.rename(place)
    return f"for {seconds:.1f} s"


OF_SHARED_FILES = [
    Fault(name="shared copy damaged", strike=damage_shared, weight=6),
    Fault(name="FILES away", strike=take_files_away, weight=3, aim=Aim.FILES, halts=True),
]
FAULTS = [
    Fault(name="checkpoint damaged", strike=damaged("checkpoints"), weight=8),
    Fault(name="image cache damaged", strike=damaged("cache"), weight=2),
    Fault(name="export damaged", strike=damaged("exports"), weight=2),
]
