"""The command line behind make: ``python -m search COMMAND`` with variables in the environment.

    study       run a study, retrain and export its best       NAME=cae python -m search study
    worker      join a stored study: train its trials here     NAME=cae STORAGE=...
    studies     list the studies, their data and how far each one is
    trials      show the leaderboard; CSV= or PARQUET= writes the table
    status      say who runs what on which machine, and what is left
    replay      train a trial again from its record, and compare      NAME=cae TRIAL=7
    simulate    play the stored curves with another pruner      NAME=cae PRUNER=asha
    look        say what a folder of images holds, and draw a contact sheet
    sample      make images with an export                     NAME=cae N=64
    report      write a page with pictures about a study
    compare     say which of several studies found the better winner, and at which cost
    dashboard   serve optuna-dashboard with the pictures
    trainer     run one training process (`study` and `worker` start it)

A mistake of the user is one line on standard error and exit code 2; Ctrl-C is exit code 130.
"""

from __future__ import annotations

from search.interrupts import (
    end_silently_on_ctrl_c,
    heed_ctrl_c,
    leave_when_told,
    was_ctrl_c,
)

if __name__ == "__main__":
    end_silently_on_ctrl_c()

import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import NamedTuple

from search.console import OutputClosed
from search.errors import explain_error, unknown_name
from search.fast_imports import defer_compiler, quick_imports
from search.passwords import hide_password, received_storage
from search.supervisor.process import end_early, start_early
from search.surroundings import (
    check_room,
    explain_shortage,
    open_standard_files,
    use_utf8,
)
from search.variables import read_variables
from search.words import show_text


class Command(NamedTuple):
    """Where a command is found, and how it begins.

    module, function: what runs it
    also: what it imports later, or its workers do, for `check_room`
    loads_torch: whether its imports take so long that they are made quick
    trains: whether it makes optimisers: torch's compiler, which they import, is put off
    starts_workers: whether a process for its first worker gets ready while it imports
    """

    module: str
    function: str
    also: str = ""
    loads_torch: bool = False
    trains: bool = False
    starts_workers: bool = False

    def load(self) -> Callable[[], int]:
        """Import the command; each loads only what it needs.

        A mistake in the variables is said before torch is imported, which takes seconds.
        """
        if self.starts_workers:
            start_early()
        if self.loads_torch:
            read_variables()
        with quick_imports() if self.loads_torch else nullcontext():
            module = import_module(self.module)
        if self.trains:
            defer_compiler()
        run: Callable[[], int] = getattr(module, self.function)
        return run


TRAINER = "trainer"  # what `study` and `worker` start
COMMANDS = {
    "study": Command(
        "search.cli.study", "run_study", "search.worker.main",
        loads_torch=True, trains=True, starts_workers=True,
    ),
    "worker": Command(
        "search.cli.worker", "run_worker", "search.worker.main",
        loads_torch=True, trains=True, starts_workers=True,
    ),
    "status": Command("search.cli.status", "status", "pandas"),
    "studies": Command("search.cli.listing", "studies", "pandas"),
    "trials": Command("search.cli.listing", "trials", "pandas"),
    "replay": Command("search.cli.replay", "replay", loads_torch=True, trains=True),
    "simulate": Command("search.cli.simulate", "simulate", "pandas"),
    "look": Command("search.cli.look", "look", loads_torch=True),
    "sample": Command("search.cli.sample", "sample", loads_torch=True),
    "report": Command("search.cli.report", "report", "pandas"),
    "compare": Command("search.cli.compare", "compare", "pandas"),
    "dashboard": Command("search.cli.dashboard", "dashboard"),
}  # fmt: skip


def main(arguments: list[str]) -> int:
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own has no meaning here: nothing is displayed
    # otherwise OpenBLAS starts a useless thread for each core when it is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if len(arguments) != 1 or arguments[0] not in (*COMMANDS, TRAINER):
        if len(arguments) == 1 and not arguments[0].startswith("-"):
            print(f"error: {unknown_name('command', arguments[0], COMMANDS)}", file=sys.stderr)
        else:
            print(__doc__, file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    return trainer() if arguments[0] == TRAINER else command(arguments[0])


def trainer() -> int:
    with quick_imports():
        import alembic.command  # noqa: F401  (Optuna opens storages with it: now there is time)

        from search.worker.main import main as work
    defer_compiler()
    code = work()
    logging.shutdown()
    os._exit(code)  # all is written, and unloading torch's modules would take a second or two


def command(name: str) -> int:
    """Run a command and return its exit code; an error that a user can mend becomes one line."""
    heed_ctrl_c()
    if name == "worker":
        leave_when_told()
    try:
        found = COMMANDS[name]
        check_room(*filter(None, (found.module, found.also)))
        with received_storage():
            return found.load()()
    except KeyboardInterrupt:
        return 130
    except (BrokenPipeError, OutputClosed):
        return 0  # the reader, such as `head`, has seen enough
    except Exception as error:
        if was_ctrl_c():  # what it interrupted has made another error of it
            return 130
        message = explain_shortage(error) or explain_error(error)
        if message is None:
            raise
        print(f"error: {show_text(message)}", file=sys.stderr)
        return 2
    finally:
        end_early()


if __name__ == "__main__":
    use_utf8()
    open_standard_files()  # before others open files
    hide_password()
    sys.exit(main(sys.argv[1:]))
