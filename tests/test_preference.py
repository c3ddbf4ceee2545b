"""A person's choices: read as the dashboard writes them, searched by, waited for, exported."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import optuna_dashboard
import psutil
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from optuna_dashboard import _preferential_history as dashboard
from optuna_dashboard.preferential import _system_attrs as page
from optuna_dashboard.preferential import load_study as load_preferential
from scipy.optimize import minimize
from sqlalchemy.exc import SQLAlchemyError

from models.data.loading import open_images, prepare_images
from search.__main__ import main
from search.cli.dashboard import _bind
from search.errors import StudyChanged
from search.setup.inputs import RunInputs
from search.setup.loading import load_study
from search.setup.prepare import prepare_run
from search.strategies.preference import PreferenceSampler, is_preference
from search.strategies.samplers import make_sampler
from search.supervisor import preference_prompt
from search.supervisor.preference_prompt import PreferencePrompt
from search.trials.owner import owner_name
from search.trials.queue import TrialQueue, open_queue
from search.variables import read_variables
from search.worker.context import WorkerContext
from storage import best, choices, curves, trials
from storage.database import leases
from storage.database.connection import open_storage
from storage.database.preferences import (
    IS_PREFERENTIAL,
    PICTURE,
    PRIOR,
    Choices,
    page_settings,
    read_choices,
    strengths_of,
)
from storage.errors import StorageError
from storage.files.artifacts import ArtifactFolder
from tests.preloaded import Preloaded
from tests.trials import MakeContext, run_one
from tests.user import User, free_port, get, kill_all, living, wait_until, watched

FEW_DIGITS = True

WriteStudy = Callable[..., Path]
PAIRS = [(0, 3), (1, 3), (2, 3), (0, 1), (2, 1), (4, 1), (0, 4)]


# Strengths and ranks


def test_strengths_are_the_most_probable_ones() -> None:
    """Against a general minimiser of the same posterior."""

    def loss(strengths: Any) -> float:
        odds = [np.logaddexp(0, strengths[worse] - strengths[better]) for better, worse in PAIRS]
        return float(sum(odds) + (strengths**2).sum() / (2 * PRIOR**2))

    expected = minimize(loss, np.zeros(5), tol=1e-12).x
    found = strengths_of(PAIRS)
    assert [found[number] for number in range(5)] == pytest.approx(expected, abs=1e-4)
    assert found[0] > found[2] > 0 > found[3]


@pytest.mark.parametrize("count", [1, 400])
def test_strengths_stay_finite_however_clear_the_choice(count: int) -> None:
    found = strengths_of([(1, 0)] * count)
    assert 0 < found[1] < 9
    assert found[0] == pytest.approx(-found[1])


def test_who_was_never_put_aside_is_first_then_strength_then_value() -> None:
    made = Choices(
        pairs=((0, 1), (2, 1), (2, 0)), clicks=2, put_aside=frozenset({0, 1}), shown=(2, 3, 4),
        training=(),
    )  # fmt: skip
    values = {0: 0.1, 1: 0.2, 2: 0.9, 3: 0.8, 4: 0.7}
    assert made.ranked(values) == [2, 4, 3, 0, 1]


# What the dashboard writes


def preferential(url: str, trained: int, shown: int = 4) -> tuple[Any, int]:
    """A stored study with so many trials that have a picture; its storage and id."""
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage)
    for key, value in page_settings(shown).items():
        storage.set_study_system_attr(study._study_id, key, value)
    for number in range(trained):
        study.add_trial(
            create_trial(
                params={"x": number / 10},
                distributions={"x": FloatDistribution(0, 1)},
                value=float(number),
                user_attrs={PICTURE: "an-id"},
            )
        )
    return storage, study._study_id


def read(storage: Any, study_id: int) -> Choices:
    with storage.engine.connect() as connection:
        return read_choices(connection, study_id)


def test_choices_are_read_as_the_dashboard_writes_them(storage_url: str) -> None:
    storage, study_id = preferential(storage_url, trained=4)
    assert read(storage, study_id).shown == (0, 1, 2, 3)
    click = dashboard.NewHistory(mode="ChooseWorst", candidates=[0, 1, 2, 3], clicked=2)
    first = dashboard.report_history(study_id, storage, click)
    click = dashboard.NewHistory(mode="ChooseWorst", candidates=[0, 1, 3], clicked=0)
    dashboard.report_history(study_id, storage, click)
    found = read(storage, study_id)
    assert sorted(found.pairs) == [(0, 2), (1, 0), (1, 2), (3, 0), (3, 2)]
    assert (found.clicks, found.put_aside, found.shown) == (2, {0, 2}, (1, 3))

    dashboard.remove_history(study_id, storage, first)  # Undo
    found = read(storage, study_id)
    assert (found.clicks, found.put_aside, found.shown) == (1, {0}, (1, 2, 3))
    dashboard.restore_history(study_id, storage, first)
    page.report_skip(study_id, 4, storage)  # trial 3
    found = read(storage, study_id)
    assert (found.clicks, found.put_aside, found.shown) == (2, {0, 2, 3}, (1,))

    loaded = load_preferential(study_name="s", storage=storage, sampler=PreferenceSampler())
    pairs = {(better.number, worse.number) for better, worse in loaded.preferences}
    assert pairs == set(found.pairs)
    assert [trial.number for trial in loaded.best_trials] == [1]
    assert page.get_n_generate(storage.get_study_system_attrs(study_id)) == 4

    assert best("s", top=4, storage=storage_url)["number"].tolist() == [1, 3, 0, 2]
    frame = choices("s", storage=storage_url)
    assert set(zip(frame["better"], frame["worse"], strict=True)) == pairs
    assert frame["choice"].nunique() == 2


def test_a_choice_leaves_a_trials_value_as_it_was(storage_url: str) -> None:
    storage, study_id = preferential(storage_url, trained=3)
    page.report_preferences(study_id, storage, [(2, 1), (0, 1)])
    assert trials("s", storage=storage_url)["value"].tolist() == [0.0, 1.0, 2.0]


def test_a_study_of_values_has_no_choices(storage_url: str) -> None:
    optuna.create_study(study_name="s", storage=open_storage(storage_url))
    assert len(choices("s", storage=storage_url)) == 0


# The sampler


def asked(study: optuna.Study, count: int = 1) -> list[float]:
    """The parameters of so many trials that are asked for at the same moment."""
    asked_for = []
    for _ in range(count):
        trial = study.ask()
        assert trial.relative_params is not None  # drawn; no parameter is asked for yet
        asked_for.append(trial)
    return [trial.suggest_float("x", 0, 1) for trial in asked_for]


@pytest.fixture
def chosen_study() -> Callable[[str], optuna.Study]:
    """Eight trials along x, of which a person likes those near 0.3."""

    def make(sampler: str) -> optuna.Study:
        space: Any = {"x": FloatDistribution(0, 1)}
        study = optuna.create_study(sampler=make_sampler(sampler, seed=0, space=space))
        places = [0.05, 0.3, 0.55, 0.9, 0.2, 0.75, 0.4, 0.65]
        for x in places:
            study.add_trial(create_trial(params={"x": x}, distributions=space, value=0.0))
        order = sorted(range(8), key=lambda number: abs(places[number] - 0.3))
        pairs = [(order[i], order[j]) for j in range(8) for i in range(j)]
        study._storage.set_study_system_attr(study._study_id, "preference:values1", pairs)
        return study

    return make


def test_before_the_first_choice_parameters_are_those_of_the_random_sampler() -> None:
    space: Any = {"x": FloatDistribution(0, 1)}
    drawn = [
        asked(optuna.create_study(sampler=make_sampler(name, seed=7, space=space)), 4)
        for name in ("random", "preference")
    ]
    assert drawn[0] == drawn[1]


def test_parameters_follow_the_choices(chosen_study: Callable[[str], optuna.Study]) -> None:
    found = asked(chosen_study("preference"), 3)
    assert np.median(np.abs(np.array(found) - 0.3)) < 0.15
    apart = np.diff(sorted(found))
    assert apart.min() > 0.005, "workers that ask at once train different trials"
    assert asked(chosen_study("preference")) == found[:1]


def test_where_training_fails_the_sampler_goes_elsewhere(
    chosen_study: Callable[[str], optuna.Study],
) -> None:
    study = chosen_study("preference")
    for x in (0.24, 0.26, 0.28, 0.32, 0.34):
        study.add_trial(
            create_trial(
                params={"x": x}, distributions={"x": FloatDistribution(0, 1)},
                state=TrialState.PRUNED, value=None,
            )
        )  # fmt: skip
    (found,) = asked(study)
    assert min(abs(found - x) for x in (0.24, 0.26, 0.28, 0.32, 0.34)) > 0.01


@pytest.mark.parametrize("written", ["preference", " preference( shown = 3 )"])
def test_the_sampler_is_known_by_its_name(written: str) -> None:
    assert is_preference(written)
    assert not is_preference("random")
    assert not is_preference(lambda seed: PreferenceSampler(seed=seed))


# The queue of trials


def open_with(url: str, owner: str = owner_name(1), shown: int = 2) -> TrialQueue:
    sampler = make_sampler("preference", seed=0, space={})
    return open_queue("s", url, owner=owner, sampler=sampler, shown=shown)


def finish(queue: TrialQueue, number: int) -> None:
    trial_id = queue.id_of(number)
    queue.storage.write_attributes(trial_id, {PICTURE: "an-id"})
    queue.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    leases.end_lease(queue.engine, queue.id_of(number))


def test_no_more_trials_begin_than_are_shown_at_once(storage_url: str) -> None:
    _, study_id = preferential(storage_url, trained=0)
    queue = open_with(storage_url)
    assert [queue.claim(9).number for _ in range(2)] == [0, 1]  # type: ignore[union-attr]
    assert queue.claim(9) is None
    finish(queue, 0)
    finish(queue, 1)
    assert queue.claim(9) is None
    page.report_preferences(study_id, queue.storage, [(0, 1)])
    assert queue.claim(9).number == 2  # type: ignore[union-attr]
    assert queue.claim(9) is None


def test_a_trial_that_waits_for_a_person_is_left_alone_and_one_in_training_taken_back(
    storage_url: str, preloaded: Preloaded
) -> None:
    preferential(storage_url, trained=0)
    queue = open_with(storage_url, owner_name(1))
    with living(queue.owner, preloaded):
        for _ in range(2):
            queue.claim(9)
        finish(queue, 0)
    mine = open_with(storage_url, owner_name(psutil.Process().pid))
    assert mine.reclaim_abandoned() == [1]
    taken = mine.claim(9)
    assert taken is not None
    assert (taken.number, mine.claim(9)) == (1, None)
    assert mine.count() == {"COMPLETE": 1, "RUNNING": 1}


def test_a_trial_that_somebody_ends_in_the_dashboard_stays_ended(storage_url: str) -> None:
    """A stale page that reports it, or the button that fails it; its worker goes on."""
    _, study_id = preferential(storage_url, trained=1)
    queue = open_with(storage_url)
    trial = queue.claim(9)
    assert trial is not None
    page.report_preferences(study_id, queue.storage, [(1, 0)])
    queue.release(trial.number)
    assert queue.count() == {"COMPLETE": 2}
    assert queue.read_choices().shown == (), "it has no picture, so nobody is asked about it"


def test_a_question_is_asked_once(tmp_path: Path) -> None:
    said: list[str] = []
    storage, study_id = preferential(f"sqlite:///{tmp_path / 'studies.db'}", trained=2)
    made = PreferencePrompt(open_with(str(storage.url)), 3, said.append)
    for _ in range(3):
        made.refresh()
        made.ask()
    address = re.escape(preference_prompt.PAGE.format(study_id))
    (line,) = said
    assert re.match(rf"trials 0, 1 wait for your choice: make dashboard, then {address} \(", line)
    assert not made.has_room
    assert not made.is_decided
    page.report_preferences(study_id, storage, [(0, 1)])
    made.refresh()
    made.ask()
    assert (len(said), made.has_room) == (1, True)


# Mistakes


NO_PREVIEW = """
from models.base import Model
from models.cae import CAE, CAEConfig
from search.study import StudySpec

