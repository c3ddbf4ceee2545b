"""`make simulate NAME=cae PRUNER=asha`: what a study would have cost and found, without training.

    make simulate NAME=cae PRUNER=asha WORKERS=16         # another pruner, more workers
    make simulate NAME=cae TRIALS=50 EPOCHS=10            # a smaller budget
    make simulate NAME=tests/benchmarks/curves/cae.parquet PRUNER=hyperband

The stored full curves of the study are played in 20 random orders (SEED draws others), each epoch
with its recorded seconds, by the real pruner. Trials that were pruned have short curves and are
left out. Of several goals, what counts is the share of the hypervolume of all full curves that the
complete trials dominate. CSV=path and PARQUET=path write a row a setting and order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import optuna
from rich.console import Console

from search.cli.frame_files import check_targets, write_frame
from search.console import is_live, open_console, print_line
from search.errors import BadVariable
from search.goals import Goal
from search.simulation.curve_file import read_curve_file
from search.simulation.orders import ORDERS, Outcome, Setting, as_it_ran, play_orders
from search.simulation.stored_curves import StoredCurves, read_curves
from search.simulation.table import outcome_frame, outcome_table
from search.strategies.pruners import NAMES, make_pruner
from search.trials.stored_names import find_stored_name
from search.variables import Variables, read_variables
from search.words import format_count, format_duration
from storage.frames import database_url

ANY_ORDER = ("random", "qmc", "grid", "brute_force")  # samplers that learn nothing from trials
FEW = 9  # full curves; of fewer, asha sends two at most past its first rung
LINE_EVERY = 30.0  # seconds between two lines of a log


def simulate() -> int:
    """Play the study NAME as PRUNER, TRIALS, EPOCHS and WORKERS say, and show what came of it."""
    console, variables = open_console(), read_variables()
    name = variables.need_name("simulate")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    check_targets(variables, first="setting")
    stored = _read(name, variables)
    stored.check()
    setting = choose_setting(stored, variables)
    settings = [setting]
    if setting.pruner != "none":
        settings.insert(0, replace(setting, pruner="none"))
    for line in describe(stored, setting):
        print_line(console, line)
    played = [(each.title, _play(console, stored, each, variables.seed or 0)) for each in settings]
    ran = f"as it ran: {stored.about.pruner}"
    rows = [(ran, [as_it_ran(stored)]), *played]
    if variables.csv or variables.parquet:
        write_frame(console, outcome_frame(rows), variables, "row")
        return 0
    ran_whole = len(stored.curves) * stored.about.epochs
    wholes = [ran_whole, *[setting.trials * setting.epochs] * len(settings)]
    console.print(outcome_table(stored.about.metric, rows, all_epochs=wholes))
    return 0


def _read(name: str, variables: Variables) -> StoredCurves:
    """Return the curves of a file, or of a stored study."""
    if name.endswith(".parquet"):
        return read_curve_file(Path(name).expanduser())
    url = database_url(variables.storage_url)
    return read_curves(find_stored_name(url, name, variables.data), url)


def choose_setting(stored: StoredCurves, variables: Variables) -> Setting:
    """Return what is played: the variables, and where they are not given, the study's own.

    Raises `BadVariable` for more than the stored curves hold.
    """
    about, full = stored.about, len(stored.full)
    pruner = variables.pruner or about.pruner
    if variables.pruner is None and pruner in NAMES:
        raise BadVariable(
            f"the study's pruner is the object {pruner} of its file, whose arguments are not "
            f"stored: name one, PRUNER={NAMES[pruner]}"
        )
    make_pruner(pruner, about.goals or [Goal(name=about.metric, minimize=about.minimize)])
    for name, wanted, most, what in (
        ("TRIALS", variables.trials, full, "trials with full curves"),
        ("EPOCHS", variables.epochs, about.epochs, "epochs of its curves"),
    ):
        if wanted is not None and wanted > most:
            raise BadVariable(
                f"{name}={wanted} is more than the {most} {what}; a simulation knows no others: "
                f"give at most {most}"
            )
    return Setting(
        pruner=pruner,
        workers=variables.workers or about.workers,
        trials=variables.trials or full,
        epochs=variables.epochs or about.epochs,
    )


def describe(stored: StoredCurves, setting: Setting) -> list[str]:
    """Return what is played, and what a person has to know to believe it."""
    about, left_out = stored.about, stored.short
    lines = [
        f"study {about.study}: {setting.trials} of {len(stored.full)} full curves of "
        f"{format_count(about.epochs, 'epoch')}, in {ORDERS} random orders; ± is one standard "
        "deviation"
    ]
    if left_out:
        counts = ", ".join(f"{count} {word}" for word, count in left_out.most_common())
        biased = "; the others are better than the average" if left_out["pruned"] else ""
        are = "is" if left_out.total() == 1 else "are"
        lines.append(
            f"{format_count(left_out.total(), 'trial')} with a short curve {are} left out "
            f"({counts}){biased}"
        )
    if setting.trials < FEW:
        are_few = "is little" if setting.trials == 1 else "are few"
        lines.append(
            f"{format_count(setting.trials, 'curve')} {are_few}: what a pruner finds here is "
            "mostly chance"
        )
    if about.sampler.partition("(")[0] not in ANY_ORDER:
        lines.append(
            f"the sampler {about.sampler} drew each trial with those before it in mind: other "
            "orders are an approximation"
        )
    if setting.epochs < about.epochs:
        lines.append(
            f"schedules are those of {about.epochs} epochs: a study of {setting.epochs} would "
            "have shorter ones"
        )
    if not about.timed:
        lines.append("seconds of single epochs were not kept: each takes its trial's mean")
    return lines


def _play(console: Console, stored: StoredCurves, setting: Setting, seed: int) -> Sequence[Outcome]:
    """Play all orders, and say how far that is."""
    found: list[Outcome] = []
    began = said = time.monotonic()
    with console.status(f"{setting.title} ...") as status:
        for outcome in play_orders(stored, setting, seed=seed):
            found.append(outcome)
            now = time.monotonic()
            left = (now - began) / len(found) * (ORDERS - len(found))
            line = (
                f"{setting.title}: {len(found)} of {ORDERS} orders, about "
                f"{format_duration(left)} left"
            )
            status.update(line)
            if not is_live(console) and now - said > LINE_EVERY:
                print_line(console, line)
                said = now
    return found
