"""Random faults over a running study, then a verdict: what was lost, doubled or changed?

    make torture MINUTES=10              SQLite and Postgres, one machine and two, by turns, and
                                         two that share their files
    make torture MINUTES=5 DATABASE=postgres LAYOUT=2x2 SEED=1
    make torture PRUNER=asha             trials pause, and are promoted, meanwhile

Faults of processes, machines, databases and files fall on a study of short trials, several at a
time. Afterwards it is brought to its end in peace, and the same study runs undisturbed: every trial
must be there once, with the same parameters, the same learning curve and the same value. What fails
is printed at once; the folder of a turn that failed stays, and its `faults.log` says when each
fault fell.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

from search.errors import BadVariable
from search.strategies.promotion import AshaPruner
from search.words import format_count
from storage.files.identity import read_identity
from storage.paths import RunPaths
from tests.conftest import SMALL_STUDY
from tests.torture import database_faults, file_faults, guest_faults, process_faults
from tests.torture.databases import Database, SQLiteFile
from tests.torture.journal import Harm, Journal
from tests.torture.postgres import start_server
from tests.torture.scene import Fault
from tests.torture.turn import ROUND, SHORT_ROUND, STUDY, Turn
from tests.torture.undisturbed import UndisturbedRun
from tests.torture.verdict import (
    compare,
    compare_exports,
    ends_of,
    judge_promotions,
    judge_tests,
    read_finishes,
    read_kept,
)
from tests.torture.wanted import SHARING, Wanted, read

EPOCHS = 16  # of a trial: some seconds, so that most faults hit one in the middle


def main() -> int:
    try:
        wanted = read(os.environ)
    except BadVariable as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinding ends what was started
    # In the background of a shell this would ignore Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(mkdtemp(prefix="torture-"))
    folder.chmod(0o755)  # the server may run as another user
    try:
        harms = torture(wanted, folder)
    except KeyboardInterrupt:
        print(f"\nstopped; what is there is in {folder}")
        return 130
    if harms.total() == 0:
        shutil.rmtree(folder)
        print("nothing was lost, doubled or changed")
        return 0
    print(f"{format_count(harms.total(), 'failure')}; logs and RUNS are kept in {folder}")
    return 1


def torture(wanted: Wanted, folder: Path) -> Counter[Harm]:
    """Take all turns, then compare each with the undisturbed study; return what failed."""
    text = textwrap.dedent(SMALL_STUDY).replace("epochs=2, r", f"epochs={EPOCHS}, r")
    study, plain = folder / f"{STUDY}.py", folder / "undisturbed" / f"{STUDY}.py"
    plain.parent.mkdir()
    plain.write_text(text)
    study.write_text(text.replace('pruner="none"', f"pruner={wanted.pruner!r}"))
    done: list[tuple[int, Turn]] = []
    with ExitStack() as stack:
        server = None
        if "postgres" in wanted.databases:
            server = stack.enter_context(start_server(folder))
        for index, (name, layout) in enumerate(wanted.turns):
            place = folder / f"{name}-{layout}"
            place.mkdir()
            journal = Journal(place, f"{name} {layout}")
            database: Database = (
                SQLiteFile(place / "studies.db")
                if name == "sqlite" or server is None
                else server.make_database(f"turn{index}")
            )
            turn = Turn(
                place,
                study,
                database,
                layout,
                all_faults(name, has_files=layout.endswith(SHARING)),
                seed=wanted.seed,
                journal=journal,
                grows=ROUND if wanted.rungs is None else SHORT_ROUND,
            )
            done.append((turn.run(wanted.minutes / len(wanted.turns)), turn))
            print(f"{journal.turn}: {describe(journal.faults)}", flush=True)
        judge(done, plain, wanted.rungs)
    show(done)
    return sum((turn.journal.harms for _, turn in done), Counter[Harm]())


def all_faults(database: str, *, has_files: bool = False) -> list[Fault]:
    """Return the faults that can fall where the study is in this kind of database.

    has_files: whether machines share their files
    """
    own = database_faults.OF_SQLITE if database == "sqlite" else database_faults.OF_POSTGRES
    shared = file_faults.OF_SHARED_FILES if has_files else []
    return [*process_faults.FAULTS, *guest_faults.FAULTS, *file_faults.FAULTS, *shared, *own]


def judge(done: Sequence[tuple[int, Turn]], study: Path, rungs: AshaPruner | None) -> None:
    """Run the study undisturbed, to as many trials as each turn has, and compare.

    rungs: where trials pause; the undisturbed ones do not, so that each has all its epochs
    """
    peace = UndisturbedRun(study)
    for count, turn in sorted(done, key=lambda each: each[0]):
        journal, url = turn.journal, turn.scene.database.url
        journal.show(f"{count} trials run undisturbed")
        if not peace.run(count):
            journal.fail(Harm.TORTURE, f"the undisturbed run has failed; see {peace.machine.log}")
        compare(read_kept(STUDY, url), peace.read(), count, journal, ends=ends_of(rungs, EPOCHS))
        judge_promotions(url, rungs, journal)
        finished = read_finishes(url)
        judge_tests(finished, journal)
        exporters = {finish.runs for finish in finished if finish.result is not None}
        holders = [
            machine.runs
            for machine in turn.scene.machines
            if machine.files is not None  # then all of them have the export
            or read_identity(RunPaths(machine.runs).finishing_identity(STUDY)) in exporters
        ]
        for runs in holders:
            export = RunPaths(runs).export(STUDY, 1)
            compare_exports(export, peace.find_export_like(export, count), journal)
        if not holders:
            journal.fail(Harm.LOST, "no machine has exported the best")


def show(done: Sequence[tuple[int, Turn]]) -> None:
    """Print what fell and what came of it."""
    for count, turn in done:
        journal = turn.journal
        shown = [harm for harm in Harm if harm is not Harm.TORTURE or journal.harms[harm]]
        words = ", ".join(f"{journal.harms[harm]} {harm}" for harm in shown)
        faults = format_count(journal.faults.total(), "fault")
        print(f"{journal.turn}: {faults}, {format_count(count, 'trial')}: {words}")
    total = sum((turn.journal.faults for _, turn in done), Counter[str]())
    print(f"{format_count(total.total(), 'fault')}: {describe(total)}")


def describe(faults: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in faults.most_common())


if __name__ == "__main__":
    sys.exit(main())
