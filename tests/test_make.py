"""The front door: targets, variables and what the README promises."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

import search.variables
from tests.test_house import ARROWS

ROOT = Path(__file__).parent.parent


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make with the environment that runs these tests, so that nothing is installed."""
    return subprocess.run(
        ["make", "--no-print-directory", *words, f"VENV={Path(sys.executable).parent.parent}"],
        env={**os.environ, **environment},
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=False,
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def installed() -> None:
    """Make must find the environment current, as `make test` left it."""
    assert make("--question", "install").returncode == 0, "run the tests with: make test"


def test_help_lists_every_target_and_variable() -> None:
    done = make("help")
    assert done.returncode == 0
    for target in (
        "study",
        "worker",
        "status",
        "studies",
        "trials",
        "replay",
        "simulate",
        "look",
        "sample",
        "report",
        "compare",
        "dashboard",
        "test",
        "torture",
        "bench",
        "check",
        "clean",
    ):
        assert f"make {target} " in done.stdout
    for name in search.variables.VARIABLES:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("columns", ["80", "150"])
def test_help_fits_the_terminal_and_needs_no_environment(columns: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "help", f"VENV={tmp_path}/venv"],
        env={**os.environ, "COLUMNS": columns},
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=True,
    )  # fmt: skip
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    assert "RETRAIN_EPOCHS" in done.stdout
    assert not list(tmp_path.iterdir())


def test_help_without_python_lists_the_commands_and_says_what_is_missing(tmp_path: Path) -> None:
    for tool in ("make", "bash", "sh", "sed", "awk", "cksum", "tr", "cat"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    done = subprocess.run(
        ["make", "help", f"VENV={tmp_path}/venv"],
        env={"PATH": str(tmp_path)},
        capture_output=True, text=True, cwd=ROOT, timeout=100, check=True,
    )  # fmt: skip
    assert "  make study " in done.stdout
    assert "Python 3.11 or later lists them; none is on PATH" in done.stdout


def test_help_imports_the_standard_library_alone() -> None:
    program = "import search.variables; print(search.variables.describe_variables(80))"
    without_packages = [sys.executable, "-S", "-c", program]
    done = subprocess.run(
        without_packages, capture_output=True, text=True, cwd=ROOT, timeout=100, check=True
    )
    assert "NAME" in done.stdout


def test_studies_lists_what_there_is(tmp_path: Path) -> None:
    done = make("studies", f"RUNS={tmp_path}")
    assert done.returncode == 0
    assert re.search(r"cae +fashion_mnist +50 +Reconstruction error", done.stdout)


def test_a_misspelt_variable_is_refused(tmp_path: Path) -> None:
    done = make("study", "NAME=cae", "TRAILS=5", f"RUNS={tmp_path}")
    assert done.returncode == 2
    assert "unknown variable 'TRAILS'" in done.stderr
    assert "did you mean 'TRIALS'?" in done.stderr


def test_an_address_reaches_python_as_typed_and_no_other_child(tmp_path: Path) -> None:
    secret = "pa$word"
    url = f"postgresql://me:{secret}@127.0.0.1:1/nothing"
    done = make("studies", f"STORAGE={url}")
    assert done.returncode == 2
    assert secret not in done.stdout + done.stderr
    assert "STORAGE=file:PATH" in done.stderr  # the warning
    assert "cannot open postgresql://me:***@127.0.0.1:1/nothing" in done.stderr
    hook = f"https://hooks.example/{secret}"
    words = (f"STORAGE={url}", f"NOTIFY={hook}", f"WARM={url}#x", "RUNS=r")
    seen = make("seen", *words, "--eval", "seen:;@printenv")
    (given,) = [line for line in seen.stdout.splitlines() if line.startswith("GENSTUDY_GIVEN=")]
    assert set(given.partition("=")[2].split()) == {"NOTIFY", "RUNS", "STORAGE", "WARM"}
    assert secret not in seen.stdout
    odd = make("trials", "NAME=x", f"STORAGE=sqlite:///{tmp_path}/{secret}$$(echo no).db")
    assert f"no trial database at {tmp_path}/{secret}$$(echo no).db" in odd.stderr
    exported = make("trials", "NAME=x", STORAGE=f"sqlite:///{tmp_path}/{secret}.db")
    assert f"no trial database at {tmp_path}/{secret}.db" in exported.stderr


def test_a_path_of_any_characters_arrives_as_typed(tmp_path: Path) -> None:
    odd = """a b/$x/$(shell echo no)/#1/50%/it's "q"/:?*/é/line\nline"""
    seen = make(
        "seen", f"DATA=folder:{odd}", f"RUNS={odd}", "CSV=a$$b", "NAME=/s,(t)=u.py",
        "--eval", "seen:;@printenv DATA RUNS CSV NAME",
    )  # fmt: skip
    assert seen.stdout == f"folder:{odd}\n{odd}\na$b\n/s,(t)=u.py\n"
    exported = make("seen", "--eval", "seen:;@printenv RUNS", RUNS=odd)
    assert exported.stdout == f"{odd}\n"


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


def test_the_environment_has_the_command_and_the_module(tmp_path: Path) -> None:
    python = Path(sys.executable)
    for words in ([python.parent / "genstudy"], [python, "-P", "-m", "genstudy"]):
        done = subprocess.run(
            [*words, "--version"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith("genstudy "), done.stderr


def readmes() -> list[Path]:
    rooms = [ROOT / room for room in ("search", "models", "storage", "tests")]
    return [ROOT / "README.md", *(path for room in rooms for path in room.rglob("README.md"))]


@pytest.mark.parametrize("readme", readmes(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_picture_of_a_readme_is_there(readme: Path) -> None:
    text = re.sub(r"```.*?```", "", readme.read_text(), flags=re.DOTALL)
    links = re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', text)
    for place, _, heading in ((link or source).partition("#") for link, source in links):
        target = (readme.parent / place) if place else readme
        assert target.exists(), f"{place} is not there"
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
            assert heading in slugs


@pytest.mark.parametrize("folder", ["search", "models", "storage", "tests"])
def test_the_readmes_name_every_file_of_a_room_and_no_other(folder: str) -> None:
    room = ROOT / folder
    words: dict[Path, set[str]] = {}  # file names that a README names, with * where it has one
    for readme in (path for path in readmes() if path.is_relative_to(room)):
        words[readme.parent] = set(re.findall(r"`(\w+\*?\.py)`", readme.read_text()))
    for path in room.rglob("*.py"):
        nearest = next(parent for parent in path.parents if parent in words)
        named = any(fnmatch(path.name, word) for word in words[nearest])
        assert named or path.name == "__init__.py", f"{nearest}/README.md does not name {path}"
    for place, names in words.items():
        for name in names:
            assert next(place.rglob(name), None), f"{place}/README.md names {name}: not there"


@pytest.mark.parametrize("room", ARROWS)
def test_the_readmes_draw_the_arrows_that_hold(room: str) -> None:
    text = (
        (ROOT / room / "README.md").read_text().partition("(`tests/test_house.py` checks it):\n")[2]
    )
    drawn = re.match(r"\n((?: {4}.*\n)+)", text)
    assert drawn
    lines = [line.replace("/", "").split() for line in drawn[1].splitlines()]
    assert lines == [list(level) for level in ARROWS[room]]


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_public_names_are_locked() -> None:
    import storage

    assert sorted(storage.__all__) == ["best", "choices", "curves", "studies", "trials"]
    assert set(storage.__all__) <= set(dir(storage))
    for name in storage.__all__:
        assert callable(getattr(storage, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = storage.nothing
