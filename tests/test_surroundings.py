"""What lies around a process: output that is full or closed, limits, encodings of names.

Most of it is the interpreter's own, so that the commands here are new interpreters.
"""

from __future__ import annotations

import ast
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from subprocess import PIPE
from typing import IO

import pytest
from PIL import Image

from models.data.decoding import read_header
from search import interrupts
from search.__main__ import command
from search.console import OutputClosed, OutputFile, OutputFull, open_console
from search.errors import explain_error
from search.interrupts import end_silently_on_ctrl_c, heed_ctrl_c, was_ctrl_c
from search.surroundings import explain_shortage
from tests.user import User, WriteStudy

ROOT = Path(__file__).parent.parent
FULL = Path("/dev/full")  # takes nothing: the disk is full


def run_here(
    command: str,
    environment: dict[str, str],
    *,
    out: IO[str] | int = subprocess.PIPE,
    limit: Callable[[], None] | None = None,
    cwd: Path = ROOT,
) -> subprocess.CompletedProcess[str]:
    """Run a command in a new interpreter that `limit` has prepared."""
    return subprocess.run(
        [sys.executable, "-m", "search", command],
        env={**environment, "PYTHONPATH": str(ROOT), "GPUS": "none"},
        cwd=cwd, stdout=out, stderr=subprocess.PIPE, text=True, preexec_fn=limit, check=False,
        encoding="utf-8",
    )  # fmt: skip


def limit_addresses(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


def test_a_table_that_finds_no_space_says_so(plain_process: dict[str, str], tmp_path: Path) -> None:
    with FULL.open("w") as full:
        done = run_here("studies", {**plain_process, "RUNS": str(tmp_path)}, out=full)
    assert done.returncode == 2
    line = "error: cannot write to standard output (No space left on device); make room where it"
    assert done.stderr == f"{line} goes, then run again\n"


def test_a_study_loses_lines_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with FULL.open("w") as full, redirect_stdout(full):
        console = open_console(loses_lines=True)
        console.print("trial 1")
        console.print("trial 2")
    said = capsys.readouterr().err
    assert said == (
        "cannot write to standard output (No space left on device): its lines are lost, and the "
        "study goes on\n"
    )


def test_output_that_is_no_disk_keeps_its_errors(tmp_path: Path) -> None:
    place = tmp_path / "read"
    place.touch()
    with place.open() as only_read:
        file = OutputFile(only_read.fileno(), loses_lines=True)
        with pytest.raises(OSError, match="Bad file descriptor"):
            file.write(b"trial 1")
    with FULL.open("w") as full:
        file = OutputFile(full.fileno(), loses_lines=False)
        with pytest.raises(OutputFull):
            file.write(b"trial 1")


def test_a_reader_that_has_seen_enough_is_told_apart() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody, redirect_stdout(nobody):
        console = open_console()
        with pytest.raises(OutputClosed):
            console.print("trial 1")
        console.print("trial 2")  # nobody reads it


def test_a_study_whose_reader_leaves_gives_its_trial_back(
    user: User, study_file: WriteStudy
) -> None:
    process = user.start(NAME=study_file(), TRIALS=400, WORKERS=1, TOP=0)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.wait(60)
    assert process.stderr is not None
    line = process.stderr.read()
    process.stderr.close()
    assert process.returncode == 2
    assert line == (
        "error: standard output was closed, by `head`, say: the study has stopped; the same "
        "command goes on from here\n"
    )
    from storage import trials

    assert "RUNNING" not in set(trials("small", storage=user.url)["state"])


def test_closed_output_is_nobodys_database(plain_process: dict[str, str], tmp_path: Path) -> None:
    def close() -> None:
        os.close(1)

    done = run_here("studies", {**plain_process, "RUNS": str(tmp_path)}, limit=close)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("command", "size"), [("study", 2**31), ("studies", 150 * 2**20)])
def test_a_limit_on_memory_is_one_line(
    plain_process: dict[str, str], tmp_path: Path, command: str, size: int
) -> None:
    given = {**plain_process, "RUNS": str(tmp_path), "NAME": "cae"}
    done = run_here(command, given, limit=limit_addresses(size))
    assert done.returncode == 2
    assert done.stderr.startswith("error: this shell limits the memory of a process to ")
    assert done.stderr.count("\n") == 1
    assert "ulimit -v unlimited" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_limit_nothing_is_a_shortage(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ImportError("libtorch_cpu.so: failed to map segment from shared object")
    assert explain_shortage(error) is None
    monkeypatch.setattr("search.surroundings.memory_limit", lambda: 2**30)
    assert "1 GiB (ulimit -v)" in str(explain_shortage(error))
    assert explain_shortage(ValueError("wrong")) is None


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (RuntimeError("env.cc:327 pthread_create failed, error code: 11"), "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files", "/data/a.png"), "ulimit -n"),
    ],
)
def test_a_limit_of_the_system_is_one_line_with_what_lifts_it(error: Exception, fix: str) -> None:
    line = str(explain_error(error))
    assert fix in line
    assert "fewer WORKERS" in line
    assert explain_error(RuntimeError("wrong")) is None


def test_a_file_is_not_damaged_where_no_more_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(OSError, match="Too many"):
        read_header(tmp_path / "a.png")


def test_names_are_utf8_also_where_python_is_told_ascii(
    plain_process: dict[str, str], tmp_path: Path
) -> None:
    runs = tmp_path / "résultats"
    in_ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = run_here("trials", {**plain_process, **in_ascii, "RUNS": str(runs), "NAME": "cae"})
    assert done.stderr.startswith(f"error: no trial database at {runs}/studies.db; ")


def test_a_folder_whose_name_is_no_utf8_is_refused_with_that_reason(
    plain_process: dict[str, str], tmp_path: Path
) -> None:
    place = tmp_path / os.fsdecode(b"caf\xe9")
    place.mkdir()
    given = {name: text for name, text in plain_process.items() if name != "RUNS"}
    done = run_here("study", {**given, "NAME": "cae"}, cwd=place)
    assert done.returncode == 2
    assert done.stderr.startswith("error: RUNS lies in the current folder, whose path ")
    assert done.stderr.endswith(
        r"caf\udce9/runs' is not UTF-8 text; rename that folder, or give RUNS another place" + "\n"
    )
    assert list(place.iterdir()) == []


IMPORTING = """
from search.interrupts import end_silently_on_ctrl_c, heed_ctrl_c
end_silently_on_ctrl_c()
print("imports", flush=True)
import time
time.sleep(60)
"""


def test_ctrl_c_while_a_command_imports_is_no_traceback() -> None:
    words = [sys.executable, "-c", IMPORTING]
    with subprocess.Popen(words, stdout=PIPE, stderr=PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT


def test_ctrl_c_is_settled_before_anything_large_is_imported() -> None:
    tree = ast.parse((ROOT / "search" / "__main__.py").read_text())
    imported = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert imported[:2] == ["__future__", "search.interrupts"]


def test_ctrl_c_is_heeded_again_unless_a_shell_has_it_ignored() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        end_silently_on_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        heed_ctrl_c()
        assert not was_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert was_ctrl_c()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end_silently_on_ctrl_c()
        heed_ctrl_c()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        interrupts._interruptions.clear()


def test_an_error_that_ctrl_c_became_is_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of a module in C makes "initialization failed" of it."""

    def fail() -> int:
        raise ImportError("initialization failed")

    monkeypatch.setattr("search.__main__.Command.load", lambda self: fail)
    with pytest.raises(ImportError):
        command("studies")
    monkeypatch.setattr(interrupts, "_interruptions", [signal.SIGINT])
    assert command("studies") == 130
