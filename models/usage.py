"""How an export is used, as lines of Python for its model card.

    onnx_usage(model, names)           with onnxruntime and numpy alone
    genstudy_usage(model, study_file)  with `load_export`

The lines run as they stand in the folder of the export. `EXAMPLE` there is one image as the model
takes it, where the lines take images.

Shape legend: N batch, C channels, H/W pixels, L labels.

    python -c "from models.cae import *; from models.usage import *; \
        print(*onnx_usage(CAE(CAEConfig(), (1, 28, 28))), sep='\\n')"
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from models.base import Model, evaluating
from models.data.decoding import WHITE
from models.data.images import Shape
from models.programs import (
    CLASS_SCORES,
    IMAGES,
    LABELS,
    NORMAL,
    SIGNED,
    UNIFORM,
    Program,
    TensorSpec,
)

EXAMPLE = "example.png"
MADE = 4  # images that are made where none is read
SHOWN = 8  # names of classes or attributes in a comment
DRAWS = {
    NORMAL: "np.random.default_rng(0).standard_normal({shape}, dtype=np.float32)",
    UNIFORM: "np.random.default_rng(0).random({shape}, dtype=np.float32)",
    SIGNED: "2 * np.random.default_rng(0).random({shape}, dtype=np.float32) - 1",
}


def onnx_usage(model: Model, names: Sequence[str] = (), background: str = "") -> list[str]:
    """Return lines that run the model's ONNX files with onnxruntime and numpy alone.

    names: of the classes or attributes of its images
    background: ``#rrggbb`` that shows through where its images are transparent; empty: none are
    """
    programs = _used_programs(model)
    reads = _take_images(programs, model.shape)
    head, lines = ["import numpy as np", "import onnxruntime"], []
    known: set[str] = set()  # variables of the lines so far
    if reads:
        head.append("from PIL import Image, ImageOps")
        lines += _reading_lines(model.shape, background)
        known.add(IMAGES.name)
    for name, program in programs.items():
        count = 1 if _take_images({name: program}, model.shape) else MADE
        for spec, example in zip(program.inputs, program.arguments, strict=True):
            if spec.name not in known:
                lines.append(_making_line(spec, example, count, names))
        lines += _running_lines(name, program)
        known |= {spec.name for spec in program.outputs}
        if CLASS_SCORES in program.outputs and names:
            head.insert(0, "import json")
            lines += [
                f'classes = json.loads({name}.get_modelmeta().custom_metadata_map["classes"])',
                "print([classes[place] for place in scores.argmax(1)])",
            ]
    return [*head, "", *lines] if lines else []


def genstudy_usage(model: Model, study_file: str, background: str = "") -> list[str]:
    """Return lines that load the export with genstudy and use it.

    study_file: the study's name, or the path of its file
    background: of its images, as `Model.read_images` takes it; empty: none are transparent
    """
    family = type(model)
    imports, argument = _family_lines(family, study_file)
    lines = model.usage.splitlines()
    if model.usage == Model.usage and not _is_called_with_images(family):
        lines = []  # what the family can do, only its author knows
    load = f'model = load_export("."{argument})  # this folder'
    if not lines:
        return ["from models.export import load_export", *imports, "", load]
    ground = "" if background in ("", WHITE) else f', background="{background}"'
    read = f'images = model.read_images("{EXAMPLE}"{ground})'
    reading = [f"{read}  # files of any size: (N, C, H, W)"]
    return [
        "import torch",
        "from models.export import load_export",
        *imports,
        "",
        load,
        *(reading if any("images" in line.partition("#")[0] for line in lines) else []),
        "with torch.no_grad():",
        *(f"    {line}" for line in lines),
    ]


def _used_programs(model: Model) -> dict[str, Program]:
    """Return the programs that the lines run."""
    with evaluating(model):
        programs = {name: program.named() for name, program in model.programs().items()}
    return {name: program for name, program in programs.items() if program.is_used}


def _take_images(programs: Mapping[str, Program], shape: Shape) -> bool:
    """Whether a program takes images of ``shape``."""
    return any(
        spec.name == IMAGES.name and tuple(example.shape[1:]) == tuple(shape)
        for program in programs.values()
        for spec, example in zip(program.inputs, program.arguments, strict=True)
    )


def _reading_lines(shape: Shape, background: str) -> list[str]:
    """Return lines that prepare an image file as a folder's images are: on their background,
    resized, and cropped from the centre."""
    channels, height, width = shape
    mode = {1: "L", 3: "RGB"}[channels]
    opened, before = f'Image.open("{EXAMPLE}")', []
    if background.startswith("#"):
        before = [
            f'picture = {opened}.convert("RGBA")',
            f'ground = Image.new("RGBA", picture.size, "{background}")',
        ]
        opened = "Image.alpha_composite(ground, picture)"
    return [
        *before,
        f'picture = ImageOps.fit({opened}.convert("{mode}"), ({width}, {height}), Image.BILINEAR)',
        f"images = np.asarray(picture, np.float32).reshape(1, {height}, {width}, {channels})"
        ".transpose(0, 3, 1, 2) / 255",
    ]


def _making_line(spec: TensorSpec, example: Tensor, count: int, names: Sequence[str]) -> str:
    """Return the line that makes an input which nothing before it gives."""
    shape, kind = (count, *example.shape[1:]), str(example.dtype).removeprefix("torch.")
    made, comment = f'np.zeros({shape}, "{kind}")', ""
    if spec.drawn_from:
        made = DRAWS[spec.drawn_from].format(shape=shape)
    elif spec.name == LABELS.name and len(shape) == 2:
        made = f"np.eye({shape[1]}, dtype=np.float32)[{[row % shape[1] for row in range(count)]}]"
        numbered = [f"{place} {name}" for place, name in enumerate(names[:SHOWN])]
        more = [] if len(names) <= SHOWN else ["..."]
        comment = f"  # a row an image: {', '.join(numbered + more)}" if names else ""
    return f"{spec.name} = {made}{' '.join(comment.splitlines())}"


def _running_lines(name: str, program: Program) -> list[str]:
    """Return lines that open a program and run it."""
    given = ", ".join(f'"{spec.name}": {spec.name}' for spec in program.inputs)
    results = ", ".join(spec.name for spec in program.outputs)
    results += "," if len(program.outputs) == 1 else ""
    what = [
        spec.describe(tensor.shape).partition(":")[0]
        for spec, tensor in zip(program.outputs, program.run(program.arguments), strict=True)
    ]
    if len(what) == 1:
        what = [what[0].removeprefix(f"{program.outputs[0].name} ")]
    return [
        f'{name} = onnxruntime.InferenceSession("{name}.onnx")',
        f"({results}) = {name}.run(None, {{{given}}})  # {', '.join(what)}",
    ]


def _is_called_with_images(family: type[Model]) -> bool:
    return list(inspect.signature(family.forward).parameters) == ["self", "images"]


def _family_lines(family: type[Model], study_file: str) -> tuple[list[str], str]:
    """Return the lines that import a family, and how `load_export` is given it; nothing for
    genstudy's own, which it finds by itself."""
    module, _, name = family.__module__, *family.__qualname__.rpartition(".")[1:]
    if module.startswith("models."):
        return [], ""
    lines = []
    if not module.startswith("search."):
        path = Path(study_file)
        module = path.stem if module == f"genstudy_study_{path.stem}" else module
        lines = ["import sys", f"sys.path.insert(0, {str(path.parent)!r})"]
    if all(part.isidentifier() for part in module.split(".")):
        lines.append(f"from {module} import {name}")
    else:
        lines += ["import importlib", f"{name} = importlib.import_module({module!r}).{name}"]
    return lines, f", family={name}"
