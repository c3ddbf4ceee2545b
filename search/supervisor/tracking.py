"""Tells experiment trackers (LOG) what the workers of a supervisor do: epochs, pictures, ends.

    tracking = StudyTracking(threads, source, retry, say)
    tracking.recover()               # what an earlier command has begun, and ended since
    tracking.handle_event(event)     # of any worker
    tracking.close()                 # waits for what is on its way

A worker tells its supervisor of each epoch anyway, so no training waits for a tracker. The events
say when something happens; what has happened before is read where it stands for good
(`search.supervisor.tracked_runs`): when a run goes on, and again when it ends. So a tracker gets
each epoch once, on whatever machine a trial goes on and whatever was killed meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from search.events import (
    Ended,
    EpochEnded,
    Event,
    Exported,
    NotRetrained,
    Paused,
    Pictured,
    Released,
    Retrained,
    Retraining,
    Started,
)
from search.supervisor.tracked_runs import (
    KnownRun,
    RunSource,
    export_name,
    make_epochs,
    retraining_name,
    trial_name,
)
from search.tracking.tracker import (
    WAITING,
    TrackedEnding,
    TrackedEpoch,
    TrackedPicture,
    TrackedRun,
)
from search.tracking.tracker_thread import TrackerThread
from search.trials.outcomes import describe_error
from storage.database.retry import DatabaseRetry

FAREWELL = 60.0  # seconds that the end of a command waits for trackers at most


class OpenRun:
    """A run that goes on: what the trackers have been told of it."""

    def __init__(self, run: TrackedRun) -> None:
        self.run = run
        self.epochs: dict[int, TrackedEpoch] = {}
        self.pictures: set[tuple[str, int]] = set()


class StudyTracking:
    """What one supervisor tells the trackers of its study.

    retry: of the trial database; a run that it cannot give now is begun with its next event
    say: shows a line to whoever watches
    """

    def __init__(
        self,
        threads: Sequence[TrackerThread],
        source: RunSource,
        retry: DatabaseRetry,
        say: Callable[[str], object],
    ) -> None:
        self.threads = threads
        self.source = source
        self.retry = retry
        self.say = say
        self._open: dict[str, OpenRun] = {}
        self._problems: list[str | None] = []  # lines that have yet to be said
        self._said: set[str] = set()

    def recover(self) -> None:
        """Make good the runs that earlier commands have left, as far as they have ended."""
        for thread in self.threads:
            for name in thread.marked(self.source.run.token):
                known = self._read(name)
                if known is not None and known.ending is not None:
                    thread.begin(known.run, known.epochs, known.pictures)
                    thread.end(known.run, known.ending)
        self._say_problems()

    def handle_event(self, event: Event) -> None:
        """Tell the trackers what a worker reports."""
        match event:
            case Started():
                known = self._read(trial_name(event.number))
                if known is not None:
                    self._begin_known(known)
            case Retraining():
                self._begin_known(self.source.begun_retraining(event))
            case EpochEnded() | Pictured():
                is_trial = not event.retraining
                name = retraining_name(event.number, event.repeat)
                self._add(trial_name(event.number) if is_trial else name, event)
            case Ended():
                self._end_trial(event)
            case Paused():
                self._put_aside(trial_name(event.number))
            case Released():
                name = retraining_name(event.number, event.repeat)
                self._put_aside(name if event.retraining else trial_name(event.number))
            case Retrained():
                self._end_known(self._read(retraining_name(event.number, event.repeat)))
            case NotRetrained():
                name = retraining_name(event.number, event.repeat)
                self._end(name, TrackedEnding(state="failed", reason=event.reason))
            case Exported():
                self._end_known(self._read(export_name(event.rank)))
        self._say_problems()

    def close(self) -> None:
        """Let runs that go on wait, and give the trackers some time to get everything."""
        for name in list(self._open):
            known = self._read(name)  # others may have ended it, after a kill of its worker
            if known is not None and known.ending is not None:
                self._end_known(known)
            else:
                self._put_aside(name)
        deadline = time.monotonic() + FAREWELL
        late = [thread.tool for thread in self.threads if not thread.close(deadline)]
        self._say_problems()
        for tool in late:
            self.say(
                f"LOG={tool} takes too long; the next command with LOG={tool} makes its runs good"
            )

    def _read(self, name: str) -> KnownRun | None:
        """Return what is known of a run; None: it is not known, or the database is away.

        An error of the database costs the run here. It is raised where the study needs the
        database.
        """
        found: list[KnownRun | None] = []
        try:
            self.retry.try_once(lambda: found.append(self.source.named(name)))
        except Exception as error:
            self._problems.append(f"LOG: {name} cannot be read ({describe_error(error)})")
        return found[-1] if found else None

    def _begin(self, name: str) -> OpenRun | None:
        """Begin a run with all that is known of it, unless it has begun."""
        if name not in self._open:
            known = self._read(name)
            if known is not None:
                self._begin_known(known)
        return self._open.get(name)

    def _begin_known(self, known: KnownRun) -> None:
        before = self._open.get(known.run.name)
        if before is not None and before.run.key == known.run.key:  # its worker has died
            self._fill(known)
            return
        opened = self._open[known.run.name] = OpenRun(known.run)
        opened.epochs = {epoch.number: epoch for epoch in known.epochs}
        opened.pictures = {(picture.name, picture.epoch) for picture in known.pictures}
        for thread in self.threads:
            thread.begin(known.run, known.epochs, known.pictures)

    def _fill(self, known: KnownRun) -> None:
        """Tell what the trackers have not been told of an open run."""
        for epoch in known.epochs:
            self._log_epoch(self._open[known.run.name], epoch)
        for picture in known.pictures:
            self._log_picture(self._open[known.run.name], picture)

    def _add(self, name: str, event: EpochEnded | Pictured) -> None:
        """Tell an epoch or a picture."""
        opened = self._begin(name)
        if opened is None:
            return
        if isinstance(event, EpochEnded):
            self._log_epoch(opened, make_epochs({event.epoch: event.measured})[0])
        else:
            path = Path(event.path)
            picture = TrackedPicture(name=event.name, epoch=event.epoch, path=path)
            self._log_picture(opened, picture)

    def _log_epoch(self, opened: OpenRun, epoch: TrackedEpoch) -> None:
        """Tell an epoch, unless it was told before: an epoch that is trained again has the same
        values."""
        if epoch.number in opened.epochs:
            return
        opened.epochs[epoch.number] = epoch
        for thread in self.threads:
            thread.log_epoch(opened.run, epoch)

    def _log_picture(self, opened: OpenRun, picture: TrackedPicture) -> None:
        if (picture.name, picture.epoch) in opened.pictures:
            return
        opened.pictures.add((picture.name, picture.epoch))
        for thread in self.threads:
            thread.log_picture(opened.run, picture)

    def _end_trial(self, event: Ended) -> None:
        """End a trial as the database has it. While that is away, end it as its worker reported."""
        name = trial_name(event.number)
        known = self._read(name)
        if known is not None and known.ending is not None:
            self._end_known(known)
        elif (opened := self._open.get(name)) is not None:
            values = self.source.best_of(opened.epochs.values())
            last = max(opened.epochs, default=0)
            ending = TrackedEnding(
                state=event.outcome, epoch=last, values=values, reason=event.reason
            )
            self._end(name, ending)

    def _end_known(self, known: KnownRun | None) -> None:
        """End a run that is known as a whole. If it has not begun here, it is told as a whole."""
        if known is not None and known.ending is not None:
            self._begin_known(known)
            self._fill(known)
            self._end(known.run.name, known.ending)

    def _put_aside(self, name: str) -> None:
        """Let a run wait: it goes on later, here or elsewhere."""
        opened = self._open.get(name)
        if opened is not None:
            self._end(name, TrackedEnding(state=WAITING, epoch=max(opened.epochs, default=0)))

    def _end(self, name: str, ending: TrackedEnding) -> None:
        opened = self._open.pop(name, None)
        if opened is not None:
            for thread in self.threads:
                thread.end(opened.run, ending)

    def _say_problems(self) -> None:
        lines = [thread.problem() for thread in self.threads] + self._problems
        self._problems.clear()
        for line in lines:
            if line is not None and line not in self._said:
                self._said.add(line)
                self.say(line)
