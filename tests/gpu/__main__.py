"""Check and measure a GPU, part by part, each with a time limit; tables come last.

    tests/gpu/run                                            (on a machine with a GPU)
    python -m tests.gpu --device cpu --tiny --data data --emoji emoji --out out
    python -m tests.gpu --only steps,resume ...

Parts that check run beside each other, since they only have to be right. Parts that measure run
alone, in the order of their value. A part that fails or takes too long costs its own rows only. On
a CPU graphs are simulated, so that what a GPU records is tried too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import psutil

from tests.gpu.part import Part, Row, Settings, read_rows, write_rows

ROOT = Path(__file__).parents[2]
THREADS = {"OMP_NUM_THREADS": "2"}  # of each part that runs beside others


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A part: the module and function that do it, and its seconds at most."""

    name: str
    seconds: float
    alone: bool = False

    def load(self) -> Part:
        """Return the function that yields its rows."""
        part: Part = import_module(f"tests.gpu.{self.name}").measure
        return part


PLAN = (
    Planned(name="steps", seconds=170),
    Planned(name="recording", seconds=60),
    Planned(name="suite", seconds=120),
    Planned(name="resume", seconds=90),
    Planned(name="judging", seconds=90),
    Planned(name="exports", seconds=170),
    Planned(name="runs", seconds=150),
    Planned(name="faults", seconds=170),
    Planned(name="fused", seconds=75, alone=True),
    Planned(name="service", seconds=180, alone=True),
    Planned(name="speed", seconds=80, alone=True),
    Planned(name="packing", seconds=90, alone=True),
    Planned(name="widths", seconds=85, alone=True),
    Planned(name="profiles", seconds=60, alone=True),
)
SLOWER = 4  # times the seconds that a CPU may take in the tiny form


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="a scratch folder; by default beside --out")
    parser.add_argument("--only", default="", help="parts, with commas between them")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts")
    parser.add_argument("--beside", type=float, default=600, help="seconds for what runs together")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)  # in a process of its own
    given = parser.parse_args()
    if given.part:
        return 0 if _do_part(given) else 1
    return _do_all(given)


def _do_part(given: argparse.Namespace) -> bool:
    """Do one part in this process. Return whether all is well."""
    work = (given.work or given.out.parent) / f"work-{given.part}"
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        device=given.device,
        tiny=given.tiny,
        data=given.data.resolve(),
        emoji=given.emoji.resolve(),
        work=work.resolve(),
        out=given.out.resolve(),
    )
    part = next(each for each in PLAN if each.name == given.part)
    from tests.simulated_graphs import simulated_graphs  # PyTorch: only parts need it

    with simulated_graphs() if given.device == "cpu" else nullcontext():
        return write_rows(part.name, part.load()(settings), given.out / "rows.jsonl")


def _do_all(given: argparse.Namespace) -> int:
    given.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * given.minutes
    chosen = [each for each in PLAN if not given.only or each.name in given.only.split(",")]
    with ThreadPoolExecutor(max_workers=8) as pool:
        beside = [each for each in chosen if not each.alone]
        list(pool.map(lambda each: _start_part(each, given, deadline), beside))
    for each in chosen:
        if each.alone:
            _start_part(each, given, deadline)
    return _show_tables(given.out)


def _start_part(part: Planned, given: argparse.Namespace, deadline: float) -> None:
    """Do one part in a process group of its own, which ends with it. Its output is its log."""
    most = part.seconds if part.alone else min(part.seconds, given.beside)
    most *= SLOWER if given.device == "cpu" else 1
    left = min(most, deadline - time.monotonic())
    log = given.out / "log.txt"
    if left < 5:
        _note(given.out, part, "no time was left for it")
        return
    command = [sys.executable, "-m", "tests.gpu", *sys.argv[1:], "--part", part.name]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=os.environ | ({} if part.alone else THREADS),
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
        _end_all(process.pid)
        text, _ = process.communicate()
        _note(given.out, part, f"it was ended after {left:.0f} s")
    else:
        _end_all(process.pid)
        if process.returncode not in (0, 1) or "Traceback" in text:
            _note(given.out, part, f"it failed with code {process.returncode}: see log.txt")
    seconds = time.monotonic() - began
    whole = f"\n===== {part.name}: {seconds:.0f} s =====\n{text}"
    print(whole[-4000:] if len(whole) > 4000 else whole, flush=True)
    with log.open("a", encoding="utf-8") as out:
        out.write(whole)


def _end_all(group: int) -> None:
    """Kill a part and all that it has started: workers have sessions of their own."""
    try:
        started = psutil.Process(group).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _note(out: Path, part: Planned, what: str) -> None:
    """Add a row that says why a part is not whole."""
    write_rows(part.name, [Row(name="the part itself", found=what, ok=False)], out / "rows.jsonl")


def _show_tables(out: Path) -> int:
    """Print all rows, part by part, those that are wrong once more. Return the exit code."""
    rows = read_rows(out / "rows.jsonl")
    with (out / "table.txt").open("w", encoding="utf-8") as table:
        for part in PLAN:
            own = [row.text for name, row in rows if name == part.name]
            if own:
                table.write("\n".join([f"## {part.name}", *own, ""]) + "\n")
        bad = [f"{name}: {row.text}" for name, row in rows if row.passed is False]
        good = sum(row.passed is True for _, row in rows)
        table.write("\n".join([f"{good} checks hold, {len(bad)} do not", *bad, ""]))
    print((out / "table.txt").read_text(encoding="utf-8"))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
