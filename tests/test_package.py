"""genstudy as an installed package: the command, its import path, the module, and the wheel.

python -m pytest tests/test_package.py
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import Distribution
from pathlib import Path
from zipfile import ZipFile

import optuna
import pandas as pd
import pytest
from filelock import FileLock

import genstudy
from genstudy.__main__ import main, order_path
from search.__main__ import COMMANDS
from search.command_line import USAGES, read_words, run
from search.setup.loading import load_study
from search.setup.revision import code_revision
from search.spelling import CALLED_AS, spell
from search.supervisor.process import WORKER, start_process
from search.variables import VARIABLES
from storage import trials
from storage.database.connection import open_storage
from storage.errors import DatabaseUnreachable
from tests.test_house import STORED_FAMILIES

ROOT = Path(__file__).parent.parent
ROOMS = ("search", "models", "storage")
TYPED = re.compile(r"\bmake (study|studies|trials|report|dashboard|look|help)\b")


# ---- how a command is spelt ----


def test_a_command_is_spelt_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spell("dashboard") == "make dashboard"
    assert spell("trials", NAME="cae", CSV="my table") == "make trials NAME=cae CSV='my table'"
    monkeypatch.setenv(CALLED_AS, "genstudy")
    assert spell("dashboard") == "genstudy dashboard"
    assert spell("trials", CSV="my table", NAME="a b") == "genstudy trials 'a b' CSV='my table'"


def test_a_spelt_command_means_what_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = "it's $HOME/ü.py"
    assert shlex.split(spell("study", NAME=odd))[2] == "NAME=it's $$HOME/ü.py"  # make halves it
    monkeypatch.setenv(CALLED_AS, "genstudy")
    assert shlex.split(spell("study", NAME=odd)) == ["genstudy", "study", odd]


def strings_of(path: Path) -> list[ast.Constant]:
    """All texts in a file that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def test_no_message_tells_an_installed_person_to_use_make() -> None:
    """Messages that name a command are made by `search.spelling.spell`."""
    wrong = [
        f"{path.relative_to(ROOT)}:{text.lineno} {text.value!r}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        for text in strings_of(path)
        if TYPED.search(str(text.value))
    ]
    assert not wrong, f"use search.spelling.spell: {wrong}"


