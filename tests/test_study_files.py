"""The files of a study: kept as they were, found beside it, and not mixed up with others'."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.data.images import ImageSplits
from search.errors import StudyChanged, StudyFileError
from search.run import StudyRun
from search.setup.loading import load_study
from search.setup.mistakes import show_warnings_once
from search.setup.stored_study import check_unchanged, identify_study
from search.setup.study_files import KeptLoader, StudyFiles
from search.worker.startup import open_context
from tests.user import WriteStudy

FEW_DIGITS = True

IMPORTED = "from pathlib import Path\n    from models.cae"
WITH_RANGE = {
    "from models.cae": "from ranges import HIGH\n    from models.cae",
    '"latent", 2, 8': '"latent", 2, HIGH',
}


@pytest.fixture(autouse=True)
def leave_no_finder() -> Iterator[None]:
    before = list(sys.meta_path)
    yield
    sys.meta_path[:] = before
    for name, module in list(sys.modules.items()):
        if isinstance(getattr(module, "__loader__", None), KeptLoader):
            del sys.modules[name]


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(content))
    return path


def test_an_edited_study_is_loaded_as_it_was(study_file: WriteStudy, tmp_path: Path) -> None:
    ranges = write(tmp_path / "ranges.py", "HIGH = 8")
    path = study_file(replace=WITH_RANGE)
    began = load_study(str(path))
    ranges.write_text("HIGH = 60")
    path.write_text(path.read_text().replace('"channels", 1, 3', '"channels", 4, 9'))
    later = load_study(str(path), sources=began.sources)
    assert later.space == began.space
    again = load_study(str(path))
    assert (again.space["latent"].high, again.space["channels"].low) == (60, 4)  # type: ignore[attr-defined]
    assert again.version != began.version
    path.unlink()
    assert load_study(str(path), sources=began.sources).space == began.space


def test_what_a_function_imports_later_is_kept_too(study_file: WriteStudy, tmp_path: Path) -> None:
    write(tmp_path / "mine" / "__init__.py", "")
    write(tmp_path / "mine" / "net.py", "from . import deep\nfrom .wide import WIDTH\n")
    write(tmp_path / "mine" / "wide.py", "WIDTH = 3")
    write(tmp_path / "mine" / "deep.py", "def f():\n    import lazy")
    write(tmp_path / "lazy.py", "import torch")
    write(tmp_path / "never.py", "x = 1")
    later = "def later():\n        from mine.net import WIDTH\n\n    def suggest"
    study = load_study(str(study_file(replace={"def suggest": later})))
    beside = {name for name in study.sources if not name.startswith("genstudy_study")}
    assert beside == {"mine", "mine.net", "mine.wide", "mine.deep", "lazy"}
    assert not {"mine", "lazy"} & set(sys.modules), "read, but not run"


def test_a_file_in_another_encoding_is_kept(study_file: WriteStudy, tmp_path: Path) -> None:
    (tmp_path / "ranges.py").write_bytes(b"# coding: latin-1\nHIGH = len('\xfc\xdf\xe4') + 5\n")
    study = load_study(str(study_file(replace=WITH_RANGE)))
    again = load_study(str(study.path), sources=study.sources)
    assert again.space["latent"].high == study.space["latent"].high == 8  # type: ignore[attr-defined]


def test_two_studies_may_each_have_a_file_of_the_same_name(
    study_file: WriteStudy, tmp_path: Path
) -> None:
    content = study_file(replace=WITH_RANGE).read_text()
    spaces = []
    for folder, high in (("a", 5), ("b", 7), ("a", 6)):
        write(tmp_path / folder / "ranges.py", f"HIGH = {high}")
        spaces.append(load_study(str(write(tmp_path / folder / f"{folder}.py", content))).space)
    assert [space["latent"].high for space in spaces] == [5, 7, 6]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("beside", "statement", "words"),
    [
        ("models/mynet.py", "from models.mynet import Net", "No module named 'models.mynet'"),
        ("storage.py", "from storage import Bucket", "cannot import name 'Bucket'"),
        ("storage.py", "import storage; storage.Bucket", "no attribute 'Bucket'"),
        ("search.py", "from search import grid_of_mine", "cannot import name 'grid_of_mine'"),
        ("random.py", "from random import my_choice", "cannot import name 'my_choice'"),
    ],
)
def test_a_file_beside_the_study_with_a_taken_name_is_one_line(
    study_file: WriteStudy,
    tmp_path: Path,
    refused: Callable[..., str],
    beside: str,
    statement: str,
    words: str,
) -> None:
    write(tmp_path / beside, "class Net: pass\nclass Bucket: pass\n")
    name = beside.partition("/")[0].removesuffix(".py")
    path = study_file(replace={"from models.cae": f"{statement}\n    from models.cae"})
    said = refused(NAME=path)
    for word in (f"{path}, line 3", words, f"the name {name!r} belongs to", f"my_{name}"):
        assert word in said


def test_files_with_genstudys_names_do_no_harm_where_nobody_wants_them(
    study_file: WriteStudy, tmp_path: Path
) -> None:
    for name in ("models", "search", "storage", "optuna", "json"):
        write(tmp_path / f"{name}.py", "raise RuntimeError('this is not the one')")
    study = load_study(str(study_file()))
    assert list(study.sources) == ["genstudy_study_small"]


def test_a_free_name_is_not_hidden(study_file: WriteStudy, tmp_path: Path) -> None:
    write(tmp_path / "ranges.py", "HIGH = 8")
    files = StudyFiles(study_file(replace=WITH_RANGE))
    assert not files.hides("ranges")
    files.load()
    assert not files.hides("ranges")
    assert not files.hides("models")  # nothing of that name lies there


def test_a_mistake_in_a_file_beside_the_study_has_its_place(
    study_file: WriteStudy, tmp_path: Path, refused: Callable[..., str]
) -> None:
    beside = write(tmp_path / "ranges.py", "def high():\n    return int('many')\nHIGH = 8\n")
    call = {**WITH_RANGE, "def suggest(trial):": "def suggest(trial):\n        ranges.high()\n"}
    call["from models.cae"] = "import ranges\n    from ranges import HIGH\n    from models.cae"
    said = refused(NAME=study_file(replace=call))
    assert f"{beside}, line 2: ValueError: invalid literal" in said
    beside.write_text("HIGH = = 8\n")
    assert f"{beside}, line 1: SyntaxError" in refused(NAME=tmp_path / "small.py")


def test_a_worker_whose_study_reads_something_else_by_now_says_so(
    study_file: WriteStudy, tmp_path: Path, digits: ImageSplits
) -> None:
    (tmp_path / "high.txt").write_text("8")
    read = f"int(Path({str(tmp_path / 'high.txt')!r}).read_text())"
    changes = {'"latent", 2, 8': f'"latent", 2, {read}', "from models.cae": IMPORTED}
    began = load_study(str(study_file(replace=changes)))
    stored = identify_study(began, digits, epochs=None, seed=None, stored=None)
    check_unchanged(stored, load_study(str(began.path), sources=began.sources))
    (tmp_path / "high.txt").write_text("9")
    with pytest.raises(StudyChanged, match="latent 2 to 8, now 2 to 9"):
        check_unchanged(stored, load_study(str(began.path), sources=began.sources))


def test_a_warning_of_a_study_is_shown_once(study_file: WriteStudy) -> None:
    path = study_file(
        replace={
            "return CAEConfig": "trial.suggest_float('d', 0, 0.5, step=0.2)\n        "
            "return CAEConfig"
        }
    )
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        load_study(str(path))
        load_study(str(path))
    assert len([w for w in shown if "not divisible" in str(w.message)]) == 1


def test_a_worker_shows_each_warning_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))
    show_warnings_once()
    for number in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the step does not divide the range", UserWarning, stacklevel=1)
            warnings.warn(f"trial {number % 2}", UserWarning, stacklevel=1)
    assert shown == ["the step does not divide the range", "trial 0", "trial 1"]


def test_a_worker_of_other_code_than_its_run_says_so() -> None:
    run = StudyRun(
        name="cae", study="cae", storage="", runs="", images="", seed=0, trials=1, epochs=1,
        retrain_epochs=1, revision="", token="", code="of yesterday",
    )  # fmt: skip
    with pytest.raises(StudyChanged, match="genstudy's own files have changed"):
        open_context(run, "cpu", None, "worker")  # type: ignore[arg-type]


def test_a_study_that_raises_leaves_nothing_behind(tmp_path: Path) -> None:
    before = list(sys.meta_path)
    with pytest.raises(StudyFileError, match="line 1: ZeroDivisionError"):
        load_study(str(write(tmp_path / "s.py", "1 / 0")))
    assert sys.meta_path == before
    assert "genstudy_study_s" not in sys.modules
