"""What recordings of steps leave behind in a process: memory, and the state of PyTorch.

memory      what the GPU has allocated after many trials were recorded, beside after one
waiting     a step that waits for the GPU is not recorded, and says where it waits
broken off  a recording is broken off; then another model is recorded, and draws numbers

python -m tests.gpu --only recording ...
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import torch

from models.base import Metrics
from models.data.images import Batch
from models.training.cuda_graph import USUAL_STEPS, CapturedStep
from models.training.graph_recording import NotRecorded, record_graph
from models.vae import VAE, VAEConfig
from search.worker.device import use_device
from tests.gpu.cases import CASES, Case, batches_of
from tests.gpu.clock import contain
from tests.gpu.part import Row, Settings, relative_error
from tests.gpu.steps import RECORDED_LIMIT

RECORDINGS = 16
GROWTH = 64.0  # MiB that so many recordings may leave
NAMED = {case.name: case for case in CASES}


class Waiting(VAE):
    """A VAE whose step waits for the GPU."""

    def train_step(self, batch: Batch) -> Metrics:
        measured = super().train_step(batch)
        self.latest = measured[self.metrics[0]].item()
        return measured


def measure(settings: Settings) -> Iterator[Row]:
    use_device(settings.device)
    yield from contain("memory of recordings", measure_memory(settings))
    yield from contain("a step that waits", refuse_waiting(settings))
    yield from contain("a recording is broken off", break_off(settings))


def measure_memory(settings: Settings) -> Iterator[Row]:
    """Record trials one after the other, as a worker does."""
    case, found = NAMED["vae dense"], []
    for _ in range(2 if settings.tiny else RECORDINGS):
        train_recorded(case, settings)
        gc.collect()
        allocated = torch.cuda.memory_allocated(settings.device) if settings.on_gpu else 0
        found.append(allocated / 2**20)
    yield Row(
        name=f"memory after {len(found)} recordings, beside after one",
        found=found[-1] - found[0],
        limit=GROWTH,
        unit="MiB",
        about=", ".join(f"{value:.0f}" for value in found),
    )


def refuse_waiting(settings: Settings) -> Iterator[Row]:
    """A step with `.item()`, and then a usual VAE in the same process."""
    config = VAEConfig(width=0.1, batch_size=32, lr=1e-3, latent=4)
    said = Said()
    logging.getLogger("genstudy").addHandler(said)
    try:
        step = train_recorded(Case(name="waiting", family=Waiting, config=config), settings)
    finally:
        logging.getLogger("genstudy").removeHandler(said)
    yield Row(
        name="a step that waits is not recorded",
        found=" ".join(said.lines) or "nothing was said",
        ok=step.refused and "recording.py:" in " ".join(said.lines),
    )
    yield from go_on("after a step that waits", settings)


def break_off(settings: Settings) -> Iterator[Row]:
    """Record what cannot be recorded, with nothing that would notice before."""
    device = torch.device(settings.device)
    numbers = torch.ones(3, device=device)

    def draw_and_wait() -> None:
        torch.rand_like(numbers).sum().item()

    try:
        record_graph(device, draw_and_wait)
        found = "it was recorded"
    except NotRecorded as error:
        found = str(error)
    yield Row(name="a recording is broken off", found=found[:200], ok=found != "it was recorded")
    if settings.on_gpu:
        usual = torch.cuda.current_stream(device) == torch.cuda.default_stream(device)
        yield Row(name="the stream is the usual one again", found=str(usual), ok=usual)
    yield from go_on("after a recording that was broken off", settings)


def go_on(when: str, settings: Settings) -> Iterator[Row]:
    """Train a usual VAE, recorded and step by step."""
    case = NAMED["vae dense"]
    step = train_recorded(case, settings)
    usual = case.build(settings.device)
    train(usual.train_step, case, settings)
    yield Row(
        name=f"{when} a VAE is recorded, and learns the same",
        found=relative_error(step.model.state_dict().values(), usual.state_dict().values()),
        limit=RECORDED_LIMIT,
        ok=None if step.graph is not None else False,
    )


def train_recorded(case: Case, settings: Settings) -> CapturedStep:
    """Return the recorded step of a model that has taken some of them."""
    step = CapturedStep(case.build(settings.device))
    train(step, case, settings)
    return step


def train(step: object, case: Case, settings: Settings) -> None:
    """Take steps, always the same ones."""
    assert callable(step)
    torch.manual_seed(5)
    for batch in batches_of(case, settings.device, USUAL_STEPS + 4):
        step(batch)


class Said(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
