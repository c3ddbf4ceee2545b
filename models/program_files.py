"""A program as files of ONNX and `torch.export`, which say themselves what goes in and comes out.

    write_program(program.named(), folder, "encoder", {"study": "cae", "trial": "7"})
    (codes,) = open_onnx(folder / "encoder.onnx", program.named())(images)

Both formats carry the same metadata. ONNX keeps it in ``metadata_props``, `torch.export` in an
extra file:

    program                  its name, such as encoder
    inputs, outputs          JSON: of each its name, shape, type, what it holds, the bounds of its
                             values, and the distribution that it is drawn from
    whatever the caller adds: study, trial, classes, how images are prepared

    session.get_modelmeta().custom_metadata_map["inputs"]                       # ONNX Runtime
    torch.export.load("encoder.pt2", extra_files=(found := {"genstudy.json": ""}))

Shape legend: N batch.
"""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.errors import ExportError
from models.programs import BATCH, Program, TensorSpec
from models.tensor_files import tensor_bytes

DESCRIPTION = "genstudy.json"  # the metadata in a `torch.export` file
PROTOBUF_LIMIT = 1_500_000_000  # bytes of weights an ONNX file can hold inside itself

Run = Callable[..., object]
"""A function that takes tensors and gives one or several."""


def describe_tensors(specs: Sequence[TensorSpec], examples: Sequence[Tensor]) -> str:
    """Return what inputs or outputs hold, as JSON."""
    return json.dumps(
        [
            {
                "name": spec.name,
                "shape": [BATCH, *example.shape[1:]],
                "type": str(example.dtype).removeprefix("torch."),
                "holds": spec.holds,
                "bounds": spec.bounds,
                "drawn_from": spec.drawn_from or None,
            }
            for spec, example in zip(specs, examples, strict=True)
        ]
    )


def write_program(program: Program, folder: Path, name: str, about: Mapping[str, str]) -> None:
    """Write a program whose inputs and outputs have names in both formats."""
    batch = torch.export.Dim(BATCH)
    free = tuple({0: batch} for _ in program.arguments)
    made = program.run(program.arguments)
    metadata = {
        **about,
        "program": name,
        "inputs": describe_tensors(program.inputs, program.arguments),
        "outputs": describe_tensors(program.outputs, made),
    }
    exported = torch.export.export(program.module, program.arguments, dynamic_shapes=free)
    whole = io.BytesIO()  # to a file, PyTorch's writer ends the process when the disk is full
    torch.export.save(exported, whole, extra_files={DESCRIPTION: json.dumps(metadata)})
    (folder / f"{name}.pt2").write_bytes(whole.getbuffer())
    size = tensor_bytes(program.module.state_dict())
    with _quiet_exporter():
        onnx = torch.onnx.export(
            exported,
            (),
            input_names=[spec.name for spec in program.inputs],
            output_names=[spec.name for spec in program.outputs],
            dynamo=True,
            verbose=False,
        )
        assert onnx is not None, "the exporter of today's PyTorch gives a program"
        _name_batch(onnx.model.graph)
        _annotate(onnx.model.graph, program, made)
        onnx.model.graph.name = name
        onnx.model.metadata_props.update(metadata)
        onnx.save(folder / f"{name}.onnx", external_data=size > PROTOBUF_LIMIT)


def _name_batch(graph: Any) -> None:
    """Give the free dimension of an ONNX graph its name; PyTorch's exporter calls it ``s34``."""
    (found,) = {value.shape[0].value for value in graph.inputs}
    symbol = re.compile(rf"\b{re.escape(str(found))}\b")
    values = [*graph.inputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in values:
        for place, size in enumerate(value.shape or ()):
            if not isinstance(size, int):
                value.shape[place] = symbol.sub(BATCH, str(size))


def _annotate(graph: Any, program: Program, made: Sequence[Tensor]) -> None:
    """Say at each input and output of an ONNX graph what it holds: viewers show it there."""
    pairs = (
        (graph.inputs, program.inputs, program.arguments),
        (graph.outputs, program.outputs, made),
    )
    for values, specs, examples in pairs:
        for value, spec, example in zip(values, specs, examples, strict=True):
            value.doc_string = spec.describe(example.shape)


def read_metadata(folder: Path, name: str) -> dict[str, str]:
    """Return what the ONNX file of program ``name`` says beside its inputs and outputs.

    A file that is not there, or is damaged, says nothing.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        found = onnx.load(folder / f"{name}.onnx", load_external_data=False)
    except (OSError, DecodeError):
        return {}
    return {each.key: each.value for each in found.metadata_props}


def open_onnx(path: Path, program: Program) -> Run:
    """Return a function that runs the ONNX file at ``path`` by the names of inputs and outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # three inputs need no more, and more may not be allowed
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = [spec.name for spec in program.inputs]
    wanted = [spec.name for spec in program.outputs]
    found = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    if found != [*given, *wanted]:
        raise ExportError(f"{path.name} names {', '.join(found)}, not {', '.join(given + wanted)}")

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        feed = {name: each.numpy() for name, each in zip(given, arguments, strict=True)}
        return tuple(map(torch.from_numpy, session.run(wanted, feed)))

    return run


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
