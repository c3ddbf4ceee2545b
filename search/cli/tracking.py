"""LOG: experiment trackers follow a study while a command works on it.

with track(supervisor, variables, recovers=True):
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
    """Tell the tools in LOG about the study while the block runs, if there are any.

    recovers: whether to complete runs that an earlier command has left; one process does so
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
