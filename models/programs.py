"""The parts of a model that are exported alone, and what goes into them and comes out.

    Program(module=encoder, example=images, inputs=(IMAGES,), outputs=(CODES,))

An exported file carries the names of its inputs and outputs, and what they hold: whoever opens it
needs nothing else. The names are the same for all families:

    images        (N, C, H, W) in [0, 1]
    codes         (N, Z)
    mean          (N, Z) of the distribution over an image's codes; log_variance likewise
    samples       (N, C, H, W) in [0, 1], new images
    scores        (N, K) before a softmax, or (N, P) before a sigmoid
    labels        (N, L) in [0, 1]

Shape legend: N batch, C channels, H/W pixels, Z latent width, K classes, P scores an image,
L labels.

    python -c "from models.programs import CODES; print(CODES.describe((2, 27)))"
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from models.errors import ExportError, require_one_of

BATCH = "N"  # the name of the first dimension of all inputs and outputs
NORMAL, UNIFORM, SIGNED = "N(0, 1)", "U(0, 1)", "U(-1, 1)"
DISTRIBUTIONS = ("", NORMAL, UNIFORM, SIGNED)


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """The specification of one input or output of a program.

    name: in exported files; holds: what it is, in words
    bounds: of its values; None: it has none
    drawn_from: the distribution of an input that makes something new; empty: there is none
    """

    name: str
    holds: str
    bounds: tuple[float, float] | None = None
    drawn_from: str = ""

    def __post_init__(self) -> None:
        require_one_of("drawn_from", self.drawn_from, DISTRIBUTIONS)

    def describe(self, example: Sequence[int]) -> str:
        """Return ``images (N, 1, 28, 28) in [0, 1]``; example: a shape, whose first number is
        free."""
        shape = ", ".join(map(str, (BATCH, *example[1:])))
        bounds = "" if self.bounds is None else f" in [{self.bounds[0]:g}, {self.bounds[1]:g}]"
        drawn = f", drawn from {self.drawn_from}" if self.drawn_from else ""
        words = "" if self.holds == self.name else f": {self.holds}"
        return f"{self.name} ({shape}){bounds}{drawn}{words}"


IMAGES = TensorSpec(name="images", holds="images", bounds=(0, 1))
CODES = TensorSpec(name="codes", holds="the encoder's codes of images")
NOISE = TensorSpec(name="codes", holds="noise that becomes an image", drawn_from=NORMAL)
MEAN = TensorSpec(name="mean", holds="of the Gaussian over an image's codes")
LOG_VARIANCE = TensorSpec(
    name="log_variance", holds="of the same; exp(log_variance / 2) is the deviation"
)
PRIOR_CODES = replace(NOISE, holds="of the prior for new images, or the mean of an image")
SAMPLES = TensorSpec(name="samples", holds="new images", bounds=(0, 1))
LABELS = TensorSpec(name="labels", holds="what an image shows", bounds=(0, 1))
CLASS_SCORES = TensorSpec(name="scores", holds="of the classes; their softmax is probabilities")
REAL_SCORES = TensorSpec(name="scores", holds="of being real; their sigmoid is a probability")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A part of a model that can be exported alone: a module and an input that it takes.

    example: (N, ...) with N >= 2, or one such tensor for each input; the first dimension stays
    free in the export
    inputs, outputs: in their order; empty: they are named after the module's arguments, and
    ``output``
    is_used: whether a model card shows how to use it
    """

    module: nn.Module
    example: Tensor | tuple[Tensor, ...]
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    is_used: bool = True

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """The example's tensors, one for each input."""
        return (self.example,) if isinstance(self.example, Tensor) else tuple(self.example)

    def run(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs for ``arguments``, without gradients."""
        with torch.no_grad():
            return as_tensors(self.module(*arguments))

    def describe(self) -> tuple[str, str]:
        """Return in words what the program takes and what it gives."""
        named, made = self.named(), self.run(self.arguments)
        sides = ((named.inputs, self.arguments), (named.outputs, made))
        takes, gives = (
            "; ".join(
                spec.describe(tensor.shape) for spec, tensor in zip(specs, tensors, strict=True)
            )
            for specs, tensors in sides
        )
        return takes, gives

    def named(self) -> Program:
        """Return the program with a specification for every input and output.

        Raises `ExportError` where the family gives more or fewer than there are.
        """
        takes, gives = len(self.arguments), len(self.run(self.arguments))
        inputs = self.inputs or tuple(map(_unknown, _argument_names(self.module, takes)))
        outputs = self.outputs or tuple(map(_unknown, _numbered("output", gives)))
        for what, specs, count in (("inputs", inputs, takes), ("outputs", outputs, gives)):
            names = [spec.name for spec in specs]
            if len(specs) != count or len(set(names)) < count:
                raise ExportError(
                    f"a program of {type(self.module).__name__} has {count} {what}, but they are "
                    f"named {', '.join(names)}; give each a name of its own"
                )
        if both := {spec.name for spec in inputs} & {spec.name for spec in outputs}:
            raise ExportError(
                f"a program of {type(self.module).__name__} has an input and an output that are "
                f"both named {min(both)}; ONNX needs two names"
            )
        return replace(self, inputs=inputs, outputs=outputs)


def as_tensors(made: object) -> tuple[Tensor, ...]:
    """Return what a program gives as a tuple. Raises `ExportError` for anything but tensors."""
    tensors = (made,) if isinstance(made, Tensor) else made
    if not (isinstance(tensors, tuple | list) and tensors):
        raise ExportError(
            f"a program gives a {type(made).__name__}; give a tensor or a tuple of tensors"
        )
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise ExportError(
                f"a program gives a {type(tensor).__name__} among its outputs; give only tensors"
            )
    return tuple(tensors)


def _unknown(name: str) -> TensorSpec:
    """Return the specification of something of which only the name is known."""
    return TensorSpec(name=name, holds=name)


def _argument_names(module: nn.Module, count: int) -> list[str]:
    """Return what a module calls its arguments."""
    parameters = inspect.signature(module.forward).parameters.values()
    single = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in single]
    return names[:count] if len(names) >= count else _numbered("input", count)


def _numbered(word: str, count: int) -> list[str]:
    return [word] if count == 1 else [f"{word}_{index}" for index in range(count)]
