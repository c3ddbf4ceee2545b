"""A trained model as files that others can load, checked by loading them back.

    weights.safetensors    the weights
    config.json            which model, image shape and configuration
    NAME.onnx, NAME.pt2    each program (encoder, decoder, ...) for ONNX and `torch.export`

    model = load_export("runs/exports/cae/1")
    model(images)

Weights are safetensors and configurations JSON: `load_export` runs no pickle. It refuses weights
that are damaged, or belong to another configuration (`models/seals.py`).
The first dimension of every program's input is free, and is called N. An ONNX file says what goes
in and comes out, in its metadata; a `torch.export` file does in ``genstudy.json`` of its extra
files:

    session = onnxruntime.InferenceSession("decoder.onnx")
    session.get_modelmeta().custom_metadata_map["inputs"]

Shape legend: N batch.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.base import OUR_MODELS, Model, Shape, evaluating
from models.errors import (
    ExportDamaged,
    ExportError,
    ForeignFamily,
    TensorFileError,
    is_shortage,
    short,
)
from models.program_files import Run, open_onnx, write_program
from models.programs import Program, TensorSpec, as_tensors
from models.sealed_files import check_seal
from models.tensor_files import tensor_bytes, write_tensors

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
TOLERANCE = 1e-4  # largest difference of outputs, relative to the largest output


def write_export(model: Model, folder: Path, about: Mapping[str, str] | None = None) -> None:
    """Write every file of ``model`` into the existing ``folder``.

    about: what the metadata of programs says beside inputs and outputs, such as study and trial
    """
    with on_cpu(model), evaluating(model):
        of = _identity(describe(model))
        write_tensors(folder / WEIGHTS, model.state_dict(), {}, of=of)
        (folder / WEIGHTS).chmod(0o644)  # safetensors lets only the owner read it
        (folder / CONFIG).write_text(json.dumps(describe(model), indent=2) + "\n")
        whole = {**family_and_shape(model), **(about or {})}
        for name, program in model.programs().items():
            write_program(program.named(), folder, name, whole)


def export_size(model: Model) -> int:
    """Return the bytes of all weights in an export, the least that it takes on a disk."""
    programs = [tensor_bytes(p.module.state_dict()) for p in model.programs().values()]
    return tensor_bytes(model.state_dict()) + 2 * sum(programs)  # in ONNX and `torch.export`


def describe(model: Model) -> dict[str, Any]:
    """Return the model's class, shape and configuration as JSON takes them."""
    family = type(model)
    return {
        "model": f"{family.__module__}:{family.__qualname__}",
        "shape": list(model.shape),
        "config": asdict(model.config),
    }


