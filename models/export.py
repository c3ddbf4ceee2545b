"""A trained model as files that others can load, checked by loading them back.

    weights.safetensors    the weights
    config.json            which model, image shape and configuration
    NAME.onnx, NAME.pt2    each program (encoder, decoder, ...) for ONNX and `torch.export`

    model = load_export(Path("runs/exports/cae/1"))
    model(images)

Weights are safetensors and configurations JSON: `load_export` runs no pickle.
The first dimension of every program's input is free.

Shape legend: N batch.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from models.base import Model, Program, Shape, evaluating
from models.errors import ExportError, short
from models.tensor_files import tensor_bytes, write_tensors

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
OUR_MODELS = "models."
TOLERANCE = 1e-4  # largest difference of outputs, relative to the largest output
PROTOBUF_LIMIT = 1_500_000_000  # bytes of weights an ONNX file can hold inside itself


def write_export(model: Model, folder: Path) -> None:
    """Write every file of ``model`` into the existing ``folder``."""
    with _on_cpu(model), evaluating(model):
        write_tensors(folder / WEIGHTS, model.state_dict(), {})
        (folder / WEIGHTS).chmod(0o644)  # safetensors lets only the owner read it
        (folder / CONFIG).write_text(json.dumps(describe(model), indent=2) + "\n")
        for name, program in model.programs().items():
            _write_program(program, folder, name)


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


def exported_shape(folder: Path) -> Shape | None:
    """Return the shape of the images of the export in ``folder``; None: there is none to read."""
    try:
        described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        channels, height, width = described["shape"]
        return int(channels), int(height), int(width)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def load_export(folder: Path, *, family: type[Model] | None = None) -> Model:
    """Load the model in ``folder``, on the CPU, in eval mode.

    family: its class; needed only for models that are not part of genstudy, because a file must
        not decide which code is imported
    """
    try:
        described = json.loads(_find_file(folder, CONFIG).read_text(encoding="utf-8"))
        family = family or family_named(described["model"])
        config = family.config_type(**described["config"])
        channels, height, width = described["shape"]
        model = family(config, (channels, height, width))
        model.load_state_dict(load_file(_find_file(folder, WEIGHTS)))
    except ExportError:
        raise
    except Exception as error:  # any file may be damaged in any way
        reason = short(str(error)) or type(error).__name__
        raise ExportError(f"{folder} is not a whole export ({reason}); export again") from error
    return model.eval()


def check_export(model: Model, folder: Path) -> dict[str, float]:
    """Load everything back and compare its outputs with the live model's, on 3 inputs.

    Returns the largest relative difference by file; raises `ExportError` for one beyond
    `TOLERANCE`.
    """
    differences: dict[str, float] = {}
    with _on_cpu(model), evaluating(model):
        loaded = load_export(folder, family=type(model)).programs()
        for name, program in model.programs().items():
            example = torch.cat([program.example, program.example[:1]])  # (3, ...): N is free
            live = program.module(example)
            runs: dict[str, Callable[[Tensor], Tensor]] = {
                f"{WEIGHTS} {name}": loaded[name].module,
                f"{name}.onnx": _open_onnx(folder / f"{name}.onnx"),
                f"{name}.pt2": torch.export.load(folder / f"{name}.pt2").module(),
            }
            for file, run in runs.items():
                differences[file] = _relative_difference(run(example), live)
    off = {file: value for file, value in differences.items() if not value <= TOLERANCE}
    if off:
        shown = ", ".join(f"{file} by {value:.1e}" for file, value in off.items())
        raise ExportError(f"exported outputs differ from the live model's: {shown}")
    return differences


def _find_file(folder: Path, name: str) -> Path:
    """Return the path of a file of an export. Raises `ExportError` where there is none."""
    if not (folder / name).is_file():  # reading a pipe would wait for ever
        raise ExportError(f"{folder} is not a whole export (no file {name}); export again")
    return folder / name


def family_named(name: str) -> type[Model]:
    """Return one of genstudy's own families by ``module:class``, as `describe` writes it."""
    module, _, attribute = str(name).partition(":")
    if not module.startswith(OUR_MODELS):
        raise ExportError(f"{short(str(name))} is no model of genstudy; pass its class: family=...")
    try:
        family = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ExportError(f"this version of genstudy has no model {short(name)}") from error
    if not (isinstance(family, type) and issubclass(family, Model)):
        raise ExportError(f"{short(name)} is not a model")
    return family


def _write_program(program: Program, folder: Path, name: str) -> None:
    free = ({0: torch.export.Dim("N")},)
    exported = torch.export.export(program.module, (program.example,), dynamic_shapes=free)
    whole = io.BytesIO()  # to a file, PyTorch's writer ends the process when the disk is full
    torch.export.save(exported, whole)
    (folder / f"{name}.pt2").write_bytes(whole.getbuffer())
    size = tensor_bytes(program.module.state_dict())
    with _quiet_exporter():
        torch.onnx.export(
            exported,
            (),
            folder / f"{name}.onnx",
            dynamo=True,
            external_data=size > PROTOBUF_LIMIT,
            verbose=False,
        )


def _open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a function that runs the ONNX file at ``path``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()

    def run(example: Tensor) -> Tensor:
        (output,) = session.run(None, {taken.name: example.numpy()})
        return torch.from_numpy(output)

    return run


def _relative_difference(output: Tensor, live: Tensor) -> float:
    """Return the largest difference, relative to the largest value of ``live``."""
    if output.shape != live.shape:
        raise ExportError(f"exported output is {tuple(output.shape)}, live {tuple(live.shape)}")
    scale = max(float(live.abs().max()), 1e-12)
    return float((output - live).abs().max()) / scale


@contextmanager
def _on_cpu(model: Model) -> Iterator[None]:
    """Bring the model to the CPU, where programs are exported and compared, and back afterwards."""
    device = model.device
    model.to("cpu")
    try:
        yield
    finally:
        model.to(device)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the ONNX exporter, which reports every optimisation pass as if it were news."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
