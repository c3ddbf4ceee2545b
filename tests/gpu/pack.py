"""`make gpu-pack`: all that a machine with a GPU and no network lacks, in the folder `.gpu/`.

    make gpu-pack DATA_ROOT=data
    python -m tests.gpu.pack --data data --into .gpu

Wheels of what genstudy needs beside PyTorch and what usually comes with it, and the images,
compressed. Whoever copies this folder there with its `.gpu/` runs `tests/gpu/run`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).parents[2]
PYTHON = "3.12"
# A machine for training has PyTorch, torchvision, pandas, ONNX, pytest and what they need.
LACKING = (
    "alembic", "bottle", "cmaes", "colorlog", "mako", "optuna", "optuna-dashboard", "psycopg",
    "psycopg-binary", "sqlalchemy",
)  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64",
             "manylinux2014_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")  # fmt: skip
SETS = ("FashionMNIST", "MNIST")
LARGEST = 60 * 2**20  # bytes of all that is packed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--into", type=Path, default=ROOT / ".gpu")
    given = parser.parse_args()
    console = Console()
    lacking = [place for place in parts_of(given.data) if not place.is_dir()]
    if lacking:
        console.print(
            f"error: {lacking[0]} is not there; DATA_ROOT names the folder with FashionMNIST/, "
            "MNIST/ and emoji/",
            style="red",
        )
        return 2
    with console.status("fetching wheels"):
        fetch_wheels(given.into / "wheels")
    with console.status("compressing images: two minutes"):
        pack_images(given.data, given.into / "data.tar.xz")
    size = sum(file.stat().st_size for file in given.into.rglob("*") if file.is_file())
    console.print(f"{given.into} holds {size / 2**20:.1f} MiB; run tests/gpu/run on the machine")
    if size > LARGEST:
        console.print(f"error: more than {LARGEST / 2**20:.0f} MiB", style="red")
    return 0 if size <= LARGEST else 1


def fetch_wheels(folder: Path) -> None:
    """Download the wheels of `LACKING`, in the pinned versions."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    wanted = [f"{name}=={pinned_version(lock, name)}" for name in LACKING]
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", PYTHON, *platforms, "-d", str(folder), *wanted),
        ],
        check=True,
    )


def pinned_version(lock: str, name: str) -> str:
    """Return the version of ``name`` in the text of a lock file."""
    found = re.search(rf"^{re.escape(name)}==([^ ;\\]+)", lock, re.MULTILINE)
    if found is None:
        raise ValueError(f"{name} is not in requirements.lock; make lock pins it")
    return found[1]


def pack_images(data: Path, file: Path) -> None:
    """Write the sets and pictures of ``data`` into one compressed archive."""
    with tarfile.open(file, "w:xz", preset=6) as archive:
        for folder in parts_of(data):
            for part in sorted(folder.rglob("*")):
                if part.is_file() and part.suffix != ".gz":  # torchvision's archives
                    archive.add(part, f"data/{part.relative_to(data)}")


def parts_of(data: Path) -> list[Path]:
    """Return the folders of images that are packed."""
    return [*(data / name / "raw" for name in SETS), data / "emoji"]


if __name__ == "__main__":
    sys.exit(main())
