"""What `make study` does once everything is open: search, retrain the best, export, conclude.

code = StudyStages(console, variables, study, supervisor).run()
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from models.results import Table
from search.cli.conclusion import Conclusion, end_note
from search.cli.notifying import tell_end
from search.console import OutputClosed, print_line
from search.engines.following import FollowingSupervisor
from search.engines.launch import open_engine
from search.errors import SearchError
from search.reporting.summary import conclude
from search.study import Study
from search.supervisor.earlier_trials import show_earlier
from search.supervisor.file_cleaning import remove_ended
from search.supervisor.finish import finish, take_exports
from search.supervisor.finish_claim import FinishedElsewhere, find_elsewhere
from search.supervisor.loop import Supervisor
from search.supervisor.stopping import Stopped, stop_on_signals
from search.trials.owner import forget_mark
from search.trials.standings import is_finished
from search.variables import Variables
from search.words import format_count, format_duration
from storage.database.retry import DatabaseWentBack, GaveUp

INTERRUPTED = 130  # exit code


@dataclass(frozen=True)
class StudyStages:
    """One call of the command for one study, with the workers that ``supervisor`` keeps at it."""

    console: Console
    variables: Variables
    study: Study
    supervisor: Supervisor

    def run(self) -> int:
        """Do what is left of the study; returns the exit code."""
        supervisor, top = self.supervisor, self.variables.top
        run, queue = supervisor.run, supervisor.queue
        supervisor.prompt.refresh()
        ended, leaderboard = queue.count_ended(), supervisor.leaderboard
        if supervisor.prompt.is_decided and is_finished(leaderboard, ended, top):
            table = self._conclude_search()
            return self._conclude(leaderboard.export_records(top), table)
        if ended >= run.trials and top and supervisor.prompt.is_decided:
            elsewhere = find_elsewhere(run, queue, ended=ended, top=top)
            if elsewhere is not None:
                table = self._conclude_search()
                return self._conclude(take_exports(supervisor, elsewhere, top), table)
        return self._work()

    def _work(self) -> int:
        """Start the workers, search, retrain and export."""
        supervisor = self.supervisor
        run, display = supervisor.run, supervisor.display
        with stop_on_signals(supervisor.stop, supervisor.pool.kill):
            try:
                with display, supervisor.pool, self._running_engine():
                    supervisor.pool.set_up(run)
                    display.show_starting(supervisor.pool.workers.values())
                    show_earlier(display, supervisor.queue)
                    while True:
                        table = self._search()
                        try:
                            top = self.variables.top
                            exported = self._finish(top) if top else []
                            remove_ended(supervisor.files, supervisor.queue, run)
                            break
                        except DatabaseWentBack as error:
                            supervisor.read_again(error)
            except (Stopped, GaveUp):
                return self._stop()
            except OutputClosed:
                self._stop()
                raise
            except SearchError as error:
                end_note(supervisor, f"ended: {error}")
                raise
        return self._conclude(exported, table)

    @contextmanager
    def _running_engine(self) -> Iterator[None]:
        """Let an engine run the workers, if there is one; at the end it has none any more."""
        supervisor = self.supervisor
        if not isinstance(supervisor, FollowingSupervisor):
            yield
            return
        engine = open_engine(self.variables, supervisor.run)
        try:
            supervisor.employ(engine, self.variables.jobs or 1)
            yield
            supervisor.let_jobs_end()
        finally:
            engine.stop()

    def _finish(self, top: int) -> list[dict[str, Any]] | FinishedElsewhere:
        """Retrain and export the best here, or wait for an engine's workers to do so."""
        supervisor = self.supervisor
        if isinstance(supervisor, FollowingSupervisor):
            exported = supervisor.wait_for_exports(top)
            if isinstance(exported, FinishedElsewhere):
                return take_exports(supervisor, exported, top)
            return exported
        return finish(supervisor, top)

    def _search(self) -> Table | None:
        """Search, and return the table that the study concludes with, if it has one."""
        supervisor = self.supervisor
        began, ended_before = time.monotonic(), supervisor.queue.count_ended()
        display = supervisor.display
        supervisor.search(self.variables.minutes)
        supervisor.prompt.refresh()
        if supervisor.prompt.nobody_chose:
            display.say(f"nobody has chosen: {self.study.spec.quality} ranks the trials")
        new = supervisor.queue.count_ended() - ended_before
        if new > 0:
            took = format_duration(time.monotonic() - began)
            display.say(f"{format_count(new, 'trial')} ended in {took}")
        table = self._conclude_search()
        if supervisor.note is not None and table is not None:
            supervisor.note.table = table.to_plain()
        return table

    def _conclude_search(self) -> Table | None:
        """Return the table that the study concludes with, if it has one."""
        supervisor = self.supervisor
        return conclude(self.study, supervisor.run, supervisor.queue, supervisor.display.say)

    def _stop(self) -> int:
        """Give all trials back, and say what is left."""
        supervisor, queue = self.supervisor, self.supervisor.queue
        try:
            for worker in supervisor.pool.workers.values():
                queue.reclaim_from(worker.owner, blame=False)
                forget_mark(worker.owner)
            waiting = queue.count()["WAITING"]
            ended = queue.count_ended()
        except GaveUp:
            line = "stopped while the trial database was away; the same command goes on"
            print_line(self.console, line)
            return INTERRUPTED
        end_note(supervisor, "stopped")
        go = "goes" if waiting == 1 else "go"
        goes_on = f"; {format_count(waiting, 'interrupted trial')} {go} on" if waiting else ""
        print_line(
            self.console,
            f"stopped: {ended} of {format_count(supervisor.run.trials, 'trial')} "
            f"{'has' if ended == 1 else 'have'} ended; the same command goes on from here{goes_on}",
        )
        return INTERRUPTED

    def _conclude(
        self, exported: list[dict[str, Any]] | FinishedElsewhere, table: Table | None
    ) -> int:
        """Say how the study ended; returns the exit code."""
        conclusion = Conclusion(self.console, self.variables, self.study)
        code = conclusion.tell(self.supervisor, exported, table)
        tell_end(self.supervisor, exported, code)
        return code
