"""What a model costs: its weights, its code, and how long its export takes.

    measure_costs(model, ["parameters", "code", "latency_64"])   # {"parameters": 60240.0, ...}

A cost follows from the configuration or from the exported programs, so that it is known before the
first epoch. What counts is what a model card shows: of a GAN the generator, without the
discriminator.

    parameters    weights of these programs, each counted once
    code          Z, numbers in the code of an image: of autoencoders
    latency_1     milliseconds for one image: all these programs, one after the other
    latency_64    the same for a batch of 64

A latency is measured on the ONNX files, by ONNX Runtime on one thread of the CPU. After `WARM_UP`
calls, it is the median of at least `LEAST_CALLS` calls, or of as many as `LEAST_SECONDS` have time
for. It depends on the machine, and grows with the number of busy cores.

Shape legend: N batch, Z latent width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from torch import Tensor

from models.autoencoder import Autoencoder
from models.base import Model, evaluating
from models.export import on_cpu
from models.program_files import Run, open_onnx, write_program
from models.programs import Program

PARAMETERS, CODE = "parameters", "code"
BATCHES = {"latency_1": 1, "latency_64": 64}  # cost -> images at once
COSTS = (PARAMETERS, CODE, *BATCHES)
WARM_UP = 5  # calls: the first ones take memory
LEAST_CALLS = 25
LEAST_SECONDS = 0.2


def known_costs(family: type[Model]) -> tuple[str, ...]:
    """Return the costs that models of a family have."""
    has_code = issubclass(family, Autoencoder)
    return tuple(name for name in COSTS if name != CODE or has_code)


def measure_costs(model: Model, names: Iterable[str]) -> dict[str, float]:
    """Return the costs of a model, by name. For a latency it is exported, which takes seconds."""
    wanted = list(names)
    if not wanted:
        return {}
    with on_cpu(model), evaluating(model):
        programs = {name: each for name, each in model.programs().items() if each.is_used}
        found: dict[str, float] = {}
        if PARAMETERS in wanted:
            found[PARAMETERS] = float(_count_weights(programs.values()))
        if CODE in wanted:
            assert isinstance(model, Autoencoder), "the study's goals were checked"
            encoder = programs["encoder"]
            found[CODE] = float(encoder.run(encoder.arguments)[0].shape[1])
        batches = {name: BATCHES[name] for name in wanted if name in BATCHES}
        if batches:
            found |= _measure_latencies(programs, batches)
    return {name: found[name] for name in wanted}


def _count_weights(programs: Iterable[Program]) -> int:
    """Count the weights of all programs; one that two programs share counts once."""
    weights = {
        id(each): each.numel() for program in programs for each in program.module.parameters()
    }
    return sum(weights.values())


def _measure_latencies(programs: dict[str, Program], batches: dict[str, int]) -> dict[str, float]:
    """Return the milliseconds of all programs together for each batch."""
    found = dict.fromkeys(batches, 0.0)
    with TemporaryDirectory(prefix="genstudy-latency-") as folder:
        for name, unnamed in programs.items():
            program = unnamed.named()
            write_program(program, Path(folder), name, {})
            run = open_onnx(Path(folder) / f"{name}.onnx", program)
            for cost, size in batches.items():
                found[cost] += 1000 * _time_calls(run, _batch_of(program, size))
    return found


def _batch_of(program: Program, size: int) -> list[Tensor]:
    """Return the program's example with ``size`` rows: (size, ...)."""
    return [
        each[:1].repeat(size, *[1] * (each.dim() - 1)).contiguous() for each in program.arguments
    ]


def _time_calls(
    run: Run, given: list[Tensor], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the median of the seconds that a call takes."""
    for _ in range(WARM_UP):
        run(*given)
    taken: list[float] = []
    while len(taken) < LEAST_CALLS or sum(taken) < LEAST_SECONDS:
        began = clock()
        run(*given)
        taken.append(clock() - began)
    return median(taken)
