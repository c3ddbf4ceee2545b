"""Guests of a running study: second supervisors, readers, and a supervisor with changed code.

Each takes the scene and its blow, and returns what it did, or "" where there was nothing to do.
"""

from __future__ import annotations

import signal
import subprocess
import time

from tests.torture.journal import Harm
from tests.torture.machines import PATIENCE, Machine
from tests.torture.process_faults import ENDED_BY_US, judge_end, tail
from tests.torture.scene import Blow, Fault, Scene, wait_until


def visit(scene: Scene, blow: Blow) -> str:
    """A second call of the command on the same machine, with one more worker: it joins in."""
    machine, chance = blow.machine, blow.chance
    shares = chance.random() < 0.5
    number = len(scene.visitors)
    visitor = Machine(
        name=f"visitor {number}",
        study=machine.study,
        runs=machine.runs if shares else machine.runs.with_name(f"{machine.runs.name}-visitor"),
        url=machine.url,
        workers_wanted=1,
        host=machine.host,
        top=machine.top if shares else 0,
        files=machine.files,
    )
    scene.visitors.append(visitor)
    visitor.start(scene.asked[-1])
    assert visitor.run is not None
    process = visitor.run.process
    ends = time.monotonic() + chance.uniform(8, 25)
    while process.poll() is None and time.monotonic() < ends and not scene.over.is_set():
        time.sleep(0.2)
    code = process.poll()
    if code is None:
        if chance.random() < 0.5:
            visitor.kill_all()
            process.wait()
        elif visitor.interrupt(signal.SIGINT) >= PATIENCE:
            scene.journal.fail(Harm.HUNG, f"{visitor.name} does not end after SIGINT")
            visitor.kill_all()
    elif code not in ENDED_BY_US:
        judge_end(scene, visitor, code)
    where = "its RUNS" if shares else "a RUNS of its own"
    return f"beside machine {machine.name} in {where}, ended with {process.poll()}"


# What reads while the study runs: a command, and the seconds that it may take once the faults rest.
READERS = {
    "trials": ["-m", "search", "trials"],
    "studies": ["-m", "search", "studies"],
    "report": ["-m", "search", "report"],
    "frames": ["-c", "import os\nfrom storage import best, curves, studies, trials\n"
               "for _ in range(20):\n"
               "    for read in (trials, curves, best):\n"
               "        try:\n"
               "            read('small', storage=os.environ['STORAGE'])\n"
               "        except Exception as error:\n"
               "            print(type(error).__name__, error)\n"],
}  # fmt: skip


def read(scene: Scene, blow: Blow) -> str:
    """Somebody looks at the study while it runs."""
    name = blow.chance.choices([*READERS], weights=[3, 2, 1, 2])[0]
    machine = blow.machine
    process = machine.launch(READERS[name], scene.folder / "readers.log")
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        scene.journal.fail(Harm.HUNG, f"{name} has not ended in {PATIENCE:.0f} s")
        process.kill()
        code = process.wait()
    return f"{name} ended with {code}"


def change_code(scene: Scene, blow: Blow) -> str:
    """A supervisor with another version of the study's file, in which one constant is changed."""
    machine = blow.machine
    place = scene.folder / "changed" / machine.study.name
    place.parent.mkdir(exist_ok=True)
    place.write_text(machine.study.read_text().replace('"latent", 2, 8', '"latent", 2, 9'))
    changed = Machine(
        name="changed",
        study=place,
        runs=machine.runs.with_name("changed-runs"),
        url=machine.url,
        workers_wanted=1,
        host=machine.host,
        files=machine.files,
    )
    scene.visitors.append(changed)
    changed.start(scene.asked[-1])
    assert changed.run is not None
    process = changed.run.process
    if not wait_until(lambda: process.poll() is not None, PATIENCE):
        changed.kill_all()
    code = process.wait()
    if code not in (2, -signal.SIGKILL):
        scene.journal.fail(Harm.MIXED, f"changed code ended with code {code}: {tail(changed)}")
    return f"ended with {code}"


FAULTS = [
    Fault(name="second supervisor", strike=visit, weight=2),
    Fault(name="reader", strike=read, weight=5),
    Fault(name="changed code", strike=change_code, weight=1.5),
]
