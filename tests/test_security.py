"""What a stranger's file or a curious neighbour must not be able to do."""

from __future__ import annotations

import os
import subprocess
import sys
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
from pathlib import Path
from models.export import load_export
load_export(Path({folder!r}))
"""


@pytest.fixture
def audited(real_user: User, tmp_path: Path) -> Path:
    """Every process of ``user`` writes there what its pickles ask for."""
    (tmp_path / "auditor").mkdir()
    (tmp_path / "auditor" / "sitecustomize.py").write_text(AUDITOR)
    paths = [str(tmp_path / "auditor"), *filter(None, [os.environ.get("PYTHONPATH")])]
    real_user.environment["PYTHONPATH"] = os.pathsep.join(paths)
    real_user.environment["AUDITED"] = str(tmp_path / "audited")
    run(real_user, UNPICKLE)
    assert "pathlib.PurePosixPath" in (tmp_path / "audited").read_text(), "the auditor works"
    (tmp_path / "audited").write_text("")
    return tmp_path / "audited"


def run(real_user: User, script: str) -> None:
    root = Path(__file__).parent.parent
    subprocess.run(
        [sys.executable, "-c", script], env=real_user.environment, cwd=root, check=True, timeout=120
    )


def test_no_pickle_is_loaded_from_the_first_trial_to_the_loaded_export(
    real_user: User, study_file: WriteStudy, audited: Path
) -> None:
    code, _, error = real_user.run(NAME=study_file(), TRIALS=2, WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    run(real_user, LOAD.format(folder=str(real_user.runs / "exports" / "small" / "1")))
    assert audited.read_text() == ""
