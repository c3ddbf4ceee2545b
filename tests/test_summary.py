"""What a study concludes: means over repeats, the hook, its mistakes, and where it is kept."""

from __future__ import annotations

import ast
import csv
import html
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from models.results import Table
from search.__main__ import main
from search.errors import StudyFileError
from search.repeats import at_epoch, counted, judged_on, over_repeats, spread
from search.reporting.summary import conclude, summarise, summary_table
from search.reporting.tables import conclusion_blocks
from search.setup.loading import load_study
from search.trials.owner import owner_name
from search.trials.queue import open_queue
from storage.database.connection import open_storage
from storage.files.markdown import describe_basis, format_table
from storage.files.study_summary import keep_summary, read_summary
from storage.paths import RunPaths

ROOT = Path(__file__).parents[1]
WriteStudy = Callable[..., Path]


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two rows of two complete trials and one that failed, two epochs each."""
    states = ["COMPLETE"] * 4 + ["FAIL"]
    rows = pd.DataFrame(
        {"number": range(5), "state": states, "row": ["a", "b", "a", "b", "a"], "value": 0.0}
    )
    values = [[3, 1], [1, 2], [5, 3], [4, 4], [9, 9]]
    epochs = [
        {"number": number, "epoch": epoch, "value": value, "valid_modes": 10.0 * epoch + number}
        for number, both in enumerate(values)
        for epoch, value in enumerate(both, start=1)
    ]
    return rows, pd.DataFrame(epochs)


@pytest.mark.parametrize(
    ("which", "direction", "epochs"),
    [
        ("last", "minimize", [2, 2, 2, 2]),
        ("best", "minimize", [2, 1, 2, 1]),
        ("best", "maximize", [1, 2, 1, 1]),
    ],
)
def test_a_trial_stands_for_its_last_or_its_best_epoch(
    which: Any, direction: Any, epochs: list[int]
) -> None:
    chosen = at_epoch(*frames(), which, direction=direction)
    assert chosen["number"].tolist() == [0, 1, 2, 3]
    assert chosen["epoch"].tolist() == epochs
    assert chosen["valid_modes"].tolist() == [10 * e + n for n, e in enumerate(epochs)]
    assert chosen["value"].tolist() == [0.0] * 4, "the trial's own"


def test_verdicts_are_counted_in_words() -> None:
    told = ["d_won", "healthy", None, math.nan, "healthy"]
    assert counted(told) == "2 healthy, 1 D won"
    assert counted([]) == ""


def test_means_and_deviations_are_taken_over_repeats() -> None:
    found = over_repeats(at_epoch(*frames()), "row", ["valid_modes"])
    assert found.columns.tolist() == ["row", "runs", "valid_modes", "valid_modes_sd"]
    assert found["row"].tolist() == ["a", "b"]
    assert found["runs"].tolist() == [2, 2]
    assert found["valid_modes"].tolist() == [21.0, 22.0]
    assert found["valid_modes_sd"].tolist() == pytest.approx([math.sqrt(2)] * 2)
    both = over_repeats(at_epoch(*frames()), ["row", "number"], ["valid_modes"])
    assert len(both) == 4
    assert both["valid_modes_sd"].isna().all(), "one run has no deviation"


def test_a_spread_says_how_sure_a_mean_is() -> None:
    assert spread(9.666, 0.577) == "9.67 ± 0.58"
    assert spread(9.666, math.nan, 1) == "9.7"
    assert spread(math.nan, math.nan) == "-"


# --- the hook

SUMMARY = """COLUMNS = ("trial", "epochs | all")

    def summary(trials, curves):
        rows = tuple((n, e) for n, e in zip(trials["number"], curves.groupby("number").size()))
        return Table(name="t", title="Epochs by trial", columns=COLUMNS, rows=rows)

    STUDY = StudySpec("""
HOOK = {
    "STUDY = StudySpec(": SUMMARY,
    "trials=4": "trials=2, summary=summary",
    "retrain_epochs=2": "retrain_epochs=1",
    "from models.cae": "from models.results import Table\n    from models.cae",
}


@pytest.fixture
def ended_run(tmp_path: Path, study_file: WriteStudy) -> Iterator[Any]:
    """What `conclude` is told of a run whose two trials have ended."""
    runs = tmp_path / "runs"
    url = f"sqlite:///{runs / 'studies.db'}"
    runs.mkdir()
    opened = open_storage(url)
    stored = optuna.create_study(storage=opened, study_name="small")
    for value in (0.1, 0.2):
        stored.add_trial(
            optuna.trial.create_trial(value=value, intermediate_values={0: value + 1, 1: value})
        )
    queue = open_queue("small", url, owner=owner_name(os.getpid()))
    said: list[str] = []
    yield SimpleNamespace(
        study=load_study(str(study_file(replace=HOOK))),
        run=SimpleNamespace(study="small", storage=url, paths=RunPaths(runs)),
        queue=queue,
        say=said.append,
        said=said,
    )
    for storage in (opened, queue.storage):
        storage.engine.dispose()


def concluded(ended_run: Any) -> Table | None:
    return conclude(ended_run.study, ended_run.run, ended_run.queue, ended_run.say)


def test_what_a_study_concludes_is_kept_in_files_dashboard_and_database(
    ended_run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = concluded(ended_run)
    assert table is not None
    assert ended_run.said == []
    folder = ended_run.run.paths.exports("small")
    with (folder / "summary.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["trial", "epochs | all"], ["0", "2"], ["1", "2"]]
    markdown = (folder / "summary.md").read_text()
    assert markdown.startswith("### Epochs by trial\n")
    assert "| trial | epochs \\| all |" in markdown
    monkeypatch.setenv("RUNS", str(ended_run.run.paths.root))
    monkeypatch.setenv("NAME", "small")
    assert main(["trials"]) == 0
    out = capsys.readouterr().out
    assert "Epochs by trial" in out
    assert "makes it anew" not in out
    ended_run.queue.study.tell(ended_run.queue.study.ask(), 0.3)
    assert main(["trials"]) == 0
    assert "made of 2 trials, 3 have ended: `make study` makes it anew" in capsys.readouterr().out


def test_a_mistake_in_a_summary_is_one_line_and_the_earlier_one_stays(ended_run: Any) -> None:
    concluded(ended_run)
    kept_before = read_summary("small", storage=ended_run.run.storage)

    def mistaken(trials: Any, curves: Any) -> Any:
        return trials["nowhere"]

    ended_run.study = replace(ended_run.study, spec=replace(ended_run.study.spec, summary=mistaken))
    assert concluded(ended_run) is None
    (line,) = ended_run.said
    assert line.startswith("no summary of small: ")
    assert line.endswith("KeyError: 'nowhere'; its trials are kept")
    assert "\n" not in line
    assert read_summary("small", storage=ended_run.run.storage) == kept_before


def test_a_summary_that_cannot_be_written_is_still_shown(ended_run: Any) -> None:
    ended_run.run.paths.exports("small").parent.write_text("a file is in the way")
    table = concluded(ended_run)
    assert table is not None
    (line,) = ended_run.said
    assert line.startswith("no summary of small: ")
    assert read_summary("small", storage=ended_run.run.storage) is not None


def test_nothing_is_concluded_from_no_complete_trial(ended_run: Any) -> None:
    url = ended_run.run.storage
    optuna.create_study(storage=ended_run.queue.storage, study_name="empty")
    ended_run.queue, ended_run.run.study = open_queue("empty", url, owner="nobody"), "empty"
    assert concluded(ended_run) is None
    assert ended_run.said == []
    ended_run.queue.storage.engine.dispose()


MISTAKES = {
    'trials["nmber"]': "line 15: KeyError: 'nmber'",
    "5": "summary returned 5; return a Table of search.study",
    "Table(name='t', title='t', columns=('a',), rows=((None,),))": "summary has a cell None",
    "Table(name='t', title='t', columns=('a',), rows=((1, 2),))": "does not fit ('a',)",
    "exit(3)": "line 15: SystemExit: 3",
}


@pytest.mark.parametrize("returned", MISTAKES)
def test_a_mistake_in_a_summary_is_named_with_its_place(
    study_file: WriteStudy, returned: str
) -> None:
    said = f"def summary(trials, curves):\n        return {returned}\n\n    STUDY = StudySpec("
    path = study_file(replace={**HOOK, "STUDY = StudySpec(": said})
    with pytest.raises(StudyFileError) as error:
        summarise(load_study(str(path)), *frames())
    assert str(error.value).startswith(str(path))
    assert MISTAKES[returned] in str(error.value)


def test_a_summary_is_of_trials_that_have_ended(study_file: WriteStudy) -> None:
    study = load_study(str(study_file(replace=HOOK)))
    rows, epochs = frames()
    rows.loc[2, "state"] = "RUNNING"
    table = summarise(study, rows, epochs)
    assert table.rows == ((0, 2), (1, 2), (3, 2), (4, 2))
    assert json.loads(json.dumps(table.to_plain()))["rows"] == [[0, 2], [1, 2], [3, 2], [4, 2]]


def test_a_summary_that_is_no_function_is_refused(study_file: WriteStudy) -> None:
    path = study_file(replace={"trials=4": "trials=4, summary='mean'"})
    with pytest.raises(StudyFileError, match="summary must be a function: trials, curves -> Table"):
        load_study(str(path))


def test_a_summary_is_replaced_by_a_later_one(storage_url: str) -> None:
    opened = open_storage(storage_url)
    study = optuna.create_study(storage=opened, study_name="noted")
    assert read_summary("noted", storage=storage_url) is None
    first, second = (
        Table(name="t", title=title, columns=("a",), rows=((0.123456789,),)).to_plain()
        for title in ("first", "second")
    )
    keep_summary(study, first, 3)
    keep_summary(study, second, 4)
    found, ended = read_summary("noted", storage=storage_url) or ({}, 0)
    assert (found["title"], found["rows"], ended) == ("second", [[0.123456789]], 4)
    opened.engine.dispose()


def test_names_in_a_table_are_shown_as_they_are() -> None:
    names = ("$5_$10", "a|b*c*", "<b>x</b>", "[x](y)", "`q`", r"back\slash")
    table = {"title": "T", "columns": ("class", "n"), "rows": [(n, 1) for n in names], "note": ""}
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(format_table(table))
    cells = [html.unescape(cell) for cell in re.findall("<td>(.*?)</td>", page)]
    assert cells[::2] == list(names)
    assert r"\$5" in format_table(table)  # else a formula on GitHub


# --- how many seeds stand behind a table's values


def test_a_table_says_how_many_seeds_stand_behind_its_values() -> None:
    plain = table_of(seeds=1, measured_on="10,000 test images").to_plain()
    assert describe_basis(plain) == "Behind each value: 1 seed; 10,000 test images."
    assert describe_basis(table_of(seeds=3).to_plain()) == "Behind each value: 3 seeds."
    counted_by_rows = table_of(seeds="runs").to_plain()
    assert describe_basis(counted_by_rows) == "Behind each value: as many seeds as “runs” says."
    older = {key: value for key, value in plain.items() if key not in ("seeds", "measured_on")}
    assert describe_basis(older) == "Behind each value: seeds not recorded."
    assert describe_basis(table_of().to_plain()) == describe_basis(older)


def table_of(**more: Any) -> Table:
    return Table(name="t", title="T", columns=("row", "runs"), rows=(("a", 3),), **more)


@pytest.mark.parametrize("seeds", ["seeds", 0, -1, 2.0, True])
def test_a_number_of_seeds_that_says_nothing_is_refused(seeds: Any) -> None:
    with pytest.raises(ValueError, match=f"table 't': seeds={seeds!r} is no"):
        table_of(seeds=seeds)


def test_what_stands_behind_a_table_is_shown_wherever_it_is(
    storage_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "Behind each value: as many seeds as “runs” says; 5,000 samples."
    plain = table_of(seeds="runs", measured_on="5,000 samples", note="Means.").to_plain()
    assert f"{said}\n\nMeans." in format_table(plain)
    Console(width=100).print(summary_table(plain))
    assert f"{said} Means." in capsys.readouterr().out
    opened = open_storage(storage_url)
    study = optuna.create_study(storage=opened, study_name="said")
    keep_summary(study, plain, 3)
    assert f"then. {said} Means." in str(conclusion_blocks(study))
    del plain["seeds"], plain["measured_on"]  # as an older version kept it
    keep_summary(study, plain, 3)
    assert "Behind each value: seeds not recorded. Means." in str(conclusion_blocks(study))
    opened.engine.dispose()


def test_a_judged_study_says_how_many_samples_each_run_has() -> None:
    assert judged_on(pd.DataFrame({"value": [0.1]})) == ""
    assert judged_on(pd.DataFrame({"judged_samples": [5000, math.nan]})) == (
        "5,000 samples of each run"
    )
    several = pd.DataFrame({"judged_samples": [5000, 300, 400]})
    assert judged_on(several) == "300 to 5,000 samples of each run"


def test_every_table_of_genstudy_says_what_stands_behind_its_values() -> None:
    """Whoever writes a new table is reminded here."""
    made = []
    for path in (*(ROOT / "models").rglob("*.py"), *(ROOT / "search/studies").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Table":
                given = {keyword.arg for keyword in node.keywords}
                made.append(path.name)
                assert given >= {"seeds", "measured_on"}, f"{path}, line {node.lineno}"
    assert len(made) > 10
