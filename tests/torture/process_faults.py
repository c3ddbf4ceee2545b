"""Faults of processes and machines: killed, suspended, interrupted, without power.

Each takes the scene and its blow, and returns what it hit, or "" where there was nothing to hit.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from contextlib import suppress

import psutil

from tests.torture.journal import Harm
from tests.torture.machines import PATIENCE, Machine, send
from tests.torture.scene import Aim, Blow, Fault, Scene, wait_until

# Longer than a lease lasts without renewal, and the second look after it: another machine goes on.
TAKEN_OVER = (75.0, 95.0)
# A job that took down worker after worker is given up, as it should be: our faults have done that.
GIVEN_UP = re.compile("is given up: it took down")
AWAY = re.compile("error: cannot open ")  # the database, in the moment in which a command starts
ENDED_BY_US = {0, 130, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL}  # exit codes


def _some_worker(blow: Blow) -> psutil.Process | None:
    found = blow.machine.workers()
    return blow.chance.choice(found) if found else None


def kill_worker(scene: Scene, blow: Blow) -> str:
    worker = _some_worker(blow)
    if worker is None:
        return ""
    send([worker], signal.SIGKILL)
    return f"process {worker.pid} of machine {blow.machine.name}"


def stop_worker(scene: Scene, blow: Blow) -> str:
    return _stop_worker(scene, blow, blow.chance.uniform(1, 5))


def stop_worker_for_long(scene: Scene, blow: Blow) -> str:
    return _stop_worker(scene, blow, blow.chance.uniform(*TAKEN_OVER))


def _stop_worker(scene: Scene, blow: Blow, seconds: float) -> str:
    worker = _some_worker(blow)
    if worker is None:
        return ""
    where = f"process {worker.pid} of machine {blow.machine.name}"
    scene.journal.write(f"{where} stops for {seconds:.1f} s")
    _suspend(scene, [worker], seconds)
    return f"{where} for {seconds:.1f} s"


def _suspend(scene: Scene, processes: list[psutil.Process], seconds: float) -> None:
    send(processes, signal.SIGSTOP)
    try:
        scene.rest(seconds)
    finally:
        send(processes, signal.SIGCONT)


def kill_supervisor(scene: Scene, blow: Blow) -> str:
    if not blow.machine.is_running():
        return ""
    blow.machine.kill_supervisor()
    return f"machine {blow.machine.name}"


def interrupt(scene: Scene, blow: Blow) -> str:
    """Ctrl-C, or the SIGTERM of a cluster."""
    machine = blow.machine
    if not machine.is_running():
        return ""
    number = blow.chance.choice([signal.SIGINT, signal.SIGTERM])
    took = machine.interrupt(number)
    assert machine.run is not None
    code = machine.run.process.poll()
    where = f"machine {machine.name} by {number.name}"
    if code is None:
        scene.journal.fail(Harm.HUNG, f"{where} has not ended in {PATIENCE:.0f} s")
        machine.kill_all()
    elif code not in ENDED_BY_US:
        judge_end(scene, machine, code)
    return f"{where}, {took:.1f} s until it ended with {code}"


def judge_end(scene: Scene, machine: Machine, code: int | None) -> None:
    """Report a supervisor that has ended with an error, unless it is right to."""
    said = tail(machine)
    is_away = AWAY.search(said.splitlines()[-1] if said else "") and scene.is_held_up(within=30)
    if code != 0 and not is_away and not GIVEN_UP.search(said):
        scene.journal.fail(Harm.UNASKED, f"{machine.name} ended with code {code}: {said}")


def tail(machine: Machine, lines: int = 12) -> str:
    """Return the last lines that a supervisor has written."""
    written = machine.log.read_text(errors="replace").splitlines() if machine.log.exists() else []
    return "\n    ".join(["", *written[-lines:]])


def freeze_supervisor(scene: Scene, blow: Blow) -> str:
    run = blow.machine.run
    if run is None or not blow.machine.is_running():
        return ""
    seconds = blow.chance.uniform(2, 10)
    with suppress(psutil.NoSuchProcess):
        _suspend(scene, [psutil.Process(run.process.pid)], seconds)
    return f"machine {blow.machine.name} for {seconds:.1f} s"


def freeze_machine(scene: Scene, blow: Blow) -> str:
    """As a virtual machine that is moved."""
    seconds = blow.chance.uniform(2, 10)
    found = blow.machine.processes()
    _suspend(scene, found, seconds)
    return f"{len(found)} processes of {blow.machine.name} for {seconds:.1f} s" if found else ""


def freeze_machine_for_long(scene: Scene, blow: Blow) -> str:
    """The other machine takes over all that runs there; then it wakes up."""
    if len(scene.machines) < 2 or not (found := blow.machine.processes()):
        return ""
    seconds = blow.chance.uniform(*TAKEN_OVER)
    scene.journal.write(f"machine {blow.machine.name} freezes for {seconds:.1f} s")
    _suspend(scene, found, seconds)
    return f"machine {blow.machine.name} for {seconds:.1f} s"


def cut_power(scene: Scene, blow: Blow) -> str:
    count = blow.machine.kill_all()
    return f"{count} processes of machine {blow.machine.name}" if count else ""


def take_machine_away(scene: Scene, blow: Blow) -> str:
    """Without power for so long that the other machine goes on with all that ran there."""
    if len(scene.machines) < 2:
        return ""
    seconds = blow.chance.uniform(*TAKEN_OVER)
    blow.machine.is_off = True
    try:
        blow.machine.kill_all()
        scene.journal.write(f"machine {blow.machine.name} is off for {seconds:.1f} s")
        scene.rest(seconds)
    finally:
        blow.machine.is_off = False
    return f"machine {blow.machine.name} for {seconds:.1f} s"


def cut_power_of_everything(scene: Scene, blow: Blow) -> str:
    count = kill_everything(scene)
    return f"{count} processes" if count else ""


def kill_everything(scene: Scene) -> int:
    return sum(machine.kill_all() for machine in [*scene.machines, *scene.visitors])


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
    Fault(name="worker killed", strike=kill_worker, weight=20),
    Fault(name="worker suspended", strike=stop_worker, weight=12),
    Fault(name="worker suspended for long", strike=stop_worker_for_long, weight=1),
    Fault(name="supervisor killed", strike=kill_supervisor, weight=3, aim=Aim.MACHINE),
    Fault(name="supervisor interrupted", strike=interrupt, weight=2, aim=Aim.MACHINE),
    Fault(name="supervisor frozen", strike=freeze_supervisor, weight=4, aim=Aim.MACHINE),
    Fault(name="machine frozen", strike=freeze_machine, weight=2, aim=Aim.MACHINE, halts=True),
    Fault(name="machine frozen for long", strike=freeze_machine_for_long, weight=0.5,
          aim=Aim.MACHINE),
    Fault(name="power cut", strike=cut_power, weight=2, aim=Aim.MACHINE),
    Fault(name="machine away", strike=take_machine_away, weight=0.5, aim=Aim.MACHINE),
    Fault(name="power cut of everything", strike=cut_power_of_everything, weight=2.5,
          aim=Aim.MACHINES),
    Fault(name="second supervisor", strike=visit, weight=2),
    Fault(name="reader", strike=read, weight=5),
    Fault(name="changed code", strike=change_code, weight=1.5),
]  # fmt: skip
