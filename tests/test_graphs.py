"""A recorded step does what the step does; CUDA itself is only in the last test."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.base import Metrics, Model, ModelConfig, build
from models.cae import CAE, CAEConfig
from models.data.images import Batch, ImageSplits
from models.gan import GAN, GANConfig
from models.training import cuda_graph, graph_recording
from models.training.cuda_graph import (
    MOST_CHOICES,
    OWN_STEPS,
    USUAL_STEPS,
    CapturedChoices,
    CapturedStep,
    capture_step,
)
from models.training.fused_steps import FusedSteps
from models.training.graph_recording import NotRecorded, noting_waits, record_graph
from models.training.loop import fit
from models.training.precision import training_precision
from models.training.step_trace import StepTrace
from tests.gpu.cases import CASES, GREY, Case, batches_of, draw_images, draw_splits, keep_usual
from tests.simulated_graphs import simulate_graphs
from tests.test_fused_steps import FAMILIES, distance, make, orders_of
from tests.test_training import Duel

SHAPE = (1, 12, 12)
STEPS = USUAL_STEPS + 5  # three or more are replayed
RECORDED = [replace(case, config=replace(case.config, batch_size=4)) for case in CASES]
CHANGING = (
    "cae by SGD, cosine", "vae faces-64", "vae residual", "gan hinge, smooth noise",
    "gan adaptive augmentation", "gan adaptive rule",
)  # fmt: skip


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [Batch(images=torch.rand(8, *SHAPE, generator=generator)) for _ in range(count)]


def train(
    case: Case, make_step: Callable[[Model], Callable[[Batch], Metrics]], steps: int = STEPS
) -> tuple[list[Tensor], list[dict[str, float]]]:
    """Return all that a model has learnt after some steps, and what each has measured."""
    model = case.build("cpu")
    model.train()
    step, measured = make_step(model), []
    torch.manual_seed(5)
    with training_precision(model):
        for batch in batches_of(case, "cpu", steps):
            measured.append({name: float(value) for name, value in step(batch).items()})
            batch.images.zero_()  # a recording must not read the caller's tensor
    return [value.clone() for value in model.state_dict().values()], measured


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case.name)
def test_recorded_steps_end_where_usual_ones_do(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of a step is decided on the host, for every family, loss, penalty and optimiser."""
    usual, measured = train(case, lambda model: model.train_step)
    graphs = simulate_graphs(monkeypatch)
    recorded, found = train(case, capture_step)
    assert len(graphs) == 1
    for ours, theirs in zip(recorded, usual, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for values, expected in zip(found, measured, strict=True):
        assert values == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_from_epoch_to_epoch_takes_effect(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(case for case in RECORDED if case.name == name)
    images = draw_splits(case.shape, (USUAL_STEPS + 3) * case.config.images_per_step)
    found = []
    for static in (False, True):
        graphs = simulate_graphs(monkeypatch)
        model = case.build("cpu")
        if not static:
            keep_usual(model)
        epochs = list(fit(model, images, epochs=3, seed=4))
        found.append([each.train | each.valid for each in epochs])
        assert bool(graphs) is static
    for recorded, usual in zip(*reversed(found), strict=True):
        assert recorded == pytest.approx(usual, rel=1e-4, abs=1e-5)


def test_every_choice_of_a_step_has_a_recording_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The adaptive rule decides from losses of replayed steps as it does from those of others."""
    settings: dict[str, Any] = {"width": 0.03, "latent": 4, "batch_size": 8, "lr_g": 1e-6}
    config = GANConfig(**settings, lr_d=1e-6, extra_g_steps=2, threshold=-0.68)
    case = Case(name="gan", family=GAN, config=config)
    _, usual = train(case, lambda model: model.train_step, steps=40)
    graphs = simulate_graphs(monkeypatch)
    _, recorded = train(case, capture_step, steps=40)
    assert recorded == usual
    chosen = [measured["g_steps"] for measured in usual]
    assert min(chosen.count(updates) for updates in (1, 3)) > USUAL_STEPS + 3, "both are replayed"
    assert len(graphs) == 2


def test_a_step_of_one_s_own_is_not_chosen_from(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(GAN):
        def train_step(self, batch: Batch) -> Metrics:
            return super().train_step(batch)

    simulate_graphs(monkeypatch)
    config = GANConfig(width=0.03, latent=4, batch_size=8, extra_g_steps=2)
    assert isinstance(capture_step(build(GAN, config, GREY, seed=0)), CapturedChoices)
    model = build(Own, config, GREY, seed=0)
    assert capture_step(model) == model.train_step


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamax"])
@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_steps_of_several_models_end_where_usual_ones_do(
    family: str, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = simulate_graphs(monkeypatch)
    images = draw_images(GREY, 64, seed=1)
    usual, recorded = (
        [make(family, seed, optimizer=optimizer, schedule="cosine") for seed in range(3)]
        for _ in range(2)
    )
    steps, recording = (FusedSteps(models[0], images, count=3) for models in (usual, recorded))
    steps.records = False
    for epoch in range(1, 4):
        for model in (*usual, *recorded):
            model.begin_epoch(epoch, 3)  # rates of its own
        orders = orders_of(3, images, epoch)
        assert recording.train(recorded, orders) == steps.train(usual, orders)
    assert len(graphs) == 1, "rates are no part of it"
    assert max(distance(*pair) for pair in zip(recorded, usual, strict=True)) == 0


class Counting(CAE):
    """Its step counts on the host."""

    taken = 0

    def train_step(self, batch: Batch) -> Metrics:
        self.taken += 1
        measured = super().train_step(batch)
        return {name: value * self.taken for name, value in measured.items()}


class Fifth(Duel):
    """Every fifth time it updates its networks once more."""

    taken = 0

    def train_step(self, batch: Batch) -> Metrics:
        self.taken += 1
        if self.taken % 5 == 0:
            super().train_step(batch)
        return super().train_step(batch)


class Renewing(CAE):
    """It keeps a mean in a tensor that is a new one each time."""

    mean = torch.zeros(())

    def train_step(self, batch: Batch) -> Metrics:
        measured = super().train_step(batch)
        self.mean = 0.9 * self.mean + 0.1 * measured["mse"]
        return measured | {"mean": self.mean}


class Waiting(CAE):
    """Its step waits for the GPU."""

    def train_step(self, batch: Batch) -> Metrics:
        measured = super().train_step(batch)
        self.latest = measured["mse"].item()
        return measured


class Plain(CAE):
    """A family of one's own that does the same in each step."""


def own(family: type[Model]) -> Case:
    config: ModelConfig = CAEConfig(channels=2, latent=3, batch_size=4)
    if issubclass(family, Duel):
        config = ModelConfig(batch_size=4)
    return Case(name="own", family=family, config=config)


def test_a_number_of_the_host_is_part_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """So these tests can fail: the simulation forgets what CUDA would forget."""
    _, usual = train(own(Counting), lambda model: model.train_step)
    simulate_graphs(monkeypatch)
    monkeypatch.setattr(cuda_graph, "OWN_STEPS", USUAL_STEPS)
    monkeypatch.setattr(StepTrace, "difference_from", lambda trace, earlier: None)
    _, recorded = train(own(Counting), CapturedStep)
    assert recorded[: USUAL_STEPS + 1] == usual[: USUAL_STEPS + 1]
    assert recorded[USUAL_STEPS + 1] != usual[USUAL_STEPS + 1]


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        (Counting, r"aten.mul.Tensor gets 3, and another time 4"),
        (Fifth, r"it calls .*, and another time .*"),
        (Renewing, r"aten.mul.Tensor reads a tensor that is another one each time"),
    ],
)
def test_a_step_that_does_something_else_each_time_is_never_recorded(
    family: type[Model],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A graph would go on with what the recorded step did, without a word."""
    usual = train(own(family), lambda model: model.train_step, steps=OWN_STEPS + 4)
    graphs = simulate_graphs(monkeypatch)
    found = train(own(family), CapturedStep, steps=OWN_STEPS + 4)
    assert graphs == []
    for values, expected in zip(found[1], usual[1], strict=True):
        assert values == pytest.approx(expected, rel=1e-3)
    name, (said,) = family.__name__, caplog.messages
    assert re.fullmatch(
        rf"the step of {name} cannot become a CUDA graph \({reason}\): slower", said
    )


class Weighted(CAE):
    """Its loss has a weight that each epoch changes."""

    weight = 1.0

    def begin_epoch(self, number: int, epochs: int) -> None:
        super().begin_epoch(number, epochs)
        self.weight = number / epochs

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        value, measured = super().loss(batch)
        return self.weight * value, {name: self.weight * each for name, each in measured.items()}


def test_a_number_that_an_epoch_changes_is_recorded_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_splits(GREY, 4 * (OWN_STEPS + 6))
    found = []
    for static in (False, True):
        graphs = simulate_graphs(monkeypatch)
        model = own(Weighted).build("cpu")
        if not static:
            keep_usual(model)
        found.append([each.train for each in fit(model, images, epochs=3, seed=4)])
        assert len(graphs) == (3 if static else 0)
    for recorded, usual in zip(*reversed(found), strict=True):
        assert recorded == pytest.approx(usual, rel=1e-4)


def test_a_family_whose_epochs_are_alike_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_splits(GREY, 4 * (OWN_STEPS + 6))
    graphs = simulate_graphs(monkeypatch)
    for _ in fit(own(Plain).build("cpu"), images, epochs=3, seed=4):
        pass
    assert len(graphs) == 1


def trace(compute: Callable[[Tensor], object]) -> StepTrace:
    """The trace of a step on a device that is not the CPU."""
    images = torch.ones(4, 1, 2, 2, device="meta")
    found = StepTrace(Batch(images=images))
    with found:
        compute(images)
    return found


def test_a_tensor_of_the_cpu_counts_as_its_value_beside_a_gpu() -> None:
    """A GPU's operation takes it as a number, which a graph keeps."""
    growing = torch.zeros(())
    first, second = (trace(lambda images: images * growing.add_(0.5)) for _ in range(2))
    assert second.difference_from(first) == "aten.add_.Tensor gets 0.0, and another time 0.5"
    first, second = (trace(lambda images: images * torch.tensor(0.5)) for _ in range(2))
    assert second.difference_from(first) is None


def test_what_is_not_a_number_is_compared_too() -> None:
    limits = iter([{"min": 0.5}, {"max": 0.5}])
    first, second = (trace(lambda images: images.clamp(**next(limits))) for _ in range(2))
    assert second.difference_from(first) is not None


def test_a_tensor_without_memory_of_its_own_costs_speed_at_most() -> None:
    found = StepTrace(Batch(images=torch.ones(2, 1, 2, 2)))
    with found:
        torch.eye(3).to_sparse() @ torch.ones(3, 1)
    assert found.calls


def test_more_choices_than_are_kept_are_taken_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbered(GAN):
        number = 0

        def choose_step(self) -> int:
            self.number += 1
            return self.number

        def take_step(self, batch: Batch, choice: object) -> Metrics:
            return super().take_step(batch, 1)

    simulate_graphs(monkeypatch)
    config = GANConfig(width=0.03, latent=4, batch_size=8, extra_g_steps=1)
    case = Case(name="numbered", family=Numbered, config=config)
    model = case.build("cpu")
    step = capture_step(model)
    assert isinstance(step, CapturedChoices)
    for batch in batches_of(case, "cpu", MOST_CHOICES + 2):
        step(batch)
    assert len(step.steps) == MOST_CHOICES


def test_a_graph_from_before_a_recording_that_broke_off_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No seed may reach the random numbers that it draws."""
    graphs = simulate_graphs(monkeypatch)
    case = own(CAE)
    step = CapturedStep(case.build("cpu"))
    before, after = USUAL_STEPS + 1, USUAL_STEPS + 2
    for batch in batches_of(case, "cpu", before):
        step(batch)
    assert len(graphs) == 1
    monkeypatch.setattr(graph_recording, "_broken", graph_recording._broken + 1)
    for batch in batches_of(case, "cpu", after):
        step(batch)
    assert len(graphs) == 2


def test_a_family_of_one_s_own_is_recorded_after_more_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = train(own(Plain), lambda model: model.train_step, steps=OWN_STEPS + 4)
    graphs = simulate_graphs(monkeypatch)
    found = train(own(Plain), CapturedStep, steps=OWN_STEPS + 4)
    assert found[1] == usual[1]
    assert len(graphs) == 1


def test_a_step_that_waits_is_never_recorded_and_says_where(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A recording that CUDA breaks off leaves older versions of PyTorch in the middle of it."""
    usual = train(own(Waiting), lambda model: model.train_step)
    graphs = simulate_graphs(monkeypatch)
    found = train(own(Waiting), CapturedStep)
    assert (graphs, found[1]) == ([], usual[1])
    (said,) = caplog.messages
    assert re.fullmatch(
        r"the step of Waiting cannot become a CUDA graph \(test_graphs.py:\d+ waits for the GPU\): "
        "slower", said,
    )  # fmt: skip


def test_warnings_of_watched_steps_are_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_graphs(monkeypatch)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        for _ in range(3):
            with noting_waits() as waits:
                warnings.warn("of my own", stacklevel=1)
            assert waits == []
    assert [str(each.message) for each in heard] == ["of my own"]


def test_a_recording_that_is_broken_off_is_left_and_the_step_goes_on_as_usual(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    simulate_graphs(monkeypatch)
    left: list[str] = []
    generator = SimpleNamespace(
        clone_state=lambda: "clean", graphsafe_set_state=lambda state: left.append(state)
    )
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: left.append("stream"))
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(
            torch._C, name, lambda index, pool, name=name: left.append(name), raising=False
        )

    @contextmanager
    def record(graph: object, **named: object) -> Iterator[None]:
        yield
        raise RuntimeError("operation failed due to a previous error\nmore")

    monkeypatch.setattr(torch.cuda, "graph", record)
    device = torch.device("cuda", 0)
    with pytest.raises(NotRecorded, match=r"^operation failed due to a previous error$"):
        record_graph(device, lambda: None)
    assert left == ["stream", "clean", "_cuda_endAllocateToPool", "_cuda_releasePool"]
    monkeypatch.setattr(torch.cuda, "graph", refuse)
    usual = train(own(CAE), lambda model: model.train_step)
    assert train(own(CAE), CapturedStep)[1] == usual[1]
    assert "cannot become a CUDA graph (not on this device): slower" in caplog.text


@contextmanager
def refuse(graph: object, **named: object) -> Iterator[None]:
    raise RuntimeError("not on this device")
    yield


def test_a_process_records_on_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch keeps memory for each stream that has ever computed a product."""
    made: list[torch.device] = []

    class Stream:
        def __init__(self, device: torch.device) -> None:
            made.append(device)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    graph_recording.recording_stream.cache_clear()
    try:
        device = torch.device("cuda", 0)
        assert graph_recording.recording_stream(device) is graph_recording.recording_stream(device)
    finally:
        graph_recording.recording_stream.cache_clear()
    assert made == [device]


def test_optimisers_are_capturable_only_while_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(Duel, ModelConfig(), SHAPE, seed=0)
    simulate_graphs(monkeypatch)
    step = CapturedStep(model)
    for batch in batches(OWN_STEPS + 2):
        step(batch)
    assert step.graph is not None
    for optimizer in model.optimizers.values():
        assert not any(group.get("capturable", False) for group in optimizer.param_groups)


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
