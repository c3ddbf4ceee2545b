"""A GPU reports an error: the process that asked it is of no use, the trial goes on in a new one.

Played on a CPU by the exceptions that PyTorch raises. `tests.gpu` does it to a real context.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models.base import Metrics
from models.cae import CAE
from models.data.images import Batch
from search.trials.outcomes import is_out_of_memory
from search.worker.context import WorkerContext
from search.worker.device import use_device
from search.worker.device_trouble import BrokenDevice
from search.worker.interruptions import is_device_error
from search.worker.pictures import without_picture
from search.worker.retraining import retrain
from storage import curves, trials
from tests.trials import MakeContext, run_one
from tests.user import User, WriteStudy

ASSERT = "CUDA error: device-side assert triggered"
# As PyTorch 2.11 words them: of the CUDA runtime, of the driver, of libraries and of kernels.
ERRORS = [
    torch.AcceleratorError(ASSERT),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError(ASSERT),
    RuntimeError("CUDA driver error: unspecified launch failure"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuFFT error: CUFFT_EXEC_FAILED"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
OTHERS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0 has a total"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 4x3)"),
    RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu"),
    ValueError(ASSERT),
]


class Once(CAE):
    """A GPU reports an error in a step of the second epoch: of four steps, as the digits have."""

    errors: Iterator[Exception] = iter(())
    steps = 0

    def train_step(self, batch: Batch) -> Metrics:
        self.steps += 1
        if self.steps == 6 and (error := next(self.errors, None)):
            raise error
        return super().train_step(batch)


def model_with(*errors: Exception) -> type[Once]:
    class Own(Once):
        pass

    Own.errors = iter(errors)
    return Own


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_errors_of_a_gpu_are_known_whatever_their_class(error: Exception) -> None:
    wrapped = ValueError("my step failed")
    wrapped.__cause__ = error
    assert is_device_error(error)
    assert is_device_error(wrapped)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_none(error: Exception) -> None:
    assert not is_device_error(error)


def test_memory_that_runs_out_is_infeasible_before_it_is_an_error_of_the_gpu() -> None:
    assert [is_out_of_memory(error) for error in OTHERS] == [True] * 4 + [False] * 3


def test_a_mistake_on_a_broken_context_is_the_gpus_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def report() -> None:
        raise torch.AcceleratorError(ASSERT)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", report)
    assert is_device_error(KeyError("what came of it"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert not is_device_error(KeyError("a mistake in the model"))


def test_the_trial_goes_on_in_a_new_process_to_the_same_value(make_context: MakeContext) -> None:
    undisturbed = run_one(make_context(epochs=4, runs="a"))
    model = model_with(ERRORS[0])
    context = make_context(model=model, epochs=4, runs="b")
    with pytest.raises(BrokenDevice, match=r"trial 0 goes on in a new process: .*assert triggered"):
        run_one(context)
    assert context.queue.count() == {"WAITING": 1}
    second = run_one(make_context(model=model, epochs=4, runs="b"))
    assert (second["number"], second["state"]) == (0, "COMPLETE")
    assert second["value"] == undisturbed["value"]
    assert second["device_error_epoch"] == 1
    assert curves("small", storage=context.run.storage)["epoch"].tolist() == [1, 2, 3, 4]


def test_a_trial_that_gets_no_further_fails_with_the_gpus_error(make_context: MakeContext) -> None:
    model = model_with(*[RuntimeError(ASSERT)] * 2)
    for state in ("WAITING", "FAIL"):
        context = make_context(model=model)
        with pytest.raises(BrokenDevice, match="device-side assert"):
            run_one(context)  # the process is of no use in either case
        assert context.queue.count() == {state: 1}
    row = trials("small", storage=context.run.storage).iloc[0]
    assert (row["outcome"], row["reason"]) == ("failed", f"RuntimeError: {ASSERT}")
    assert "train_step" in row["traceback"]


def test_a_retraining_leaves_no_record_of_it(make_context: MakeContext) -> None:
    context = make_context(model=model_with())
    run_one(context)
    with pytest.raises(torch.AcceleratorError):
        retrain(with_errors(context, ERRORS[0]), 0)
    assert not context.run.paths.retraining("small", 0).record.exists()


def with_errors(context: WorkerContext, *errors: Exception) -> WorkerContext:
    assert issubclass(context.spec.model, Once)
    context.spec.model.errors = iter(errors)
    return context


def test_a_picture_does_not_hide_it(make_context: MakeContext) -> None:
    with pytest.raises(torch.AcceleratorError), without_picture(make_context()):
        raise torch.AcceleratorError(ASSERT)


BROKEN = {
    "model=CAE,": "model=Broken,",
    "def suggest": """import os, torch

    class Broken(CAE):
        def begin_epoch(self, number, epochs):
            super().begin_epoch(number, epochs)
            if number == 2:
                try:
                    os.close(os.open("MARK", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    return
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    def suggest""",
}


def test_a_study_goes_on_with_a_new_worker(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    code = {old: new.replace("MARK", str(tmp_path / "mark")) for old, new in BROKEN.items()}
    name = study_file(replace=code)
    code_, out, error = user.run(NAME=name, TRIALS=2, WORKERS=1, TOP=0)
    assert (code_, error) == (0, "")
    frame = trials("small", storage=user.url)
    assert frame["outcome"].tolist() == ["complete"] * 2
    assert out.count("worker 0 starts anew: cpu reported an error (") == 1
    log = (user.runs / "logs" / "small" / "worker-0.log").read_text()
    assert "trial 0 goes on in a new process: AcceleratorError: CUDA error: device-side" in log


def test_a_gpu_repeats_its_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert use_device("cuda:0") == "cuda:0 (a GPU)"
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == (True, True)
    use_device("cuda:0", fuses=True)
    assert not torch.backends.cudnn.allow_tf32, "a value would tell whether the trial was fused"
