"""Who retrains and exports the best of a study: one RUNS a study, whatever machines share it.

    fence = claim_finish(engine, token, owner=owner, runs=runs, place=place, seen=0)
    renew_finish(engine, token, fence)                # every `RENEWAL` seconds
    earlier = note_test(engine, token, training, trial, hold=hold)    # before a final test
    keep_measured(engine, token, training, {...}, hold=hold)          # after it
    end_finish(engine, token, fence, result)

Two machines that end a study together would each retrain its best trials, and each measure them on
the test images. So a machine claims the finishing as a worker claims a trial: with a number that
only grows, and with a lease. The row keeps the result of the finishing, so that the other machines
can show it. It also keeps the values of each final test, so that no machine measures the same
training on the test images again.

The rows stand in ``genstudy_finishes``, one a study, by the study's own token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.dialects import postgresql, sqlite

from storage.database.json_texts import parse_json
from storage.database.schema import finishes, is_sqlite
from storage.database.transactions import read, write


@dataclass(frozen=True, kw_only=True)
class FinalTest:
    """One measurement of a retrained model on the test images.

    training: a digest of the configuration, the seed and the length of the retraining
    trial: whose configuration was retrained; place: where, for people to read
    runs: a word that no other folder RUNS has
    measured: the values; None: the test has begun, and its values are not known
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
    owner: the process that holds the claim; None: no process does
    renewed: how often that owner has renewed it
    runs, place: of the folder RUNS that has the exports; place: for people to read
    result: of the latest finishing that came to its end; None: none did
    tests: the measurements on the test images
    """

    fence: int
    owner: str | None
    renewed: int
    runs: str
    place: str
    result: Mapping[str, Any] | None
    tests: tuple[FinalTest, ...] = ()

    @property
    def models_tested(self) -> int:
        """How many models of this study were measured on the test images."""
        return len({each.training for each in self.tests})


class FinishLost(Exception):
    """Another process has claimed the finishing since: the work of this one does not count."""


Hold = Callable[[Connection], Finish]


def read_finish(engine: Engine, token: str) -> Finish | None:
    """Return the finishing of a study; None: it has not begun."""
    with read(engine) as connection:
        return _read(connection, token)


def find_finish(engine: Engine, token: object) -> Finish | None:
    """Return the finishing of any study, also of one that another program or version has stored."""
    with engine.connect() as connection:
        if not isinstance(token, str) or not inspect(connection).has_table(finishes.name):
            return None
        return _read(connection, token)


def claim_finish(
    engine: Engine, token: str, *, owner: str, runs: str, place: str, seen: int
) -> int | None:
    """Let ``owner`` finish the study; return the number of its claim, or None.

    seen: the number of the latest claim that the caller knows, 0 for none. If there is a later one,
        the caller gets none.
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
    """Renew the owner's claim. Raises `FinishLost`."""
    with write(engine) as connection:
        _change(connection, token, fence, renewed=finishes.c.renewed + 1)


def hold_finish(connection: Connection, token: str, fence: int) -> Finish:
    """Return the finishing, and hold it until the transaction ends. Raises `FinishLost`."""
    _change(connection, token, fence, renewed=finishes.c.renewed + 1)
    found = _read(connection, token)
    assert found is not None, "it was changed"
    return found


def hold_tests(connection: Connection, token: str, *, runs: str, place: str) -> Finish:
    """Return the finishing for a final test in ``runs``, and hold it until the transaction ends.

    With FILES a final test needs no claim on the finishing. A row that is missing is made.
    """
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


def note_test(
    engine: Engine, token: str, training: str, trial: int, *, hold: Hold
) -> list[FinalTest]:
    """Note that a final test of a retraining begins, unless its values are known.

    hold: returns the finishing within the transaction; it raises if another process has claimed it
    Returns the earlier tests of the same training, wherever they took place.
    """
    with write(engine) as connection:
        found = hold(connection)
        earlier = [each for each in found.tests if each.training == training]
        now = FinalTest(training=training, trial=trial, runs=found.runs, place=found.place)
        if not any(each.measured or each.runs == now.runs for each in earlier):
            _write_tests(connection, token, [*found.tests, now])
    return earlier


def keep_measured(
    engine: Engine, token: str, training: str, measured: Mapping[str, Any], *, hold: Hold
) -> None:
    """Keep the values of a final test; ``hold`` is as for `note_test`."""
    with write(engine) as connection:
        found = hold(connection)
        tests = [
            replace(each, measured=measured)
            if (each.training, each.runs) == (training, found.runs)
            else each
            for each in found.tests
        ]
        _write_tests(connection, token, tests)


def _write_tests(connection: Connection, token: str, tests: Iterable[FinalTest]) -> None:
    """Write the final tests of a finishing that this transaction holds."""
    plain = [{**vars(each), "measured": each.measured and dict(each.measured)} for each in tests]
    connection.execute(
        finishes.update().where(finishes.c.token == token).values(meetings=json.dumps(plain))
    )


def end_finish(
    engine: Engine, token: str, fence: int, result: Mapping[str, Any] | None = None
) -> None:
    """Release the claim on the finishing. Raises `FinishLost`.

    result: of the finishing; None: it did not come to its end
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
    result, written = _load(row.result, {}), _load(row.meetings, [])
    try:
        tests = tuple(FinalTest(**each) for each in written)
    except TypeError:  # anybody may write into a database
        tests = ()
    return Finish(
        fence=row.fence,
        owner=row.owner,
        renewed=row.renewed,
        runs=row.runs,
        place=row.place,
        result=result or None,
        tests=tests,
    )


def _load(written: str | None, empty: Any) -> Any:
    """Return the JSON value in ``written``; ``empty`` if it is none, or of another type."""
    try:
        found = parse_json(written or "null")
    except ValueError:
        return empty
    return found if isinstance(found, type(empty)) else empty
