"""LOG: experiment trackers are told of a study while a command is at it.

with track(supervisor, variables):
    supervisor.search()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from search.supervisor.loop import Supervisor
from search.supervisor.tracked_runs import RunSource
from search.supervisor.tracking import StudyTracking
from search.tracking.opening import describe_place, open_trackers
from search.variables import Variables


@contextmanager
def track(supervisor: Supervisor, variables: Variables, *, recovers: bool) -> Iterator[None]:
    """Let the tools in LOG, if there are any, hear of the study while the block runs.

    recovers: whether runs are made good that an earlier command has left: one process does so
    """
    if not variables.log:
        yield
        return
    run, queue, say = supervisor.run, supervisor.queue, supervisor.display.say
    for name in variables.log:
        say(f"LOG={name}: {describe_place(name, run.paths, run.study)}")
    source = RunSource(queue, run, supervisor.study.spec)
    threads = open_trackers(variables.log, run.paths, run.study)
    supervisor.tracking = StudyTracking(threads, source, queue.retry, say)
    try:
        if recovers:
            supervisor.tracking.recover()
        yield
    finally:
        supervisor.tracking.close()