class Blind(CAE):
    preview = Model.preview

def suggest(trial):
    return CAEConfig(latent=trial.suggest_int("latent", 2, 8))

STUDY = StudySpec(model=Blind, suggest=suggest, data="digits", shape=(1, 28, 28), metric="mse",
                  trials=2, epochs=1)
"""


def test_a_model_without_a_picture_is_refused(
    refused: Callable[..., str], study_file: WriteStudy
) -> None:
    said = refused(NAME=study_file("blind", NO_PREVIEW), SAMPLER="preference")
    assert "but Blind draws none; give it a preview(), or take another sampler" in said


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SAMPLER": "preference", "PRUNER": "median"}, "PRUNER=median compares values"),
        ({"SAMPLER": "preference(shown=1)"}, "shown=1 is not a whole number from 2 to 64"),
        ({"SAMPLER": "preference(show=3)"}, "sampler 'preference"),
        ({"SAMPLER": "preferences"}, "did you mean 'preference'"),
    ],
)
def test_variables_that_do_not_fit_are_refused(
    refused: Callable[..., str], study_file: WriteStudy, variables: dict[str, str], message: str
) -> None:
    assert message in refused(NAME=study_file(), **variables)


@pytest.mark.parametrize("asks", [True, False])
def test_a_study_is_ranked_by_values_or_by_a_person_for_good(
    tmp_path: Path, study_file: WriteStudy, asks: bool
) -> None:
    """A study file of one kind that has the stored name of the other."""
    study = load_study(str(study_file()))
    variables = read_variables({"RUNS": str(tmp_path / "runs"), "SAMPLER": "preference"})
    if asks:
        variables = replace(variables, sampler=None)
    place = tmp_path / "images"
    cached = prepare_images("digits", root=place, cache=place, shape=(1, 28, 28))
    found = RunInputs("digits", cached, open_images(cached))
    storage = open_storage(variables.storage_url)
    _, run = prepare_run(variables, study, storage, found)
    assert (run.study, run.shown) == (("small", None) if asks else ("small-preference", 4))
    storage.set_study_system_attr(
        storage.get_study_id_from_name(run.study), IS_PREFERENTIAL, run.shown is None
    )
    with pytest.raises(StudyChanged, match="is stored as one that"):
        prepare_run(variables, study, storage, found)


# Trials and whole runs


def run_shown(context: WorkerContext) -> dict[str, Any]:
    context.run, context.queue.shown = replace(context.run, shown=2), 2
    return run_one(context)


def test_a_trial_ends_with_the_picture_that_the_page_shows(make_context: MakeContext) -> None:
    context = make_context()
    row = run_shown(context)
    assert (row["state"], row["outcome"]) == ("COMPLETE", "complete")
    assert row["value"] > 0
    (trial,) = context.queue.study.get_trials()
    (meta,) = [json.loads(v) for k, v in trial.system_attrs.items() if k.startswith("artifacts:")]
    assert row[PICTURE] == meta["artifact_id"]
    assert (context.run.paths.artifacts / row[PICTURE]).exists()


def test_a_trial_whose_picture_is_missing_has_failed(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context()
    monkeypatch.setattr(context.spec.model, "preview", lambda *_: None)
    row = run_shown(context)
    assert (row["state"], row["outcome"]) == ("FAIL", "failed")
    assert row["reason"] == "NoPicture: no picture to choose by: the model's preview() gave none"


def choose(place: str, study: int, among: list[int], worst: int) -> None:
    """What the page sends when somebody clicks."""
    told = {"candidates": among, "clicked": worst, "mode": "ChooseWorst"}
    request = urllib.request.Request(
        f"{place}/api/studies/{study}/preference",
        data=json.dumps(told).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 204


def on_the_page(place: str, study: int) -> list[int]:
    """The trials that the page shows with their pictures, as its script finds them."""
    found = json.loads(get(f"{place}/api/studies/{study}?after=0"))
    assert found["is_preferential"]
    key = found["feedback_component_type"]["artifact_key"]
    removed = [h["history"]["clicked"] for h in found["preference_history"] if not h["is_removed"]]
    shown = []
    for trial in found["trials"]:
        attributes = {pair["key"]: pair["value"] for pair in trial["user_attrs"]}
        pictures = [a["artifact_id"] for a in trial["artifacts"]]
        open_ = trial["state"] in ("Running", "Complete") and trial["number"] not in removed
        if open_ and attributes.get(key) in pictures:
            shown.append(trial["number"])
            where = f"{place}/artifacts/{study}/{trial['trial_id']}/{attributes[key]}"
            assert get(where).startswith(b"\x89PNG")
    return shown


@contextmanager
def dashboard_of(user: User) -> Iterator[str]:
    """The server of `make dashboard`, in this process; its address."""
    port = free_port()
    app = optuna_dashboard.wsgi(
        open_storage(user.url), artifact_store=ArtifactFolder(user.runs / "artifacts")
    )
    with _bind(read_variables({"PORT": str(port)}), app) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{port}"
        server.shutdown()
        thread.join()


def trained_epochs(url: str, number: int) -> int:
    try:
        return int((curves("small-preference", storage=url)["number"] == number).sum())
    except (StorageError, SQLAlchemyError, KeyError):
        return 0  # not yet


class Told:
    """The lines of a process, as they come."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.lines.extend(process.stdout)

    def wait_for(self, pattern: str, seconds: float = 200.0) -> str:
        found: list[str] = []

        def is_there() -> bool:
            found[:] = [line for line in self.lines if re.search(pattern, line)]
            return bool(found)

        wait_until(is_there, seconds)
        return found[0]


