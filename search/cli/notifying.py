"""NOTIFY at the end of a command: the receiver is told that the study is done, or has failed.

with notices_of(supervisor, variables):      # the search tells of a best trial that improves
    code = ...
    tell_end(supervisor, exported, code)     # an error of the search tells of the failure
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from search.console import OutputClosed, shorten_path
from search.errors import explain_error
from search.setup.mistakes import describe_mistake
from search.supervisor.finish_claim import FinishedElsewhere
from search.supervisor.loop import Supervisor
from search.supervisor.notices import Notices
from search.variables import Variables
from search.words import format_count
from storage.files.certificate_words import goals_in_words, mean_of


@contextmanager
def notices_of(supervisor: Supervisor, variables: Variables) -> Iterator[None]:
    """Tell the receiver in NOTIFY about the study while the block runs, if there is one."""
    if variables.notify is None:
        yield
        return
    say, spec = supervisor.display.say, supervisor.study.spec
    try:
        notices = Notices(variables.notify, supervisor.queue, supervisor.run, spec, say)
    except SQLAlchemyError as error:  # a role that may make no table: the study needs no more
        say(f"NOTIFY: {variables.notify.shown} is told nothing: {explain_error(error)}")
        yield
        return
    supervisor.notices = notices
    try:
        yield
    except OutputClosed:
        raise
    except Exception as error:
        with suppress(Exception):  # the error itself is what counts
            notices.tell_failed(explain_error(error) or describe_mistake(error))
        raise
    finally:
        notices.close()


def why_nothing_is_exported(supervisor: Supervisor) -> str:
    """Return why a search has nothing to export."""
    several = supervisor.study.spec.has_several_goals
    is_any = several and supervisor.queue.count()["COMPLETE"] > 0
    why = "every complete trial violates constraints" if is_any else "no trial is complete"
    return f"{why}: nothing to export"


def tell_end(
    supervisor: Supervisor, exported: Sequence[Mapping[str, Any]] | FinishedElsewhere, code: int
) -> None:
    """Tell that the study is done, if all of its trials have ended.

    exported: records of the exports, best first; code: exit code, not 0 where nothing is exported
    """
    notices, queue, run = supervisor.notices, supervisor.queue, supervisor.run
    if notices is None or not queue.has_ended(run.trials):
        return
    notices.look_for_best(at_once=True)
    metric = supervisor.study.spec.quality
    if code:
        notices.tell_failed(why_nothing_is_exported(supervisor))
    elif isinstance(exported, FinishedElsewhere):
        notices.tell_done(exported.describe(metric), **exported.result)
    elif exported:
        best = exported[0]
        place = run.paths.export(run.study, int(best["rank"]))
        values = {name: (best[name] or {}).get(metric) for name in ("valid", "test")}
        test = "" if values["test"] is None else f", test {values['test']:.6g}"
        words = f"the best is trial {best['trial']}, {metric} {mean_of(best)}{test}"
        if best.get("goals"):
            count = format_count(len(exported), "trial")
            words = f"{count} of the front exported, the first with {goals_in_words(best)}"
        notices.tell_done(
            f"{words}; {shorten_path(place)}", trial=best["trial"], export=str(place), **values
        )
    else:
        ranked = supervisor.leaderboard.ranked_trials()
        if not ranked:
            notices.tell_done(why_nothing_is_exported(supervisor))
            return
        trials = queue.study.get_trials(deepcopy=False)
        found = next(trial.values for trial in trials if trial.number == ranked[0]) or []
        words = f"the best is trial {ranked[0]}, {metric} {found[0]:.6g}"
        if len(found) > 1:
            are = "is" if len(ranked) == 1 else "are"
            words = f"{format_count(len(ranked), 'trial')} {are} on the front"
        notices.tell_done(words, trial=ranked[0], value=found[0])
