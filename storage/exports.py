"""Export folders: names, provenance, model card. The programs come from `models/export.py`.

    RUNS/exports/STUDY/RANK/
      README.md              model card: what it is, how good, how to load it
      provenance.json        study, trial, parameters, data, seeds, curve, revision, files' hashes
      weights.safetensors, config.json, NAME.onnx, NAME.pt2
      learning_curve.png, reconstructions.png, ...  as many as the model has to show

A folder appears whole or not at all: it is filled beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from storage.artifacts import disk_full, is_full, write_json
from storage.errors import DiskFull

PROVENANCE = "provenance.json"
CARD = "README.md"


@contextmanager
def staged(folder: Path, *, needs: int = 0) -> Iterator[Path]:
    """An empty folder to fill; at the end it takes the place of ``folder``.

    needs: bytes that it takes at least, for the message of `DiskFull`
    """
    beside = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        beside.mkdir(parents=True)
        yield beside
        if os.path.lexists(folder):
            old = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
            folder.rename(old)
            beside.rename(folder)
            _remove(old)
        else:
            beside.rename(folder)
    except OSError as error:
        if not is_full(error):
            raise
        file = _culprit(error, beside)
        shutil.rmtree(beside, ignore_errors=True)  # so that what it took counts as free
        raise disk_full(folder, error, needs=needs, file=file) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _culprit(error: OSError, folder: Path) -> str:
    """The file that did not fit: as the error says, else the last one that was written to."""
    if isinstance(error, DiskFull):
        return error.place.name
    if error.filename:
        return Path(error.filename).name
    files = sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime_ns)
    return files[-1].name if files else ""


def publish(folder: Path, about: Mapping[str, Any]) -> None:
    """Write provenance and model card of an export whose other files are in ``folder``."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }
    provenance = {**about, "sha256": files}
    write_json(folder / PROVENANCE, provenance)
    (folder / CARD).write_text(model_card(provenance), encoding="utf-8")


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """The record of an export; None where there is none that can be read."""
    try:
        content = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def is_whole(folder: Path, provenance: Mapping[str, Any]) -> bool:
    """Whether every file that was exported is still there."""
    files = provenance.get("sha256")
    return isinstance(files, dict) and all((folder / name).is_file() for name in files)


def sweep(exports: Path) -> None:
    """Remove what killed exports left half filled; called by the one run that exports."""
    for left in exports.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)


def remove_ranks_beyond(exports: Path, last: int) -> None:
    """Ranks of an earlier, longer leaderboard would be mistaken for today's."""
    for folder in exports.glob("[0-9]*"):
        if folder.name.isdigit() and int(folder.name) > last:
            _remove(folder)


def _remove(folder: Path) -> None:
    """A folder with all that is in it; of a link, or a file, that alone."""
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def model_card(about: Mapping[str, Any]) -> str:
    """Markdown for people: numbers first, then how to use it, then where it comes from."""
    metric = str(about["metric"])
    rows = [("validation", about["valid"][metric])]
    if about["test"] is not None:
        rows.append(("test, judged once", about["test"][metric]))
    values = "\n".join(f"| {part} | {value:.6f} |" for part, value in rows)
    parameters = "\n".join(f"| {name} | {value} |" for name, value in about["parameters"].items())
    programs = sorted(name for name in about["sha256"] if name.endswith((".onnx", ".pt2")))
    images = about["images"]
    largest = max(about["output_differences"].values())
    pictures = "\n\n".join(
        f"![{Path(file).stem}]({file})\n*{caption}*"
        for file, caption in ((file, _plain(text)) for file, text in about["pictures"].items())
    )
    tables = "".join(markdown(table) for table in about["tables"])
    if about.get("verdict"):
        tables = f"\n{_verdict(about['verdict'])}\n{tables}"
    return f"""# {about["study"]}, rank {about["rank"]}

{about["model"]} with {about["model_parameters"]:,} parameters, trained on {about["data"]}
({images["train"]:,} training, {images["valid"]:,} validation, {images["test"]:,} test images).

| images | {metric.upper()} |
|---|---|
{values}
{tables}
{pictures}

## Use

```python
from pathlib import Path
from models.export import load_export

model = load_export(Path("."))          # this folder
{about["usage"]}
```

Without genstudy: {", ".join(f"`{name}`" for name in programs)}; the first dimension is free.
Loaded back, their outputs equal the live model's to {largest:.1e} of the largest output.

## Configuration

| parameter | value |
|---|---|
{parameters}

## Where it comes from

Trial {about["trial"]} of the study (value {about["trial_value"]:.6f}), trained again:

| | |
|---|---|
| epochs | {about["epochs"]}, ended by {about["ended_by"]}; weights of epoch {about["best_epoch"]} |
| seed | {about["seed"]} |
| trained on | {about["device"]}, {about["seconds"]:.0f} s |
| code | {about["revision"]} |
| made | {about["made"]} |

The rest, with the learning curve and every file's SHA-256, is in `{PROVENANCE}`.
"""


def _verdict(told: Mapping[str, Any]) -> str:
    """How the training went, in one line."""
    kind = str(told["verdict"]).replace("d_won", "D won").replace("g_won", "G won")
    word = "best in" if kind == "healthy" else "since"
    when = f"{word} epoch {told['verdict_epoch']}"
    return f"How the training ended: {kind}, {when}. {_plain(told['verdict_reason'])}"


def _plain(text: str) -> str:
    """Words of the user, such as an attribute's name, that Markdown shows as they are."""
    return re.sub(r"([\\`*_\[\]<>])", r"\\\1", text)


def markdown(table: Mapping[str, Any]) -> str:
    """A table with its title: a model's, or a study's. A cell's ``|`` is no border."""
    lines = [f"\n### {table['title']}\n"]
    lines += [_row(table["columns"]), "|---" * len(table["columns"]) + "|"]
    lines += [_row(row) for row in table["rows"]]
    if table["note"]:
        lines.append(f"\n{table['note']}")
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[Any]) -> str:
    shown = (f"{cell:.5g}" if isinstance(cell, float) else str(cell) for cell in cells)
    shown = (cell.replace("|", "\\|") for cell in shown)
    return "| " + " | ".join(shown) + " |"
