"""The front of a study with several goals: what is retrained and exported, and what every page,
table and message says of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from models.cae import CAE, CAEConfig
from search.cli.conclusion import draw_front
from search.events import Ended
from search.goals import read_goals
from search.reporting.front_figure import FrontPoint, draw_fronts
from search.reporting.report import write_report
from search.run import StudyRun
from search.setup.loading import load_study
from search.study import StudySpec
from search.supervisor.display import Display
from search.supervisor.notices import Notices
from search.supervisor.study_note import StudyNote
from search.trials.certificate import Compared, certify
from search.trials.export_words import describe_dominated
from search.trials.leaderboard import Leaderboard
from search.trials.queue import TrialQueue
from search.trials.standings import race_of
from search.trials.study_record import StudyRecord
from search.trials.study_status import read_status
from search.trials.trial_note import TrialNote
from storage import trials
from storage.database.connection import open_storage
from storage.database.trial_frame import GOALS, VIOLATING
from storage.files.artifacts import listed_artifacts
from storage.files.certificate_words import certificate_lines, goals_in_words
from storage.files.model_card import model_card
from storage.paths import RunPaths
from tests.test_bases import HEAD
from tests.user import User, WriteStudy

FEW_DIGITS = True

TWO = {'metric="mse"': 'metric=("mse", "code")', 'pruner="none"': 'pruner="front"'}
FRONT = [(0.9, 2.0), (0.5, 3.0), (0.1, 9.0)]  # the knee is the second
VALUES = [*FRONT, (0.8, 9.0), (0.01, 1.0)]  # the last one violates a constraint


@pytest.fixture
def stored(tmp_path: Path) -> optuna.Study:
    """A study with two goals, of which three trials are on the front."""
    storage = open_storage(RunPaths(tmp_path / "runs").database_url)
    study = optuna.create_study(
        study_name="small", storage=storage, directions=["minimize", "minimize"]
    )
    study._storage.set_study_system_attr(study._study_id, "study:metric_names", ["mse", "code"])
    space: dict[str, Any] = {"lr": optuna.distributions.FloatDistribution(0, 1)}
    for number, values in enumerate(VALUES):
        attributes = {"constraints:0": 1.0} if number == 4 else {}
        trial = create_trial(
            values=values, params={"lr": values[0]}, distributions=space, system_attrs=attributes,
            intermediate_values={0: values[0]},
        )  # fmt: skip
        study.add_trial(trial)
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={0: 0.7}))
    return study


def a_spec(**values: Any) -> StudySpec:
    return StudySpec(
        **{
            "model": CAE, "suggest": lambda trial: CAEConfig(), "data": "digits", "trials": 9,
            "metric": ("mse", "code"), "epochs": 2, **values,
        }
    )  # fmt: skip


def a_run(tmp_path: Path, **values: Any) -> StudyRun:
    plain: dict[str, Any] = {
        "name": "small", "study": "small", "storage": "", "runs": str(tmp_path / "runs"),
        "images": "", "seed": 0, "trials": 9, "epochs": 2, "retrain_epochs": 2, "revision": "r",
        "token": "t", "seeds": 3, **values,
    }  # fmt: skip
    return StudyRun(**plain)


# ---- ranks ----


def test_the_front_is_retrained_and_no_seed_is_raced(stored: optuna.Study, tmp_path: Path) -> None:
    leaderboard = Leaderboard(a_spec(), a_run(tmp_path), stored)
    assert leaderboard.ranked_trials() == [1, 2, 0], "who adds most to the hypervolume first"
    assert leaderboard.value_of(1) == 0.5
    assert not leaderboard.ranks_by_value
    assert race_of(leaderboard, [1, 2]).missing == ((1, 1), (2, 1), (1, 2), (2, 2))


def test_a_certificate_of_a_front_knows_no_best() -> None:
    rows = [
        Compared(trial=1, searched=0.5, values=(0.51, 0.52, 0.53)),
        Compared(trial=2, searched=0.1, values=(0.11, 0.12, 0.13)),
    ]
    first, second = certify(rows, seeds=3, minimize=True, by_value=False, is_front=True)
    assert (first.probability, second.lead_in_search) == (None, None)
    goals = [
        {"name": "mse", "direction": "minimize", "value": 0.52, "searched": 0.5},
        {"name": "code", "direction": "minimize", "value": 3.0, "searched": 3.0},
    ]
    about = {"metric": "mse", "certificate": first.to_plain(), "goals": goals}
    lines = certificate_lines(about)
    assert lines[0].startswith("It stands on the front of the search: no other trial was better in")
    assert "this export has mse 0.52, code 3" in lines[0]
    assert not any("lead" in line or "probability" in line for line in lines)


def test_an_export_of_a_front_stays_when_another_trial_joins_it() -> None:
    one = Compared(trial=1, searched=0.5, values=(0.51, 0.52, 0.53))
    other = Compared(trial=2, searched=0.1, values=(0.11, 0.12, 0.13))
    for is_front in (True, False):
        alone, *_ = certify([one], seeds=3, minimize=True, by_value=False, is_front=is_front)
        beside, *_ = certify(
            [one, other], seeds=3, minimize=True, by_value=False, is_front=is_front
        )
        assert beside.is_said_by(alone.to_plain()) == is_front
        assert alone.is_said_by(beside.to_plain())


def an_export(rank: int, mse: float, size: float) -> dict[str, Any]:
    goals = [
        {"name": "mse", "direction": "minimize", "value": 9.0},
        {"name": "code", "direction": "minimize", "value": size},
    ]
    return {"rank": rank, "goals": goals, "certificate": {"mean": mse}}


def test_an_export_that_was_lucky_in_the_search_is_said_to_be_off_the_front() -> None:
    records = [an_export(1, 0.3, 5), an_export(2, 0.1, 9), an_export(3, 0.2, 9)]
    (line,) = describe_dominated(records)
    assert line.startswith("trained again, rank 3 is off the front: rank 2 is as good or better")
    assert describe_dominated(records[:2]) == []
    assert describe_dominated([{"rank": 1, "certificate": {"mean": 0.3}}]) == []


# ---- frames, tables, messages ----


def test_a_frame_knows_goals_and_who_violates_constraints(
    stored: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = RunPaths(tmp_path / "runs").database_url
    frame = trials("small", storage=url)
    monkeypatch.setattr("storage.frames.known_schema", lambda connection: False)
    by_optuna = trials("small", storage=url)
    for each in (frame, by_optuna):
        assert each.attrs[GOALS] == [("mse", "MINIMIZE"), ("code", "MINIMIZE")]
        assert each.attrs[VIOLATING] == [4]


def test_the_table_of_trials_has_a_column_for_each_goal(
    stored: optuna.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from search.__main__ import main

    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NAME", "small")
    assert main(["trials"]) == 0
    said = capsys.readouterr().out
    assert "3 trials are on the front of mse and code" in said
    rows = [line.split() for line in said.splitlines()]
    heads = [place for place, row in enumerate(rows) if row[:3] == ["trial", "mse", "code"]]
    table = rows[heads[0] :]
    assert [row[:3] for row in table[1:4]] == [
        ["2", "0.1", "9"], ["1", "0.5", "3"], ["0", "0.9", "2"],
    ]  # fmt: skip


def test_a_table_says_why_no_complete_trial_is_on_the_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from search.__main__ import main

    storage = open_storage(RunPaths(tmp_path / "runs").database_url)
    study = optuna.create_study(study_name="small", storage=storage, directions=["minimize"] * 2)
    study.add_trial(create_trial(values=[1.0, 2.0], system_attrs={"constraints:0": 1.0}))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("NAME", "small")
    assert main(["trials"]) == 0
    assert "every complete trial violates constraints" in capsys.readouterr().out
    paths = RunPaths(tmp_path / "runs")
    written = (write_report("small", paths.database_url, paths) / "README.md").read_text()
    assert "Every complete trial violates constraints" in written
    assert "on the front" not in written


def test_the_note_of_a_trial_says_that_it_violates_constraints() -> None:
    note = TrialNote(metric="mse", minimize=True, place="cpu of host")
    assert "violates constraints, by 2 in all" in note.describe_end(
        "complete", {0: 0.3}, {"violation": 2.0}
    )
    assert "violates" not in note.describe_end("complete", {0: 0.3}, {})


def test_status_names_the_first_goal(stored: optuna.Study, tmp_path: Path) -> None:
    storage = open_storage(RunPaths(tmp_path / "runs").database_url)
    with storage.engine.connect() as connection:
        assert read_status(connection, "small").metric == "mse"


def test_a_display_marks_who_is_on_the_front() -> None:
    display = Display("small", a_spec(), 9, Console(width=100, force_terminal=False))
    said: list[str] = []
    display.say = lambda *lines, style=None: said.extend(lines)  # type: ignore[method-assign]
    worker: Any = SimpleNamespace(index=0, device="cpu")
    display.show_starting([worker])
    for number, values in enumerate(VALUES):
        event = Ended(
            number=number, outcome="complete", value=values[0], values=list(values),
            violates=number == 4,
        )  # fmt: skip
        display.handle_event(worker, event)
    assert ["*front" in line for line in said] == [True, True, True, False, False]
    assert "mse 0.8, code 9" in said[3]
    assert "violates constraints" in said[4]
    assert display.leader.best is None
    assert display.leader.front.describe() == "front of 3: mse 0.1 to 0.9, code 2 to 9"


def test_nothing_is_told_of_a_best_trial(stored: optuna.Study, tmp_path: Path) -> None:
    queue = TrialQueue(stored, open_storage(RunPaths(tmp_path / "runs").database_url), owner="o")
    sent: list[dict[str, Any]] = []
    notices = Notices(
        SimpleNamespace(shown="x", deliver=sent.append),  # type: ignore[arg-type]
        queue, a_run(tmp_path), a_spec(), lambda line: None,
    )  # fmt: skip
    notices.look_for_best(at_once=True)
    notices.close()
    assert sent == []


def test_the_note_shows_the_front_and_its_picture(stored: optuna.Study, tmp_path: Path) -> None:
    storage = open_storage(RunPaths(tmp_path / "runs").database_url)
    queue = TrialQueue(stored, storage, owner="o")
    study: Any = SimpleNamespace(spec=a_spec(), name="small")
    note = StudyNote(study, a_run(tmp_path), queue, StudyRecord(**RECORD))
    supervisor: Any = SimpleNamespace(
        queue=queue, run=a_run(tmp_path), note=note, study=study, files=None
    )
    for _ in range(2):  # it takes the place of the one before
        draw_front(supervisor)
    attributes = storage.get_study_system_attrs(queue.study_id)
    (drawing,) = listed_artifacts(attributes)
    assert (drawing.filename, drawing.mimetype) == ("front.svg", "image/svg+xml")
    svg = (tmp_path / "runs" / "artifacts" / drawing.artifact_id).read_text()
    assert svg.count('class="best"') == 3
    note.finish("done")
    written = "".join(
        str(value) for key, value in sorted(storage.get_study_system_attrs(queue.study_id).items())
        if "note_str" in key
    )  # fmt: skip
    assert "3 trials are on the front" in written
    assert f"/{drawing.artifact_id})" in written
    assert "| 1 | 0.5 | 3 |" in written


RECORD: dict[str, Any] = {
    "command": "small", "sampler": "random", "pruner": "front", "trials": 9, "top": 3,
    "retrain_epochs": 2, "devices": "cpu", "images": {"train": 1, "valid": 1, "test": 1},
    "shape": (1, 28, 28),
}  # fmt: skip


def test_a_report_begins_with_the_front(stored: optuna.Study, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "runs")
    folder = write_report("small", paths.database_url, paths)
    written = (folder / "README.md").read_text()
    assert "3 trials are on the front of mse and code: none of the 6 beats them" in written
    assert written.index("## The front") < written.index("## How it was searched")
    assert "| 1 | 0.5 | 3 |" in written
    assert (folder / "front_1.svg").read_text().count("<circle") == 5
    assert 'class="pruned"' in (folder / "front_1.svg").read_text(), "the one that violates"


@pytest.mark.parametrize("words", [("minimize", "minimize"), ("maximize", "minimize")])
def test_the_picture_bounds_what_the_front_dominates(words: Sequence[str]) -> None:
    goals = read_goals(("mse", "code"), words, costs=("code",))
    points = [
        FrontPoint(number=number, values=values, place=number)
        for number, values in enumerate([(0.9, 2.0), (0.5, 3.0)])
    ]
    (figure,) = draw_fronts(points, goals, {})
    assert 'class="line best"' in figure.svg
    assert figure.caption == "mse against code of all complete trials"


def test_three_goals_have_a_picture_each_beside_the_first() -> None:
    goals = read_goals(("mse", "code", "parameters"), "minimize", costs=("code", "parameters"))
    points = [FrontPoint(number=0, values=(0.5, 2.0, 9.0), place=0)]
    figures = draw_fronts(points, goals, {})
    assert [figure.file for figure in figures] == ["front_1.svg", "front_2.svg"]
    assert 'class="line best"' not in figures[0].svg, "a front of three goals has no such edge"


# ---- what is refused ----


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"STOP": "auto"}, "STOP=auto asks what the best value may still gain, and of 2 goals"),
        ({"WARM": "cae"}, "WARM ranks earlier trials by one value, and of 2 goals"),
        ({"SAMPLER": "cmaes"}, "sampler 'cmaes' follows one value, and this study has 2 goals"),
        ({"SAMPLER": "preference"}, "sampler 'preference' asks a person"),
        ({"PRUNER": "median"}, "pruner 'median' compares one value of each trial"),
        ({"PRUNER": "asha"}, "take 'front' or 'none'"),
    ],
)
def test_what_needs_a_best_trial_is_refused(
    refused: Callable[..., str], study_file: WriteStudy, variables: dict[str, str], message: str
) -> None:
    assert message in refused(NAME=study_file(replace=TWO), **variables)


def test_a_study_file_with_the_wrong_pruner_is_refused(
    refused: Callable[..., str], study_file: WriteStudy
) -> None:
    replaced = {'metric="mse"': 'metric=("mse", "code")', 'pruner="none"': 'pruner="median"'}
    assert "take 'front' or 'none'" in refused(NAME=study_file(replace=replaced))
    one = {'pruner="none"': 'pruner="front"'}
    assert "compares trials by several goals, and this study has one" in refused(
        NAME=study_file(replace=one)
    )


@pytest.mark.parametrize("variables", [{}, {"FIRST": 1}])
def test_a_study_does_not_choose_one_of_a_front_to_start_from(
    refused: Callable[..., str], study_file: WriteStudy, variables: dict[str, Any]
) -> None:
    head = study_file("head", HEAD.replace("BASE", str(study_file(replace=TWO))))
    said = refused(NAME=head, may_make=["runs"], **variables)
    assert "'small', which has several goals, so that none of its exports is the best" in said


# ---- whole runs ----


def test_a_study_with_two_goals_runs_from_its_file_to_exports(
    user: User, study_file: WriteStudy
) -> None:
    path = study_file(replace=TWO)
    code, out, error = user.run(NAME=path, TRIALS=5, TOP=2, WORKERS=1)
    assert (code, error) == (0, "")
    assert "*front" in out
    assert "no other trial was better in mse and code at once" in out
    frame = trials("small", storage=user.url)
    costs = frame[["value_1", "cost_code", "latent"]].dropna()
    assert (costs["value_1"] == costs["latent"]).all()
    records = [
        json.loads((user.runs / f"exports/small/{rank}/provenance.json").read_text())
        for rank in (1, 2)
    ]
    for rank, record in enumerate(records, start=1):
        mse, size = record["goals"]
        assert (mse["value"], size["value"]) == (record["valid"]["mse"], record["config"]["latent"])
        assert size["searched"] == record["parameters"]["latent"]
        assert (record["test"] is None) == (rank > 1)
        assert "stands on the front" in model_card(record, rest="provenance.json")
    write_report("small", user.url, RunPaths(user.runs))
    page = (user.runs / "reports/small/README.md").read_text()
    assert "## Of the front, trained again" in page
    assert "data:image/" in (user.runs / "reports/small/front_1.svg").read_text(), "small pictures"
    code, out, error = user.run(NAME=path, TRIALS=5, TOP=2, WORKERS=1)
    assert code == 0
    assert "retrained" not in out, "the same command finds all of it done"
    _, told, _ = user.run("status", NAME="small")
    told = " ".join(told.split())
    assert f"the first is trial {records[0]['trial']}: {goals_in_words(records[0])}" in told
    loaded = load_study(str(path))
    assert (loaded.spec.pruner, loaded.spec.quality) == ("front", "mse")