# ---- the words of the command ----


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("study cae", ("study", {"NAME": "cae"})),
        ("study cae TRIALS=10", ("study", {"NAME": "cae", "TRIALS": "10"})),
        ("TRIALS=10 study cae", ("study", {"TRIALS": "10", "NAME": "cae"})),
        ("study NAME=cae TOP=", ("study", {"NAME": "cae", "TOP": ""})),
        ("study ./a=b.py", ("study", {"NAME": "./a=b.py"})),
        ("study cae SAMPLER='tpe(seed=3)'", ("study", {"NAME": "cae", "SAMPLER": "tpe(seed=3)"})),
        ("study 'my studies/ü $x.py'", ("study", {"NAME": "my studies/ü $x.py"})),
        ("trials cae CSV=a CSV=b", ("trials", {"NAME": "cae", "CSV": "b"})),
        ("studies RUNS=old", ("studies", {"RUNS": "old"})),
    ],
)
def test_words_are_read_as_make_reads_them(
    words: str, expected: tuple[str, dict[str, str]]
) -> None:
    call = read_words(shlex.split(words))
    assert (call.command, call.variables) == expected
    assert not call.wants_help


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("stduy cae", ["unknown command 'stduy'", "did you mean 'study'?"]),
        ("Study cae", ["did you mean 'study'?"]),
        ("trainer", ["unknown command 'trainer'"]),
        ("cae TRIALS=3", ["'cae' is a study, not a command; run it with: genstudy study cae"]),
        ("./my.py", ["run it with: genstudy study ./my.py"]),
        ("TRIALS=3", ["no command is given; say which: study, worker, status"]),
        ("study cae TRAILS=3", ["unknown variable 'TRAILS'", "did you mean 'TRIALS'?"]),
        ("study cae trials=3", ["unknown variable 'trials'", "did you mean 'TRIALS'?"]),
        ("study cae --trials=3", ["no option '--trials=3'", "no dashes: TRIALS=3"]),
        ("study cae --retrain-epochs 3", ["no dashes: RETRAIN_EPOCHS=value"]),
        ("study cae -v", ["no option '-v'", "no dashes: TRIALS=10"]),
        ("study cae 10", ["takes one name, but '10' comes after 'cae'", "NAME=value"]),
        ("study vae NAME=cae", ["takes one name, but 'vae' comes after 'cae'"]),
        ("studies cae", ["studies takes no name, but 'cae' is given"]),
        ("study " + "x" * 5000 + "=1 cae", ["unknown variable"]),
    ],
)
def test_wrong_words_are_one_line_with_the_fix(
    words: str,
    said: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(CALLED_AS, "")
    assert run(shlex.split(words)) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert len(error) < 700
    for part in said:
        assert part in error


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_and_variable(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLED_AS, "")
    monkeypatch.setenv("COLUMNS", "80")
    assert run(words) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"^  genstudy {name}  +\w", out, re.MULTILINE)
    for name in VARIABLES:
        assert re.search(rf"^  {name} ", out, re.MULTILINE)
    assert "make " not in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_reader_of_the_help_may_leave_early() -> None:
    program = f"{sys.executable} -m search.package.genstudy --help | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program}"],
        capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_a_help_that_names_its_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CALLED_AS, "")
    assert set(USAGES) == set(COMMANDS)
    listed = set()
    for name in COMMANDS:
        assert run([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"genstudy {name}")
        assert set(USAGES[name].variables) <= {*VARIABLES}
        for variable in USAGES[name].variables:
            assert re.search(rf"^  {variable} ", out, re.MULTILINE)
        assert "  PORT " in out or name != "dashboard"
        assert "  PORT " not in out or name != "study"
        listed |= set(USAGES[name].variables)
    assert listed == {*VARIABLES}


def test_a_name_that_the_shell_exports_is_not_taken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CALLED_AS, "")
    monkeypatch.setenv("GENSTUDY_GIVEN", "NAME")
    monkeypatch.setenv("NAME", "wsl-hostname")
    monkeypatch.setenv("RUNS", str(tmp_path))
    assert run(["trials"]) == 2
    assert "NAME is not set; say which study: genstudy trials cae" in capsys.readouterr().err


# ---- where it imports from ----


def neighbours(place: Path) -> Path:
    """A project whose files have the names of all that genstudy needs; none can be imported."""
    (place / "models").mkdir(parents=True)
    for name in ("models/__init__", "search", "storage", "torch", "optuna", "typing", "pathlib"):
        (place / f"{name}.py").write_text("raise RuntimeError(f'{__file__} was imported')\n")
    return place


def test_the_current_folder_is_not_on_the_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, other = neighbours(tmp_path / "project"), tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(project)
    monkeypatch.chdir(project)
    ours = str(ROOT)
    entries = ["", ".", str(project), str(tmp_path / "link"), "/usr/lib", str(other), ours]
    assert order_path(entries) == ["/usr/lib", str(other), ours]
    monkeypatch.chdir(other)
    assert order_path([*entries[2:]]) == ["/usr/lib", ours, *entries[2:4]]
    assert order_path(["/usr/lib"]) == [ours, "/usr/lib"]
    monkeypatch.chdir(ROOT)  # a checkout may be called in its own folder
    assert order_path(["", "/usr/lib"]) == ["", "/usr/lib"]


def test_a_removed_folder_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert order_path(["/usr/lib", str(ROOT)]) == ["/usr/lib", str(ROOT)]


