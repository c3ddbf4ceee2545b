"""What a stranger's file or a curious neighbour must not be able to do."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, UnidentifiedImageError

from models.data.decoding import Decoder, measure_depth, read_header
from models.errors import DataError
from models.figures.sample_history import read_row
from search import passwords
from search.__main__ import main
from search.reporting.pictures import to_data_uri
from search.variables import read_variables
from tests.user import User, WriteStudy

FEW_DIGITS = True

ROOT = Path(__file__).parent.parent
ROOMS = ("search", "models", "storage")

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


# ---- images ----

POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 28 28
%%EndComments
(%pipe%touch /tmp/x) (w) file
showpage
%%EOF
"""
READERS: dict[str, Callable[[Path], object]] = {
    "decode": lambda path: Decoder().decode(path),
    "header": read_header,
    "depth": lambda path: measure_depth([path]),
    "row": read_row,
    "page": lambda path: to_data_uri(path.read_bytes()),
}


@pytest.mark.parametrize("reader", READERS)
def test_postscript_that_is_called_an_image_starts_no_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    started: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda *words, **_: started.append(words))
    path = tmp_path / "x.png"
    path.write_bytes(POSTSCRIPT)
    with pytest.raises((DataError, UnidentifiedImageError)):
        READERS[reader](path)
    assert started == []


def test_a_photo_of_the_web_is_read_whatever_its_suffix_says(tmp_path: Path) -> None:
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "AVIF", "MPO"):
        path = tmp_path / f"{kind}.jpg"
        Image.new("RGB", (9, 8), (200, 30, 30)).save(path, kind)
        assert Decoder().decode(path).pixels.shape == (3, 8, 9)


def test_no_file_opens_an_image_of_any_format() -> None:
    found = []
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in (
                "Image.open",
                "open_image",
            ):
                found.append(ast.unparse(call))
    assert [call for call in found if "formats=" not in call and "open_image" not in call] == []
    assert len(found) > 4


# ---- passwords ----


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("postgresql://me:secret@host/db", True),
        ("postgresql://:secret@host/db", True),
        ("postgresql+psycopg://me:se@cret@host:5432/db", True),
        ("postgresql://me@host/db?password=secret", True),
        ("postgresql://me@host:5432/db?sslmode=require&sslPassword=secret", True),
        ("postgresql:/me:secret@host/db", True),
        ("host=h user=me password = secret", True),
        ("postgresql://me@host:5432/db", False),
        ("postgresql://me@host/db?passfile=/home/me/pass", False),
        ("postgresql:///?service=mine", False),
        ("sqlite:////tmp/a:b@c.db", False),
        ("file:~/address", False),
        ("", False),
    ],
)
def test_an_address_with_a_password_is_known(address: str, holds: bool) -> None:
    assert passwords.holds_password(address) is holds


@pytest.mark.parametrize("typed", [True, False])
def test_a_process_with_a_password_starts_anew_without_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], typed: bool
) -> None:
    address = "postgresql://me:hunter2@host/db"
    begun: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *given: begun.append(given))
    monkeypatch.setenv("MAKEFLAGS", f" -- STORAGE={address}")
    words = ["python", "/bin/genstudy", "studies", *([f"STORAGE={address}"] if typed else [])]
    monkeypatch.setattr(sys, "orig_argv", words)
    if not typed:
        monkeypatch.setenv("STORAGE", address)
    passwords.hide_password()
    ((program, words, environment),) = begun
    assert program == words[0] == sys.executable
    assert "hunter2" not in repr((words, environment))
    assert ("STORAGE=file:PATH" in capfd.readouterr().err) is typed  # the warning
    piped = words[-1].removeprefix("STORAGE=") if typed else environment["STORAGE"]
    monkeypatch.setenv("STORAGE", piped)
    with passwords.received_storage():
        assert "STORAGE" not in os.environ
        assert passwords.with_storage(os.environ)["STORAGE"] == address
        assert read_variables().storage == address


def test_a_child_of_a_command_does_not_inherit_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look() -> int:
        seen.append(dict(os.environ))
        return 0

    monkeypatch.setattr("search.cli.listing.studies", look)
    monkeypatch.setenv("STORAGE", f"sqlite:///{tmp_path}/s.db")
    assert main(["studies"]) == 0
    assert "STORAGE" not in seen[0]
    assert os.environ["STORAGE"] == f"sqlite:///{tmp_path}/s.db"
