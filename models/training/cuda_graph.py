"""The whole training step as one CUDA graph: one launch instead of a hundred.

    step = capture_step(model)          # model.train_step itself on a CPU
    for batch in batches:
        metrics = step(batch)

A small model leaves a GPU waiting for Python between launches. Steps of static shape that never
wait for the host can be recorded once and replayed. The first few run as usual, and make buffers
and optimiser state. The next is recorded. All others are replayed with their batch copied to where
the recording read its own.

A model whose steps are of several kinds, chosen on the host, gets a recording for each of them
(`models.training.chosen_steps`). One whose step decides something on the host in another way says
so with ``static_step = False``, and is never captured. A model whose step cannot be recorded goes
on as usual, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch.optim import Optimizer

from models.base import OUR_MODELS, Metrics, Model
from models.data.images import Batch
from models.training.chosen_steps import ChoosesSteps, find_choices
from models.training.graph_recording import (
    NotRecorded,
    count_broken,
    may_record,
    noting_waits,
    record_graph,
    run_beside,
)
from models.training.step_trace import StepTrace

USUAL_STEPS = 4  # before the recording: one makes the state, others what is initialised lazily
OWN_STEPS = 14  # of a family of one's own: whatever it does every tenth time is seen
UNTRACED = 2  # of them, at first
MOST_CHOICES = 8

log = logging.getLogger("genstudy")


def capture_step(model: Model) -> Callable[[Batch], Metrics]:
    """Return ``model.train_step``, recorded and replayed if the model lies on an NVIDIA GPU."""
    if may_record(model.device):
        if model.static_step:
            return CapturedStep(model)
        if (chooses := find_choices(model)) is not None:
            return CapturedChoices(model, chooses)
    return model.train_step


class CapturedStep:
    """A training step: the first calls run as usual, then one is recorded, and all others replay
    it."""

    def __init__(self, model: Model, take_step: Callable[[Batch], Metrics] | None = None) -> None:
        self.model = model
        self.take_step, self.is_only = take_step or model.train_step, take_step is None
        self.taken = 0
        self.is_ours = type(model).__module__.startswith(OUR_MODELS)
        self.usual = USUAL_STEPS if self.is_ours else OWN_STEPS
        self.trace: StepTrace | None = None  # of the latest usual step
        self.checks = False  # whether the next step is compared with the recorded one
        self.graph: torch.cuda.CUDAGraph | None = None
        self.broken = 0  # recordings that had been broken off when it was made
        self.batch: Batch | None = None  # what the recording reads
        self.metrics: Metrics = {}  # what it writes
        self.refused = False

    def __call__(self, batch: Batch) -> Metrics:
        if self.graph is not None and self.broken != count_broken():
            self._forget()
        self.taken += 1
        if self.refused:
            return self.take_step(batch)
        if self.taken < UNTRACED:
            return self._run_beside(batch)
        if self.taken <= self.usual:
            return self._watch(batch)
        if self.checks and self.graph is not None:
            return self._check(batch)
        if self.graph is None and not self._record(batch):
            return self.take_step(batch)
        return self._replay(batch)

    def begin_epoch(self) -> None:
        """Note that an epoch begins, for which a family of one's own may have changed a number."""
        self.checks = not self.is_ours

    def _check(self, batch: Batch) -> Metrics:
        """Take a usual step; if it does other things than the recorded one, begin anew."""
        self.checks, trace = False, StepTrace(batch)
        with _allow_capture(self.model.optimizers.values()), trace:
            metrics = self._run_beside(batch)
        if self.trace is None or trace.difference_from(self.trace):
            self._forget()
        return metrics

    def _forget(self) -> None:
        """Begin anew, with usual steps."""
        self.graph, self.trace, self.taken = None, None, 0

    def _run_beside(self, batch: Batch) -> Metrics:
        return run_beside(self.model.device, lambda: self.take_step(batch))

    def _watch(self, batch: Batch) -> Metrics:
        """Take a usual step, and refuse to record one that waits for the GPU, or does other things
        than the step before."""
        before = self.trace
        # the first has no trace: a warning would name a line of the trace, and not of the user
        trace = self.trace = None if self.taken == UNTRACED else StepTrace(batch)
        with (
            _allow_capture(self.model.optimizers.values()),
            noting_waits() as waits,
            trace or nullcontext(),
        ):
            metrics = self._run_beside(batch)
        differs = trace.difference_from(before) if trace and before else None
        if waits or differs:
            self._refuse(waits[0] if waits else str(differs))
        return metrics

    def _record(self, batch: Batch) -> bool:
        """Record one step without running it. Return False if it cannot be recorded."""
        read = self.batch = Batch(
            images=batch.images.clone(),
            labels=None if batch.labels is None else batch.labels.clone(),
            attributes=None if batch.attributes is None else batch.attributes.clone(),
        )

        def step() -> None:
            self.metrics = self.take_step(read)

        try:
            with _allow_capture(self.model.optimizers.values()):
                self.graph, self.broken = record_graph(self.model.device, step), count_broken()
        except NotRecorded as error:
            self._refuse(str(error))
            return False
        return True

    def _refuse(self, why: str) -> None:
        self.refused, self.trace = True, None
        if self.is_only:
            _count_on_host(self.model.optimizers.values())
        name = type(self.model).__name__
        log.warning("the step of %s cannot become a CUDA graph (%s): slower", name, why)

    def _replay(self, batch: Batch) -> Metrics:
        """Replay the recorded step with ``batch``. The next one overwrites its metrics."""
        assert self.graph is not None
        assert self.batch is not None
        self.batch.images.copy_(batch.images)
        if self.batch.labels is not None and batch.labels is not None:
            self.batch.labels.copy_(batch.labels)
        if self.batch.attributes is not None and batch.attributes is not None:
            self.batch.attributes.copy_(batch.attributes)
        self.graph.replay()
        return self.metrics


class CapturedChoices:
    """Training steps of several kinds, each a `CapturedStep` of its own: `MOST_CHOICES` of them,
    since each holds memory; all others are taken as usual."""

    def __init__(self, model: Model, chooses: ChoosesSteps) -> None:
        self.model, self.chooses = model, chooses
        self.steps: dict[Hashable, CapturedStep] = {}  # by choice

    def __call__(self, batch: Batch) -> Metrics:
        choice = self.chooses.choose_step()
        step: Callable[[Batch], Metrics] = partial(self.chooses.take_step, choice=choice)
        if choice in self.steps or len(self.steps) < MOST_CHOICES:
            step = self.steps.setdefault(choice, CapturedStep(self.model, step))
        measured = step(batch)
        self.chooses.note_step(measured)
        return measured

    def begin_epoch(self) -> None:
        """Note that an epoch begins."""
        for step in self.steps.values():
            step.begin_epoch()


@contextmanager
def _allow_capture(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """Tell the optimisers inside the block to compute as they do while they are recorded.

    Without it they refuse to be recorded. If it stays set afterwards, they warn.
    """
    optimizers = list(optimizers)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    settable = [group for group in groups if "capturable" in group]
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            if torch.is_tensor(state.get("step")):  # some optimisers count on the host
                state["step"] = state["step"].to(parameter.device)
    before = [group["capturable"] for group in settable]
    for group in settable:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, capturable in zip(settable, before, strict=True):
            group["capturable"] = capturable


def _count_on_host(optimizers: Iterable[Optimizer]) -> None:
    """Let optimisers count their steps on the host again, if they read the numbers there."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group.get("capturable", False) or group.get("fused", False):
                continue
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if torch.is_tensor(state.get("step")):
                    state["step"] = state["step"].cpu()