@pytest.fixture
def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command that only looks, in this process, and return what it prints."""

    def run(user: User, command: str, **variables: str) -> str:
        for name, value in {"RUNS": str(user.runs), "COLUMNS": "200", **variables}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        assert main([command]) == 0
        return capsys.readouterr().out

    return run


ASKED: dict[str, Any] = {"SAMPLER": "preference(shown=2)", "WORKERS": 1, "TOP": 1}


def test_a_killed_run_trains_on_and_leaves_what_waits_for_a_choice(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace={"epochs=2, retrain": "epochs=40, retrain"})
    asked: dict[str, Any] = {"NAME": name, "TRIALS": 3, **ASKED}
    with watched(user.start(**asked)) as process:  # the machine goes down while trial 1 trains
        wait_until(lambda: trained_epochs(user.url, 1) > 0, 200)
        kill_all(process)
    before = trials("small-preference", storage=user.url)
    assert before["state"].tolist() == ["COMPLETE", "RUNNING"]

    with watched(user.start(**asked)) as process:
        line = Told(process).wait_for("wait for your choice")
        assert line.startswith("trials 0, 1 wait for your choice: make dashboard, then http://127.")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    after = trials("small-preference", storage=user.url)
    assert after["state"].tolist() == ["COMPLETE"] * 2
    assert after["ended"][0] == before["ended"][0], "it was not trained again"


def test_a_person_decides_a_study_on_the_page(
    user: User, study_file: WriteStudy, shown: Callable[..., str]
) -> None:
    with watched(user.start(NAME=study_file(), TRIALS=3, **ASKED)) as process:
        told = Told(process)
        told.wait_for("trials 0, 1 wait for your choice.*starts the next trial")
        with dashboard_of(user) as place:
            wait_until(lambda: on_the_page(place, 1) == [0, 1])  # it reads every two seconds
            choose(place, 1, among=[0, 1], worst=0)
            told.wait_for("trials 1, 2 wait for your choice.*it is the last choice")
            wait_until(lambda: on_the_page(place, 1) == [1, 2])
            choose(place, 1, among=[1, 2], worst=2)
        assert process.wait(timeout=200) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert "3 trials, 3 complete, 0 pruned, 0 failed, 2 choices" in "".join(told.lines)
    export = user.runs / "exports" / "small-preference" / "1"
    assert json.loads((export / "provenance.json").read_text())["trial"] == 1
    out = shown(user, "trials", NAME="small-preference")
    assert "ranked by 2 choices" in out
    assert re.search(r"^ *1 +1 ", out, re.MULTILINE)
    assert re.search(r"^small-preference +3 ", shown(user, "studies"), re.MULTILINE)
