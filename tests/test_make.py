"""The front door: targets, variables and what the README promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import search.variables

ROOT = Path(__file__).parent.parent


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make with the environment that runs these tests, so that nothing is installed."""
    return subprocess.run(
        ["make", "--no-print-directory", *words, f"VENV={Path(sys.executable).parent.parent}"],
        env={**os.environ, **environment},
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def installed() -> None:
    """Make must find the environment current, as `make test` left it."""
    assert make("--question", "install").returncode == 0, "run the tests with: make test"


def test_help_lists_every_target_and_variable() -> None:
    done = make("help")
    assert done.returncode == 0
    for target in (
        "study",
        "studies",
        "trials",
        "report",
        "dashboard",
        "test",
        "bench",
        "check",
        "clean",
    ):
        assert f"make {target} " in done.stdout
    for name in search.variables.VARIABLES:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)


def test_studies_lists_what_there_is(tmp_path: Path) -> None:
    done = make("studies", f"RUNS={tmp_path}")
    assert done.returncode == 0
    assert re.search(r"cae +fashion_mnist +50 +0 ", done.stdout)


def test_a_misspelt_variable_is_refused(tmp_path: Path) -> None:
    done = make("study", "NAME=cae", "TRAILS=5", f"RUNS={tmp_path}")
    assert done.returncode == 2
    assert "unknown variable 'TRAILS'" in done.stderr
    assert "did you mean 'TRIALS'?" in done.stderr


def test_a_dollar_in_a_password_arrives_as_typed(tmp_path: Path) -> None:
    url = "postgresql://me:pa$word@127.0.0.1:1/nothing"
    done = make("studies", f"STORAGE={url}", "--eval", "seen:;@printenv STORAGE GENSTUDY_GIVEN")
    seen = make("seen", f"STORAGE={url}", "--eval", "seen:;@printenv STORAGE GENSTUDY_GIVEN")
    assert seen.stdout.splitlines() == [url, "STORAGE"]
    assert done.returncode == 2
    assert "pa$word" not in done.stderr


def test_names_that_shells_export_count_only_on_the_command_line(tmp_path: Path) -> None:
    done = make("trials", f"RUNS={tmp_path}", NAME="wsl-hostname")
    assert done.returncode == 2
    assert "NAME is not set" in done.stderr


LOCKS = ("requirements.lock", "tests/benchmarks/requirements.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_the_locks_have_hashes_and_no_hosts(name: str) -> None:
    lock = (ROOT / name).read_text()
    pinned = re.findall(r"^[A-Za-z0-9._-]+==", lock, re.MULTILINE)
    assert len(pinned) > 50
    assert lock.count("--hash=sha256:") > len(pinned)
    assert "://" not in lock
    assert not re.search(r"^ *--(extra-)?index-url", lock, re.MULTILINE)
    assert not re.search(r"(^|[\s=])/", lock), "a path of one machine"


def test_the_peers_change_no_version_that_the_tests_run_with() -> None:
    ours, with_peers = (
        dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in LOCKS
    )
    different = {name for name, version in ours.items() if with_peers.get(name) != version}
    assert not different, "pin both anew: make lock"


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_public_names_are_locked() -> None:
    import storage

    assert sorted(storage.__all__) == ["best", "choices", "curves", "studies", "trials"]
    for name in storage.__all__:
        assert callable(getattr(storage, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = storage.nothing