def _identity(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what weights belong to: weights of one configuration may fit another one, too."""
    return {
        "kind of file": "weights",
        "model": described["model"],
        "shape": described["shape"],
        "configuration": described["config"],
    }


def exported_shape(folder: Path) -> Shape | None:
    """Return the shape of the images of the export in ``folder``; None: there is none to read."""
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        channels, height, width = described["shape"]
        return int(channels), int(height), int(width)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def load_export(folder: str | Path, *, family: type[Model] | None = None) -> Model:
    """Load the model in ``folder``, on the CPU, in eval mode.

    family: its class; needed only for models that are not part of genstudy, because a file must
        not decide which code is imported

    Raises `ExportError` for a folder that holds no whole export, or one of another family.
    """
    folder = Path(folder).expanduser()
    try:
        described = json.loads(_find_file(folder, CONFIG).read_text(encoding="utf-8"))
        family = family or family_named(described["model"])
        config = family.config_type.from_export(described["config"])
        channels, height, width = described["shape"]
        model = family(config, (channels, height, width))
        weights = _find_file(folder, WEIGHTS)
        check_seal(weights, of=_identity(described))
        model.load_state_dict(load_file(weights))
    except ExportError:
        raise
    except TensorFileError as error:
        reason = f"{WEIGHTS}: {error}"
        raise ExportDamaged(f"{folder} is not a whole export ({reason}); export again") from error
    except Exception as error:  # any file may be damaged in any way
        if is_shortage(error):
            raise
        reason = short(str(error)) or type(error).__name__
        raise ExportDamaged(f"{folder} is not a whole export ({reason}); export again") from error
    return model.eval()


def check_export(model: Model, folder: Path) -> dict[str, float]:
    """Load everything back and compare all its outputs with the live model's, on 3 inputs.

    Returns the largest relative difference by file; raises `ExportError` for one beyond
    `TOLERANCE`, and `ExportDamaged` where a file is not what was just written.
    """
    differences: dict[str, float] = {}
    off: list[str] = []
    with on_cpu(model), evaluating(model):
        loaded = load_export(folder, family=type(model)).programs()
        for name, program in model.programs().items():
            program = program.named()
            given = [torch.cat([each, each[:1]]) for each in program.arguments]  # (3, ...)
            runs: dict[str, Run] = {f"{WEIGHTS} {name}": loaded[name].module}
            runs |= _open_files(folder, name, program)
            live = program.run(given)
            for file, run in runs.items():
                found = _relative_differences(as_tensors(run(*given)), live, program.outputs, file)
                differences[file] = max(found.values())
                off += [
                    f"{file} {what} by {x:.1e}" for what, x in found.items() if not x <= TOLERANCE
                ]
    if off:
        raise ExportError(f"exported outputs differ from the live model's: {', '.join(off)}")
    return differences


def _open_files(folder: Path, name: str, program: Program) -> dict[str, Run]:
    """Return what runs the files of a program, by file. Raises `ExportDamaged`."""
    try:
        return {
            f"{name}.onnx": open_onnx(folder / f"{name}.onnx", program),
            f"{name}.pt2": torch.export.load(folder / f"{name}.pt2").module(),
        }
    except ExportError:
        raise
    except Exception as error:  # each format has errors of its own
        if is_shortage(error):
            raise
        reason = short(str(error)) or type(error).__name__
        raise ExportDamaged(f"{folder} is not a whole export ({name}: {reason})") from error


def _find_file(folder: Path, name: str) -> Path:
    """Return the path of a file of an export. Raises `ExportError` where there is none."""
    if not (folder / name).is_file():  # reading a pipe would wait for ever
        if (folder / "1" / name).is_file():
            raise ExportError(f"{folder} holds a folder for each rank; give one: {folder / '1'}")
        if not folder.is_dir():
            raise ExportDamaged(
                f"there is no folder {folder.absolute()}; name that of an export, such as "
                "runs/exports/cae/1"
            )
        raise ExportDamaged(f"{folder} is not a whole export (no file {name}); export again")
    return folder / name


def family_named(name: str) -> type[Model]:
    """Return one of genstudy's own families by ``module:class``, as `describe` writes it."""
    module, _, attribute = str(name).partition(":")
    if not module.startswith(OUR_MODELS):
        own = attribute if attribute.isidentifier() else "..."
        raise ForeignFamily(
            f"{short(str(name))} is no model of genstudy; import its class, and pass family={own}"
        )
    try:
        family = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ExportError(f"this version of genstudy has no model {short(name)}") from error
    if not (isinstance(family, type) and issubclass(family, Model)):
        raise ExportError(f"{short(name)} is not a model")
    return family


def family_and_shape(model: Model) -> dict[str, str]:
    """Return the model's family and image shape as the metadata of a program has them."""
    channels, height, width = model.shape
    return {
        "model": type(model).__name__,
        "image_shape": json.dumps([channels, height, width]),
    }


def _relative_differences(
    outputs: Sequence[Tensor], live: Sequence[Tensor], specs: Sequence[TensorSpec], file: str
) -> dict[str, float]:
    """Return the largest difference of each output, relative to its largest live value."""
    if len(outputs) != len(live):
        raise ExportError(f"{file} gives {len(outputs)} outputs, the live model {len(live)}")
    differences = {}
    for spec, output, wanted in zip(specs, outputs, live, strict=True):
        if output.shape != wanted.shape:
            raise ExportError(
                f"{file} gives {spec.name} {tuple(output.shape)}, live {tuple(wanted.shape)}"
            )
        scale = max(float(wanted.double().abs().max()), 1e-12)
        apart = (output.double() - wanted.double()).abs().max()
        differences[spec.name] = float(apart) / scale
    return differences


@contextmanager
def on_cpu(model: Model) -> Iterator[None]:
    """Bring the model to the CPU, where programs are exported and compared, and back afterwards."""
    device = model.device
    model.to("cpu")
    try:
        yield
    finally:
        model.to(device)
