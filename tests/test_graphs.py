"""A recorded step does what the step does; CUDA itself is only in the last test."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.base import Metrics, Model, ModelConfig, build
from models.cae import CAE, CAEConfig
from models.data.images import Batch, ImageSplits, Shape
from models.training.cuda_graph import USUAL_STEPS, CapturedStep, capture_step
from models.training.loop import fit
from models.vae import VAE, VAEConfig
from tests.test_training import Duel

SHAPE = (1, 12, 12)


class FusedDuel(Duel):
    """On a CPU PyTorch believes only fused optimisers that they can be recorded."""

    def __init__(self, config: ModelConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.optimizers["maker"] = torch.optim.Adam(self.maker.parameters(), lr=1e-3, fused=True)


class Recorder:
    """Stands for CUDA: recording runs nothing, replaying runs the step on what it read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recordings = self.replays = 0
        self.step: CapturedStep
        stream = SimpleNamespace(wait_stream=lambda other: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=self.replay))
        monkeypatch.setattr(torch.cuda, "graph", self.record)

    @contextmanager
    def record(self, graph: Any) -> Iterator[None]:
        self.recordings += 1
        model = self.step.model
        optimizers = model.optimizers.values()
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        assert all(group.get("capturable", True) for group in groups)
        tensors = list(model.parameters())
        for optimizer in optimizers:
            for state in optimizer.state.values():
                tensors += [value for value in state.values() if torch.is_tensor(value)]
        before = [tensor.detach().clone() for tensor in tensors]
        drawn = torch.get_rng_state()
        yield
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        torch.set_rng_state(drawn)

    def replay(self) -> None:
        self.replays += 1
        assert self.step.batch is not None
        for name, value in self.step.model.train_step(self.step.batch).items():
            self.step.metrics[name].copy_(value)


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [Batch(images=torch.rand(8, *SHAPE, generator=generator)) for _ in range(count)]


CONFIGS = {CAE: CAEConfig(channels=2, latent=3), VAE: VAEConfig(width=0.1)}


@pytest.mark.parametrize("make", [FusedDuel, CAE, VAE], ids=["two optimisers", "cae", "vae"])
def test_recorded_steps_end_where_usual_ones_do(make, monkeypatch):
    config = CONFIGS.get(make, ModelConfig())
    usual, recorded = (build(make, config, SHAPE, seed=0) for _ in range(2))
    steps = 4 + USUAL_STEPS
    torch.manual_seed(5)
    expected = [usual.train_step(batch) for batch in batches(steps)]
    recorder = Recorder(monkeypatch)
    recorder.step = CapturedStep(recorded)
    torch.manual_seed(5)
    found = []
    for batch in batches(steps):
        metrics = recorder.step(batch)
        found.append({name: value.clone() for name, value in metrics.items()})
        batch.images.zero_()  # the recording must not read the caller's tensor
    assert found == expected
    for ours, theirs in zip(recorded.parameters(), usual.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (recorder.recordings, recorder.replays) == (1, 4)


def test_optimisers_are_capturable_only_while_recorded(monkeypatch):
    model = build(FusedDuel, ModelConfig(), SHAPE, seed=0)
    recorder = Recorder(monkeypatch)
    recorder.step = CapturedStep(model)
    for batch in batches(USUAL_STEPS + 2):
        recorder.step(batch)
    assert model.optimizers["maker"].param_groups[0]["capturable"] is False
    assert "capturable" not in model.optimizers["judge"].param_groups[0]


def test_a_step_that_cannot_be_recorded_goes_on_as_usual_and_says_so(monkeypatch, caplog):
    class Waits(CAE):
        def train_step(self, batch: Batch) -> Metrics:
            if recording:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            return super().train_step(batch)

    recording = []

    @contextmanager
    def record(graph: Any) -> Iterator[None]:
        recording.append(graph)
        try:
            yield
        finally:
            recording.clear()

    Recorder(monkeypatch)
    monkeypatch.setattr(torch.cuda, "graph", record)
    usual, refusing = (build(kind, CAEConfig(channels=2), SHAPE, seed=0) for kind in (CAE, Waits))
    step = CapturedStep(refusing)
    with caplog.at_level(logging.WARNING):
        for batch in batches(USUAL_STEPS + 3):
            assert step(batch) == usual.train_step(batch)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the step of Waits cannot become a CUDA graph "
        "(operation not permitted when stream is capturing): slower"
    ]


def test_only_static_steps_on_a_gpu_are_recorded():
    model: Any = SimpleNamespace(device=torch.device("cuda"), static_step=True, train_step=None)
    assert isinstance(capture_step(model), CapturedStep)
    model.static_step = False
    assert capture_step(model) is None
    on_cpu: Model = build(CAE, CAEConfig(channels=2), SHAPE, seed=0)
    assert capture_step(on_cpu) == on_cpu.train_step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("make", [Duel, CAE], ids=["two optimisers", "cae"])
def test_a_gpu_learns_the_same_with_and_without_a_recording(make, digits: ImageSplits, monkeypatch):
    config = CAEConfig(batch_size=64) if make is CAE else ModelConfig(batch_size=64)
    images = digits.to("cuda")

    def train(static: bool) -> list[float]:
        monkeypatch.setattr(make, "static_step", static)
        model = build(make, config, images.shape, seed=0, device="cuda")
        return [next(iter(e.valid.values())) for e in fit(model, images, epochs=3, seed=0)]

    assert train(True) == pytest.approx(train(False), rel=1e-3)
