"""What `make study` says before it begins: how many trials, on what, for how long, and where.

Opening(console, variables, study).tell(run, queue, devices, images)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from models.data.images import ImageSplits
from search.cli.closing_lines import describe_remembered
from search.console import print_line, print_lines, print_loud, shorten_path
from search.run import StudyRun
from search.setup.fitting import describe_batches
from search.setup.warm import describe_warm
from search.strategies.stopping import describe_limit
from search.study import Study
from search.trials.queue import TrialQueue
from search.variables import Variables
from search.words import format_count
from storage.database.address import redact_url


@dataclass(frozen=True)
class Opening:
    """The first lines of a call of `make study`."""

    console: Console
    variables: Variables
    study: Study

    def tell(
        self, run: StudyRun, queue: TrialQueue, devices: Sequence[str], images: ImageSplits
    ) -> None:
        """Say what begins, or that nothing does.

        devices: what each worker trains on
        """
        print_lines(self.console, describe_remembered(self.variables, self.study.spec, run))
        self._tell_fewer_trials(run, queue)
        ended = queue.count_ended()
        if ended >= run.trials:
            done = "is trained" if run.shown is not None else "is done"
            print_line(
                self.console,
                f"study {run.study} {done}: {ended} of {format_count(run.trials, 'trial')} "
                f"{'has' if ended == 1 else 'have'} ended; TRIALS={ended + 10} goes on",
            )
            return
        if run.stop is not None:
            print_lines(self.console, describe_limit(run.trials))
        verb = "goes on" if queue.count().total() else "starts"
        if ended:
            verb = f"goes on after {format_count(ended, 'trial')}"
        trials = f"{format_count(run.trials, 'trial')} of {format_count(run.epochs, 'epoch')}"
        print_line(
            self.console,
            f"study {run.study} {verb}: {trials} on {count_devices(devices)}, seed {run.seed}, "
            f"in {shorten_path(redact_url(run.storage))}",
        )
        batches = describe_batches(self.study, images, least_steps=run.least_steps)
        if batches is not None:
            print_line(self.console, batches)
        print_lines(self.console, *describe_warm(run.warm))
        print_loud(self.console, run.remarks)

    def _tell_fewer_trials(self, run: StudyRun, queue: TrialQueue) -> None:
        """Say why the study has fewer trials than it was asked for, where it has."""
        wanted = self.variables.trials or self.study.spec.trials
        if run.trials >= wanted:
            return
        why = f"the grid has {format_count(run.trials, 'point')}"
        if queue.is_stopped():
            why = queue.stop_reason()
        self.console.print(f"{why}: {format_count(run.trials, 'trial')}, not {wanted}")


def count_devices(devices: Sequence[str]) -> str:
    """Return how many workers train on what: `2 x cpu`."""
    return ", ".join(f"{devices.count(kind)} x {kind}" for kind in dict.fromkeys(devices))
