"""A process of ours begins early, and nothing of that changes what it computes."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.fast_imports import quick_imports
from search.supervisor import process

# An interpreter that has put the compiler off, and forks for each script.
DEFERRED = """
import json, os, sys, traceback
import torch
from search.fast_imports import defer_compiler
defer_compiler()
def has_compiler():
    return "torch._dynamo.eval_frame" in sys.modules
for line in sys.stdin:
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.dup2(write, 1)
        try:
            exec(json.loads(line))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    os.close(write)
    with open(read) as output:
        printed = output.read()
    print(json.dumps([os.waitpid(pid, 0)[1], printed.strip()]), flush=True)
"""


class Deferred:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", DEFERRED],
            env={**os.environ, **process.ONE_THREAD},  # it forks
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str) -> str:
        """Return what ``script`` prints."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(script), file=self.process.stdin, flush=True)
        status, printed = json.loads(self.process.stdout.readline())
        assert status == 0, "its traceback is in standard error"
        return printed


@pytest.fixture(scope="module")
def deferred() -> Iterator[Deferred]:
    made = Deferred()
    yield made
    made.process.communicate(timeout=60)


def test_training_does_not_load_the_compiler(deferred):
    script = """
from models.base import Batch, build
from models.cae import CAE, CAEConfig
model = build(CAE, CAEConfig(channels=2), (1, 12, 12), seed=0)
model.train_step(Batch(images=torch.rand(4, 1, 12, 12)))
model.optimizers["all"].load_state_dict(model.optimizers["all"].state_dict())
print(has_compiler())
"""
    assert deferred.run(script) == "False"


@pytest.mark.parametrize(
    "use",
    [
        "assert torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(1)).item() == 2",
        "torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))",
        "import torch._dynamo.config",
        "from torch._dynamo import disable",
        "torch._dynamo.reset()",
    ],
)
def test_whoever_needs_the_compiler_gets_it(deferred, use):
    """Also with an optimiser that was made, and used, before."""
    script = f"""
weight = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.Adam([weight])
weight.sum().backward()
optimizer.step()
assert not has_compiler()
{use}
optimizer.step()
optimizer.zero_grad()
print(has_compiler(), type(sys.modules["torch._dynamo"]).__name__)
"""
    assert deferred.run(script) == "True module"


def test_deferring_twice_or_too_late_changes_nothing(deferred):
    script = """
defer_compiler()
torch._dynamo.reset()
loaded = sys.modules["torch._dynamo"]
defer_compiler()
print(sys.modules["torch._dynamo"] is loaded is torch._dynamo)
"""
    assert deferred.run(script) == "True"


def test_a_study_is_checked_without_the_compiler(deferred):
    script = """
from search.setup.checks import check_fit
from search.setup.loading import load_study
from models.data.images import Images, ImageSplits
part = Images(pixels=torch.zeros(4, 1, 28, 28, dtype=torch.uint8))
images = ImageSplits(name="a", fingerprint="a", train=part, valid=part, test=part)
check_fit(load_study("cae"), images.shape, images)
print(has_compiler() or "sympy" in sys.modules)
"""
    assert deferred.run(script) == "False"


def test_garbage_is_collected_again_after_quick_imports():
    def fail() -> None:
        assert not gc.isenabled()
        raise KeyError

    with pytest.raises(KeyError), quick_imports():
        fail()
    assert gc.isenabled()


def test_the_early_process_becomes_the_first_worker(tmp_path: Path) -> None:
    process.start_early()
    (early,) = process._early
    first = process.start_process(tmp_path / "first.log")
    second = process.start_process(tmp_path / "second.log")
    try:
        assert first is early
        assert second is not early
    finally:
        for started in (first, second):
            started.communicate()  # the end of its input ends it
    assert (first.returncode, second.returncode) == (0, 0)
    assert (tmp_path / "second.log").exists()


@pytest.fixture
def light_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that import nothing, and end with their input, where only their process counts."""
    monkeypatch.setattr(process, "WORKER", (sys.executable, "-c", "import sys; sys.stdin.read()"))


@pytest.mark.usefixtures("light_workers")
def test_an_early_process_that_died_is_not_used(tmp_path: Path) -> None:
    process.start_early()
    (early,) = process._early
    early.kill()
    early.communicate()
    started = process.start_process(tmp_path / "worker.log")
    assert started is not early
    started.communicate()
    assert started.returncode == 0


@pytest.mark.usefixtures("light_workers")
def test_an_early_process_that_nobody_wants_is_ended():
    process.start_early()
    (early,) = process._early
    process.end_early()
    assert early.returncode is not None
    assert process._early == []
