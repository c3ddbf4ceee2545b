"""Faults of processes and machines: killed, suspended, interrupted, without power.

Each takes the scene and its blow, and returns what it hit, or "" where there was nothing to hit.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.torture.journal import Harm
from tests.torture.machines import PATIENCE, Machine, send
from tests.torture.scene import Aim, Blow, Fault, Scene

# Longer than a lease lasts without renewal, and the second look after it: another machine goes on.
TAKEN_OVER = (75.0, 95.0)
# A job that killed several workers in a row is given up, as it should be: our faults did that.
GIVEN_UP = re.compile("is given up: it killed")
# The database or FILES, in the moment in which a command starts.
AWAY = re.compile("error: (cannot open |.*FILES=)")
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
    machine, run = blow.machine, blow.machine.run  # which is another as soon as this one has ended
    if run is None or not machine.is_running():
        return ""
    number = blow.chance.choice([signal.SIGINT, signal.SIGTERM])
    took = machine.interrupt(number)
    code = run.process.poll()
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


def _heavy(
    name: str,
    strike: Callable[[Scene, Blow], str],
    weight: float,
    *,
    aim: Aim = Aim.MACHINE,
    halts: bool = False,
) -> Fault:
    return Fault(name=name, strike=strike, weight=weight, aim=aim, halts=halts, is_heavy=True)


FAULTS = [
    Fault(name="worker killed", strike=kill_worker, weight=16, is_heavy=True),
    Fault(name="worker suspended", strike=stop_worker, weight=10),
    Fault(name="worker suspended for long", strike=stop_worker_for_long, weight=1),
    _heavy("supervisor killed", kill_supervisor, 4),
    _heavy("supervisor interrupted", interrupt, 3),
    _heavy("supervisor frozen", freeze_supervisor, 4),
    _heavy("machine frozen", freeze_machine, 2, halts=True),
    _heavy("machine frozen for long", freeze_machine_for_long, 0.5),
    _heavy("power cut", cut_power, 3),
    _heavy("machine away", take_machine_away, 0.5),
    _heavy("power cut of everything", cut_power_of_everything, 3, aim=Aim.MACHINES),
]
