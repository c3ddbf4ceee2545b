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
from search.words import show_text

COMMANDS = (
    "study", "worker", "status", "studies", "trials", "replay", "simulate", "look", "sample",
    "report", "compare", "dashboard", "trainer",
)  # fmt: skip
# What a command imports, for `check_room`: a study's workers import no less than itself.
IMPORTED = {
    "study": ("search.cli.study", "search.worker.main"),
    "worker": ("search.cli.worker", "search.worker.main"),
    "status": ("search.cli.status", "pandas"),
    "studies": ("search.cli.listing", "pandas"),
    "trials": ("search.cli.listing", "pandas"),
    "replay": ("search.cli.replay",),
    "simulate": ("search.cli.simulate", "pandas"),
    "look": ("search.cli.look",),
    "sample": ("search.cli.sample",),
    "report": ("search.cli.report", "pandas"),
    "compare": ("search.cli.compare", "pandas"),
    "dashboard": ("search.cli.dashboard",),
}


def main(arguments: list[str]) -> int:
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own has no meaning here: nothing is displayed
    # otherwise OpenBLAS starts a useless thread for each core when it is imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        if len(arguments) == 1 and not arguments[0].startswith("-"):
            offered = [name for name in COMMANDS if name != "trainer"]
            print(f"error: {unknown_name('command', arguments[0], offered)}", file=sys.stderr)
        else:
            print(__doc__, file=sys.stderr)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    return trainer() if arguments[0] == "trainer" else command(arguments[0])


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
        check_room(*IMPORTED[name])
        with received_storage():
            return _find_command(name)()
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


def _find_command(name: str) -> Callable[[], int]:
    """Import a command; each loads only what it needs."""
    if name == "study":
        start_early()
        with quick_imports():
            from search.cli.study import run_study
        defer_compiler()
        return run_study
    if name == "worker":
        start_early()
        with quick_imports():
            from search.cli.worker import run_worker
        defer_compiler()
        return run_worker
    if name == "status":
        from search.cli.status import status

        return status
    if name == "dashboard":
        from search.cli.dashboard import dashboard

        return dashboard
    if name == "replay":
        with quick_imports():
            from search.cli.replay import replay
        defer_compiler()
        return replay
    if name == "simulate":
        from search.cli.simulate import simulate

        return simulate
    if name == "look":
        with quick_imports():
            from search.cli.look import look
        return look
    if name == "sample":
        with quick_imports():
            from search.cli.sample import sample
        return sample
    if name == "report":
        from search.cli.report import report

        return report
    if name == "compare":
        from search.cli.compare import compare

        return compare
    from search.cli import listing

    return {"studies": listing.studies, "trials": listing.trials}[name]


if __name__ == "__main__":
    use_utf8()
    open_standard_files()  # before others open files
    hide_password()
    sys.exit(main(sys.argv[1:]))