@pytest.fixture(scope="module")
def wheel(shared_folder: Path) -> Path:
    """The wheel of this checkout, built once for all processes of the session."""
    place = shared_folder / "wheel"
    with FileLock(shared_folder / "wheel.lock"):
        if not place.exists():
            place.mkdir()
            build = "import sys, hatchling.build as b; b.build_wheel(sys.argv[1])"
            done = subprocess.run(
                [sys.executable, "-c", build, place],
                cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    (path,) = place.glob("*.whl")
    return path


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    """The folder of a plain installation of the wheel."""
    with ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site-packages")
    return tmp_path / "site-packages"


def start(*words: str, site: Path, project: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a project's folder, which is on PYTHONPATH, behind an installed genstudy."""
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": f"{site}:.", "COLUMNS": "200"},
        cwd=project, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


MINE = """
from pathlib import Path
from genstudy import CAE, CAEConfig, StudySpec

LOWEST = int(Path("lowest.txt").read_text())

def suggest(trial):
    return CAEConfig(channels=1, latent=trial.suggest_int("latent", LOWEST, 3))

STUDY = StudySpec(
    model=CAE, suggest=suggest, data="digits", shape=(1, 28, 28), metric="mse", trials=1, epochs=1
)
"""


def test_a_study_runs_among_hostile_neighbours(installed: Path, tmp_path: Path) -> None:
    """With ``python -m`` and PYTHONPATH=. the folder stands first; workers start in it, too."""
    project = neighbours(tmp_path / "my project")
    (project / "mine.py").write_text(MINE)
    (project / "lowest.txt").write_text("2")
    small = ["TOP=0", "WORKERS=1", "GPUS=none"]
    done = start("-m", "genstudy", "study", "mine.py", *small, site=installed, project=project)
    assert done.returncode == 0, done.stderr
    assert "trial   0  complete" in done.stdout
    assert (project / "runs" / "studies.db").is_file()
    assert not list(project.rglob("__pycache__"))
    shown = start("-m", "genstudy", "trials", "mine", site=installed, project=project)
    assert shown.stdout.startswith("study mine: 1 complete"), shown.stderr
    (row,) = trials("mine", storage=f"sqlite:///{project}/runs/studies.db").to_dict("records")
    assert row["revision"] == f"genstudy {installed_version(installed)}"


def installed_version(site: Path) -> str:
    (found,) = Distribution.discover(name="genstudy", path=[str(site)])
    return found.version


def test_a_worker_imports_from_where_its_supervisor_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda words, **_: started.append(words))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/a:b/c d", "lib"])
    start_process(tmp_path / "log")
    assert started[0][: len(WORKER)] == [*WORKER]
    assert started[0][len(WORKER) :] == [str(tmp_path), "/a:b/c d", f"{tmp_path}/lib"]


# ---- the module ----


def test_the_module_shows_what_there_is() -> None:
    assert dir(genstudy) == sorted(genstudy.__all__)
    places = {name for names in genstudy._PLACES.values() for name in names}
    assert {*genstudy.__all__} == {*places, "__version__"}
    families = {name for name in places if isinstance(getattr(genstudy, name), type)}
    known = {name.partition(":")[2] for name in STORED_FAMILIES} - {"Adversarial"}
    assert known <= families
    for family in known - {"Autoencoder"}:  # its families say what theirs is
        assert getattr(genstudy, family).config_type is getattr(genstudy, f"{family}Config")


@pytest.mark.parametrize("name", [name for name in genstudy.__all__ if name != "__version__"])
def test_each_name_is_that_of_the_rooms(name: str) -> None:
    module = importlib.import_module(genstudy._MODULES[name])
    assert getattr(genstudy, name) is getattr(module, name)


def test_an_unknown_name_is_refused_with_a_pointer() -> None:
    with pytest.raises(AttributeError, match="no 'trails'; dir") as caught:
        _ = genstudy.trails  # type: ignore[attr-defined]
    assert (caught.value.name, caught.value.obj) == ("trails", genstudy)  # Python suggests trials


def test_the_names_have_types(tmp_path: Path) -> None:
    """`make check` reads this; without types the ignored lines would be errors."""
    frame: pd.DataFrame | None = None
    load: Callable[..., genstudy.Model] = genstudy.load_export
    version: str = genstudy.__version__
    with pytest.raises(DatabaseUnreachable):
        frame = genstudy.trials("x", storage=f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(TypeError):
        genstudy.best(study_name="cae")  # type: ignore[call-arg]
    assert frame is None
    assert callable(load)
    assert version


def test_a_study_file_may_import_all_from_genstudy(study_file: Callable[..., Path]) -> None:
    path = study_file(
        replace={
            "from models.cae import CAE, CAEConfig": "from genstudy import CAE, CAEConfig",
            "from search.study import StudySpec": "from genstudy import StudySpec",
        }
    )
    assert load_study(str(path)).spec.model is genstudy.CAE


BESIDE = """
import sys
import genstudy
assert not {{"torch", "pandas"}} & set(sys.modules)
print(len(genstudy.trials("old", storage="sqlite:///{database}")))
assert "torch" not in sys.modules
for name in ("load_export", "CAE", "StudySpec"):
    try:
        getattr(genstudy, name)
    except ImportError as error:
        print(error)
"""


@pytest.fixture
def old_database(tmp_path: Path) -> Path:
    """A database with one study of one trial."""
    path = tmp_path / "old.db"
    storage = open_storage(f"sqlite:///{path}")
    study = optuna.create_study(study_name="old", storage=storage)
    study.add_trial(optuna.trial.create_trial(value=1.0))
    storage.engine.dispose()
    return path


def test_frames_work_beside_a_projects_own_models(
    installed: Path, old_database: Path, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    own = project / "models" / "__init__.py"
    own.write_text("raise RuntimeError('nobody asked for it')\n")
    program = BESIDE.format(database=old_database)
    done = start("-c", program, site=installed, project=project)
    assert done.returncode == 0, done.stderr
    number, *refusals = done.stdout.splitlines()
    assert number == "1"
    assert len(refusals) == 3
    for name, line in zip(("load_export", "CAE", "StudySpec"), refusals, strict=True):
        assert line.startswith(f"genstudy.{name} needs genstudy's package 'models', but")
        assert str(own) in line
        assert "rename yours" in line


def test_a_project_without_such_names_gets_all(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "project" / "models").mkdir(parents=True)  # a folder that is no package
    program = "import genstudy; print(genstudy.CAE.__module__, genstudy.StudySpec.__module__)"
    done = start("-c", program, site=installed, project=tmp_path / "project")
    assert done.stdout == "models.cae search.study\n", done.stderr


# ---- frames in a notebook ----


def test_frames_say_where_they_looked_and_what_to_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for ask in (genstudy.trials, genstudy.curves, genstudy.best, genstudy.choices):
        with pytest.raises(DatabaseUnreachable) as caught:
            ask("cae")
        assert f"no trial database at {tmp_path}/runs/studies.db" in str(caught.value)
        assert "storage='sqlite:////PATH" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(DatabaseUnreachable, match=r"PATH/TO/runs/studies.db"):
        genstudy.studies()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_in_place_of_a_url_is_refused_with_the_url(
    kind: type[str | Path], old_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(old_database.parent)
    with pytest.raises(DatabaseUnreachable) as caught:
        genstudy.trials("old", storage=kind("old.db"))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    written = re.search(r"write storage='(.*)'$", str(caught.value))
    assert written
    assert len(genstudy.trials("old", storage=written[1])) == 1


# ---- what is installed ----


def test_the_wheel_holds_all_that_is_needed_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        entries = next(n for n in archive.namelist() if n.endswith("entry_points.txt"))
        commands = archive.read(entries).decode()
    expected = {
        str(path.relative_to(ROOT)).replace("search/package/", "")
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    assert {name.partition("/")[0] for name in names} == {"genstudy", *ROOMS}
    assert {f"{room}/py.typed" for room in ("genstudy", *ROOMS)} <= names
    assert "search/studies/cae.py" in names
    assert commands.split() == ["[console_scripts]", "genstudy", "=", "genstudy.__main__:main"]
    assert callable(main)


def test_an_editable_installation_has_the_module_too(tmp_path: Path) -> None:
    build = "import sys, hatchling.build as b; b.build_editable(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=ROOT, check=True)
    with ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        lines = archive.read(path).decode().split()
    assert set(lines) == {str(ROOT), str(ROOT / "search" / "package")}


def test_the_revision_of_an_installed_package_is_its_version(installed: Path) -> None:
    assert code_revision(installed) == f"genstudy {genstudy.__version__}"
