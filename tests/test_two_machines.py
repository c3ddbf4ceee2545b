"""Two machines end a study together: one Postgres, one FILES, a RUNS each.

They share out trials, retrainings and exports. Each is done once, and both have all of them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from storage import trials
from storage.database.connection import open_engine
from storage.database.job_claims import read_claims
from tests.conftest import contents
from tests.torture.verdict import read_finishes
from tests.user import User, WriteStudy, set_constants, watched

FEW_DIGITS = True

RETRAINED = re.compile(r"^retrained (trial [0-9]+(?:, seed [0-9]+)?):", re.MULTILINE)
EXPORTED = re.compile(r"^exported rank ([0-9]+):", re.MULTILINE)


def exports_of(machine: User) -> dict[str, str]:
    found = contents(machine.runs / "exports")
    return {path.removeprefix(str(machine.runs)): kept for path, kept in found.items()}


def test_two_machines_share_out_retrainings_and_exports(
    user: User, study_file: WriteStudy, postgres_url: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "NAME": study_file(), "TOP": 2, "SEEDS": 2, "WORKERS": 1, "STORAGE": postgres_url,
        "FILES": tmp_path / "shared",
    }  # fmt: skip
    set_constants(user, LOOK=0.2)
    here, there = user.with_other_runs("here"), user.with_other_runs("there")
    here.before = there.before = user.before
    with watched(here.start(**given)) as first, watched(there.start(**given)) as second:
        said = [process.communicate(timeout=200) for process in (first, second)]
    assert [error for _, error in said] == ["", ""]
    assert [process.returncode for process in (first, second)] == [0, 0]
    assert trials("small", storage=postgres_url)["number"].tolist() == [*range(4)]
    both = "".join(out for out, _ in said)
    retrained = Counter(RETRAINED.findall(both))
    assert set(retrained.values()) == {1}
    assert len(retrained) == 4
    assert Counter(EXPORTED.findall(both)) == {"1": 1, "2": 1}
    assert exports_of(here) == exports_of(there)
    assert len(exports_of(here)) > 10
    third = user.with_other_runs("third")  # has no RUNS yet
    code, _, error = third.run("report", NAME="small", STORAGE=postgres_url, FILES=given["FILES"])
    assert (code, error) == (0, "")
    assert exports_of(third) == exports_of(here)
    (finish,) = read_finishes(postgres_url)
    assert [bool(each.measured) for each in finish.tests] == [True]
    assert finish.result is not None
    assert (finish.owner, finish.result["exports"]) == (None, 2)
    best = json.loads((here.runs / "exports/small/1/provenance.json").read_text())
    engine = open_engine(postgres_url)
    claims = read_claims(engine, best["token"])
    engine.dispose()
    assert {claim.owner for claim in claims.values()} == {None}
    assert len(claims) == 4 + 2
