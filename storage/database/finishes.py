"""Who retrains and exports the best of a study: one RUNS a study, whatever machines share it.

    fence = claim_finish(engine, token, owner=owner, runs=runs, place=place, seen=0)
    renew_finish(engine, token, fence)                # every `RENEWAL` seconds
    met = note_meeting(engine, token, training, trial, hold=hold)   # before it meets test images
    keep_measured(engine, token, training, {...}, hold=hold)        # afterwards
    end_finish(engine, token, fence, result)

Two machines that end a study together would each train its best anew, and each meet the test
images. So they claim the finishing as workers claim a trial: with a number that only grows, and
with a lease. What the finishing ended with stays in the row, so that the others can say it. So does
what the test images said of each training: no machine measures the same training again.

The rows stand in ``genstudy_finishes``, one a study, by the study's own token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.dialects import postgresql, sqlite

from storage.database.schema import finishes, is_sqlite
from storage.database.transactions import read, write


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """A model that the test images have met: a retraining of ``trial`` in ``place``.

    training: a word that is another for each configuration, seed and length of a retraining
    runs: a word that no other folder RUNS has
    measured: what they said; None: whoever met them has not come to say
    """

    training: str
    trial: int
    runs: str
    place: str
    measured: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Finish:
    """The finishing of a study.

    fence: the number of the latest claim
    owner: who is at it; None: nobody
    renewed: how often that owner has said so
    runs, place: of the folder RUNS whose exports these are; place: for people to read
    result: what the last one that came to its end ended with
    meetings: the models that the test images have met
    """

    fence: int
    owner: str | None
    renewed: int
    runs: str
    place: str
    result: Mapping[str, Any] | None
    meetings: tuple[Meeting, ...] = ()

    @property
    def models_met(self) -> int:
        """How many models of this study the test images have met."""
        return len({each.training for each in self.meetings})


class FinishLost(Exception):
    """Another process has claimed the finishing meanwhile: nothing of this one's counts."""


Hold = Callable[[Connection], Finish]


def read_finish(engine: Engine, token: str) -> Finish | None:
    """Return how far the finishing of a study is; None: it was never begun."""
    with read(engine) as connection:
        return _read(connection, token)


def find_finish(engine: Engine, token: object) -> Finish | None:
    """Return the same of any study, one of another program or of an older version included."""
    with engine.connect() as connection:
        if not isinstance(token, str) or not inspect(connection).has_table(finishes.name):
            return None
        return _read(connection, token)


def claim_finish(
    engine: Engine, token: str, *, owner: str, runs: str, place: str, seen: int
) -> int | None:
    """Make ``owner`` the one who finishes the study; return the number of its claim.

    seen: the number of the latest claim that is known, 0 for none. None: there is a later one.
    """
    values = {"owner": owner, "runs": runs, "place": place, "renewed": 0}
    insert = sqlite.insert if is_sqlite(engine) else postgresql.insert
    statement = (
        insert(finishes)
        .values(token=token, fence=1, meetings="[]", **values)
        .on_conflict_do_update(
            index_elements=["token"],
            set_={**values, "fence": finishes.c.fence + 1},
            where=finishes.c.fence == seen,
        )
        .returning(finishes.c.fence)
    )
    with write(engine) as connection:
        fence = connection.execute(statement).scalar()
    return None if fence is None else int(fence)


def renew_finish(engine: Engine, token: str, fence: int) -> None:
    """Say that the owner still is at it. Raises `FinishLost`."""
    with write(engine) as connection:
        _change(connection, token, fence, renewed=finishes.c.renewed + 1)


def hold_finish(connection: Connection, token: str, fence: int) -> Finish:
    """Return the finishing, which stays ours until the transaction ends. Raises `FinishLost`."""
    _change(connection, token, fence, renewed=finishes.c.renewed + 1)
    found = _read(connection, token)
    assert found is not None, "it was changed"
    return found


def hold_meetings(connection: Connection, token: str, *, runs: str, place: str) -> Finish:
    """Return the finishing as of the folder ``runs``, which nobody changes before the transaction
    ends. With FILES nobody need have claimed it: the row is made."""
    insert = sqlite.insert if is_sqlite(connection.engine) else postgresql.insert
    values = {"fence": 0, "runs": "", "place": "", "renewed": 0, "meetings": "[]"}
    made = insert(finishes).values(token=token, **values).on_conflict_do_nothing()
    connection.execute(made)
    connection.execute(
        finishes.update().where(finishes.c.token == token).values(renewed=finishes.c.renewed)
    )
    found = _read(connection, token)
    assert found is not None, "it was made"
    return replace(found, runs=runs, place=place)


def note_meeting(
    engine: Engine, token: str, training: str, trial: int, *, hold: Hold
) -> list[Meeting]:
    """Keep that the test images meet a retraining now, unless what they say of it is known.

    hold: returns the finishing as it is now, in the transaction, and raises where it is another's
    Returns the earlier meetings of the same training, in whatever place.
    """
    with write(engine) as connection:
        found = hold(connection)
        met = [each for each in found.meetings if each.training == training]
        now = Meeting(training=training, trial=trial, runs=found.runs, place=found.place)
        if not any(each.measured or each.runs == now.runs for each in met):
            _write_meetings(connection, token, [*found.meetings, now])
    return met


def keep_measured(
    engine: Engine, token: str, training: str, measured: Mapping[str, Any], *, hold: Hold
) -> None:
    """Keep what the test images said of a retraining; ``hold`` is as above."""
    with write(engine) as connection:
        found = hold(connection)
        meetings = [
            replace(each, measured=measured)
            if (each.training, each.runs) == (training, found.runs)
            else each
            for each in found.meetings
        ]
        _write_meetings(connection, token, meetings)


def _write_meetings(connection: Connection, token: str, meetings: Iterable[Meeting]) -> None:
    """Write the meetings of a finishing that this transaction holds."""
    plain = [{**vars(each), "measured": each.measured and dict(each.measured)} for each in meetings]
    connection.execute(
        finishes.update().where(finishes.c.token == token).values(meetings=json.dumps(plain))
    )


def end_finish(
    engine: Engine, token: str, fence: int, result: Mapping[str, Any] | None = None
) -> None:
    """Let go of the finishing. Raises `FinishLost`.

    result: what it ended with; None: it did not come to its end
    """
    kept = {} if result is None else {"result": json.dumps(dict(result))}
    with write(engine) as connection:
        _change(connection, token, fence, owner=None, **kept)


def _change(connection: Connection, token: str, fence: int, **values: Any) -> None:
    changed = connection.execute(
        finishes.update()
        .where(finishes.c.token == token, finishes.c.fence == fence)
        .values(**values)
    )
    if changed.rowcount != 1:
        raise FinishLost


def _read(connection: Connection, token: str) -> Finish | None:
    row = connection.execute(select(finishes).where(finishes.c.token == token)).one_or_none()
    if row is None:
        return None
    result, met = _load(row.result, {}), _load(row.meetings, [])
    try:
        meetings = tuple(Meeting(**each) for each in met)
    except TypeError:  # anybody may write into a database
        meetings = ()
    return Finish(
        fence=row.fence,
        owner=row.owner,
        renewed=row.renewed,
        runs=row.runs,
        place=row.place,
        result=result or None,
        meetings=meetings,
    )


def _load(written: str | None, empty: Any) -> Any:
    """Return what was written as JSON, if it is of the kind of ``empty``, else that."""
    try:
        found = json.loads(written or "null")
    except ValueError:
        return empty
    return found if isinstance(found, type(empty)) else empty
