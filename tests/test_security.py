"""What a stranger's file or a curious neighbour must not be able to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.user import User, WriteStudy

# Python tells its auditors of every class or function that a pickle asks for.
AUDITOR = """
import os, sys

def audit(event, arguments):
    if event == "pickle.find_class":
        with open(os.environ["AUDITED"], "a") as file:
            file.write(f"{arguments[0]}.{arguments[1]}\\n")

sys.addaudithook(audit)
"""
UNPICKLE = "import pickle, pathlib; pickle.loads(pickle.dumps(pathlib.PurePosixPath('a')))"
LOAD = """
from models.export import load_export
load_export(sys.argv[1])
"""


@pytest.fixture
def audited(user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every process of ``user`` writes there what its pickles ask for."""
    place = tmp_path / "audited"
    monkeypatch.setenv("AUDITED", str(place))
    user.environment["AUDITED"] = str(place)
    user.before = AUDITOR
    run(user, UNPICKLE)
    assert "pathlib.PurePosixPath" in place.read_text(), "the auditor works"
    place.write_text("")
    return place


def run(user: User, script: str, *arguments: object) -> None:
    assert user.preloaded is not None
    process = user.preloaded.run_program(AUDITOR + script, *arguments)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 0, error


def test_no_pickle_is_loaded_from_the_first_trial_to_the_loaded_export(
    user: User, study_file: WriteStudy, audited: Path
) -> None:
    code, _, error = user.run(NAME=study_file(), TRIALS=2, WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    run(user, LOAD, user.runs / "exports" / "small" / "1")
    assert audited.read_text() == ""
