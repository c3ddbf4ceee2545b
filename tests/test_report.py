"""`make report`: a study as a page, with and without GANs, judges and enough trials."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import optuna
import pytest
from markdown_it import MarkdownIt
from optuna.artifacts import ArtifactMeta
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image
from sqlalchemy import text

from models.results import Table
from search.__main__ import main
from search.reporting import figures, parameter_figures, tables
from search.reporting.axes import fit_axis
from search.reporting.document import (
    Block,
    Cell,
    Code,
    Columns,
    Facts,
    Figure,
    Heading,
    Picture,
    Words,
    to_markdown,
)
from search.reporting.document import Table as PageTable
from search.reporting.page import to_html
from search.reporting.report import write_report
from search.reporting.reported_study import NotReported
from search.reporting.second_judge import ranking_check
from search.reporting.svg import Chart
from search.trials.study_record import StudyRecord, write_record
from storage.database.connection import open_storage
from storage.database.finishes import hold_tests, note_test
from storage.errors import StudyNotFound
from storage.files.artifacts import KEY
from storage.files.exports import publish
from storage.files.study_summary import keep_summary
from storage.paths import RunPaths

FEW_DIGITS = True


def ended(
    value: float | None,
    attributes: Mapping[str, Any] | None = None,
    state: TrialState = TrialState.COMPLETE,
    lr: float = 1e-3,
    kind: str = "a",
    shown: Mapping[str, str] | None = None,
) -> FrozenTrial:
    parameters = {"lr": lr, "kind": kind}
    choices = {
        "lr": FloatDistribution(1e-5, 1e-1, log=True),
        "kind": CategoricalDistribution(["a", "b"]),
    }
    reported = {} if value is None else {0: value}
    return create_trial(
        state=state, value=value, params=parameters,
        distributions=choices, user_attrs=dict(attributes or {}), intermediate_values=reported,
        system_attrs=dict(shown or {}),
    )  # fmt: skip


class Stored:
    """A study in a database of its own, with its RUNS."""

    def __init__(self, runs: Path) -> None:
        self.paths = RunPaths(runs)
        runs.mkdir(parents=True)

    def write(self, trials: list[FrozenTrial], direction: str = "minimize") -> None:
        storage = open_storage(self.paths.database_url)
        study = optuna.create_study(study_name="s", storage=storage, direction=direction)  # type: ignore[arg-type]
        study.add_trials(trials)
        storage.engine.dispose()

    def pictures(self, *names: str) -> dict[str, str]:
        """Artifacts of these names, as Optuna lists them: a trial that has ended takes no more."""
        listed = {}
        self.paths.artifacts.mkdir(exist_ok=True)
        for name in names:
            about = ArtifactMeta(str(uuid4()), name, mimetype="image/png", encoding=None)
            listed[KEY + about.artifact_id] = json.dumps(asdict(about))
            Image.new("L", (8, 8)).save(self.paths.artifacts / about.artifact_id, format="PNG")
        return listed

    def report(self) -> tuple[Path, str]:
        folder = write_report("s", self.paths.database_url, self.paths)
        return folder, (folder / "README.md").read_text()


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stored:
    monkeypatch.setattr("search.reporting.searched.REPEATS", 9)  # `test_importance` has more
    return Stored(tmp_path / "runs")


def searched(count: int, shown: Mapping[int, Mapping[str, str]] | None = None) -> list[FrozenTrial]:
    """Trials whose value follows from lr alone; every third is pruned. shown: by number"""
    return [
        ended(
            abs(i % 7 - 3) + 0.5 + i / 1000,
            {"outcome": "pruned" if i % 3 == 2 else "complete", "epochs": 3},
            state=TrialState.PRUNED if i % 3 == 2 else TrialState.COMPLETE,
            lr=10 ** (-4.5 + (i % 7) * 0.5), kind="ab"[i % 2], shown=(shown or {}).get(i),
        )
        for i in range(count)
    ]  # fmt: skip


class Page(HTMLParser):
    """What a page names, by attribute, and its tags, words and places to link to."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.pictures: list[str] = []
        self.links: set[str] = set()
        self.places: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        found = {name: str(value) for name, value in attrs}
        self.pictures += [found["src"]] if "src" in found else []
        self.links |= {found["href"]} if "href" in found else set()
        self.places += [found["id"]] if "id" in found else []

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def page_of(folder: Path) -> Page:
    return Page((folder / "index.html").read_text())


def test_one_file_holds_the_page_and_loads_nothing(stored: Stored) -> None:
    shown = {
        3: stored.pictures("samples-epoch-002.png", "samples.png", "game.png"),
        0: stored.pictures("samples.png"),
    }
    failed = ended(None, {"outcome": "failed"}, state=TrialState.FAIL)
    stored.write([*searched(20, shown), failed])
    folder, written = stored.report()
    page = page_of(folder)
    assert len(page.pictures) == 6, "the best one, both of the best, one of the worst, one a trial"
    assert all(place.startswith("data:image/") for place in page.pictures)
    assert page.links, "marks and numbers lead to trials and pictures"
    assert page.links <= {f"#{place}" for place in page.places}
    assert len(page.places) == len(set(page.places))
    named = set(re.findall(r"\]\((\S+?)\)", written))
    files = {path.name for path in folder.iterdir()} - {"README.md", "index.html"}
    assert named == files
    assert {"curves.svg", "values.svg", "slice_1.svg", "parallel.svg", "best_game.png"} <= files
    assert "21 ended: 14 complete, 6 pruned, 1 failed" in written
    assert "The best is trial 3 with value 0.503" in written
    assert "The best: trial 3, complete, value 0.503" in written
    assert "The worst: trial 0, complete, value 3.5" in written
    assert "PED-ANOVA over 20 trials, of which 6 were pruned and count with the last" in written
    assert "lr can be told from chance. The other parameter cannot." in written


def test_the_policy_allows_the_pages_own_script_and_nothing_else(stored: Stored) -> None:
    stored.write(searched(3))
    folder, _ = stored.report()
    page = (folder / "index.html").read_text()
    (script,) = re.findall("<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall('Content-Security-Policy" content="(.*?)"', page)
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
    ]  # fmt: skip
    assert not re.findall(r"\son\w+=|javascript:", page.replace(script, "")), "no other script"


def test_charts_stand_alone_in_light_and_in_dark(stored: Stored) -> None:
    stored.write(searched(20))
    folder, _ = stored.report()
    charts = sorted(folder.glob("*.svg"))
    assert len(charts) == 6
    for chart in charts:
        content = chart.read_text()
        assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
        assert "prefers-color-scheme: dark" in content


def test_complete_trials_come_first_and_the_best_of_them_on_top(stored: Stored) -> None:
    stored.write(searched(9), direction="maximize")
    _, written = stored.report()
    written = written[written.index("## All trials") :]
    rows = re.findall(r"^\| (\d+) \| (\S+) \| (\w+)", written, re.MULTILINE)
    values = [(outcome, float(value)) for _, value, outcome in rows]
    assert [outcome for outcome, _ in values] == ["complete"] * 6 + ["pruned"] * 3
    assert [value for _, value in values[:6]] == sorted([v for _, v in values[:6]], reverse=True)
    assert values[0] == ("complete", 3.507)


@pytest.mark.parametrize(("pruned", "words"), [(0, ""), (1, ", of which 1 was pruned and counts")])
def test_importance_names_pruned_trials_only_where_there_are_some(
    stored: Stored, pruned: int, words: str
) -> None:
    trials = searched(30)
    those = [trial for trial in trials if trial.state == TrialState.PRUNED][:pruned]
    stored.write([t for t in trials if t.state == TrialState.COMPLETE] + those)
    _, written = stored.report()
    count = sum(trial.state == TrialState.COMPLETE for trial in trials) + pruned
    assert re.search(f"PED-ANOVA over {count} trials{words}", written)
    assert "0 were" not in written


@pytest.mark.parametrize("count", [1, 7])
def test_few_trials_are_not_said_to_show_what_mattered(stored: Stored, count: int) -> None:
    stored.write(searched(count))
    folder, written = stored.report()
    assert "too few to say" in written
    assert not (folder / "importance.svg").exists()
    assert (folder / "values.svg").exists()


def test_trials_without_any_value_are_still_listed(stored: Stored) -> None:
    failed = {"outcome": "failed", "verdict": "d_won"}
    stored.write([ended(None, failed, state=TrialState.FAIL)])
    folder, written = stored.report()
    assert "No trial has a value" in written
    assert "No trial is complete: 1 failed." in written
    assert "| D won |" in written
    assert {path.name for path in folder.iterdir()} == {"README.md", "index.html"}


def test_what_a_study_concludes_stands_above_its_trials(stored: Stored) -> None:
    stored.write(searched(3))
    storage = open_storage(stored.paths.database_url)
    study = optuna.load_study(study_name="s", storage=storage)
    table = Table(
        name="rows", title="Rows | compared", columns=("row", "MSE"),
        rows=(("<all>", "0.1 ± 0.0"), ("few", 0.25)), note="Means.",
    )  # fmt: skip
    keep_summary(study, table.to_plain(), 3)
    storage.engine.dispose()
    folder, page = stored.report()
    assert page.index("## Rows") < page.index("0.1 ± 0.0") < page.index("## The trials")
    covers = "The table covers the 3 trials that had ended then. Behind each value: "
    assert f"{covers}seeds not recorded. Means." in page
    assert "&lt;all&gt;" in (folder / "index.html").read_text()


def test_an_earlier_report_is_replaced_and_a_persons_files_stay(stored: Stored) -> None:
    stored.write(searched(3))
    folder, page = stored.report()
    (folder / "README.md").write_text(f"{page}![old](best_old.png)\n")
    (folder / "best_old.png").write_bytes(b"")
    (folder / "slide.png").write_text("mine")
    (folder / "talk").mkdir()
    (folder / "talk" / "notes.txt").write_text("mine, too")
    for _ in range(2):
        stored.report()
        assert not (folder / "best_old.png").exists()
        assert (folder / "slide.png").read_text() == "mine"
        assert (folder / "talk" / "notes.txt").read_text() == "mine, too"
        assert (folder / "index.html").exists()


def test_a_name_that_leads_elsewhere_is_no_file_of_a_report(stored: Stored) -> None:
    stored.write(searched(2, {1: stored.pictures("fine.png", "a b.png", "..png", "../up.png")}))
    folder, _ = stored.report()
    assert {path.name for path in folder.glob("*.png")} == {"best_fine.png", "trial_1_fine.png"}


def judged(first: list[float], second: list[float], coverage: list[float]) -> list[FrozenTrial]:
    measured = zip(first, second, coverage, strict=True)
    return [
        ended(a, {"last_frechet": a, "second_frechet": b, "second_coverage": c})
        for a, b, c in measured
    ]


def words(trials: list[FrozenTrial]) -> str:
    return "\n".join(block.to_markdown() for block in ranking_check(trials, "frechet"))


def test_the_ranks_of_two_judges_are_compared() -> None:
    distances = [1.0, 2.0, 4.0, 8.0, 16.0]
    trials = judged(distances, [30.0, 10.0, 20.0, 40.0, 50.0], [0.9, 0.8, 0.7, 0.6, 0.5])
    said = words([*trials, ended(9.0, {"last_frechet": 3.0})])
    assert "rho 0.70 over 5 trials (1: the same order)" in said
    assert "frechet with coverage, second evaluator: Spearman's rho -1.00 over 5 trials" in said
    assert "ranking_1.svg" in said
    assert "ranking_2.svg" in said


def test_four_trials_are_too_few_to_compare_judges() -> None:
    said = words(judged([1.0] * 4, [1.0] * 4, [1.0] * 4))
    assert said.count("too few to say: 4 trials with both, at least 5 are needed") == 2
    assert ".svg" not in said


def test_equal_values_have_no_ranks() -> None:
    said = words(judged([1.0] * 6, [1.0, 2, 3, 4, 5, 6], [1.0] * 6))
    assert said.count("no ranks to compare") == 2


def test_a_study_without_a_second_judge_has_no_ranking_check() -> None:
    assert ranking_check(searched(9), "mse") == []


def dot() -> bytes:
    made = io.BytesIO()
    Image.new("L", (4, 4)).save(made, format="PNG")
    return made.getvalue()


@pytest.mark.parametrize("start", ["", "1. ", "- ", "+ ", "> ", "# "])
def test_words_of_the_user_are_shown_as_they_are(start: str) -> None:
    said = start + "<b> & &lt; | *a* `x` ~~s~~ [y](z) \\| c:\\d https://e.f"
    shown = [
        Picture(file=file, content=dot(), caption=said) for file in ("a.png", "b.png", "d.png")
    ]
    blocks: list[Block] = [
        Heading(said), Words(said), shown[0], Facts([(said, said)]), Code(said),
        PageTable(columns=[said], rows=[[said], [Cell(text=said)]]),
        Columns({said: {"a.png": shown[1]}, "other": {"c.png": shown[2]}}),
    ]  # fmt: skip
    chart = Chart(100, 100)
    chart.add_text(0, 0, said)
    chart.add_line([(0, 0), (1, 1)], "best", ("#a", said))
    drawn = chart.to_svg(said, alone=True)
    ElementTree.fromstring(drawn)
    page = Page(to_html(said, [*blocks, Figure(file="e", svg=drawn, alone="", caption=said)]))
    assert not set(page.tags) & {"b", "s", "li", "blockquote"}
    assert page.links == {"#a"}
    assert page.words.count(said) == 17
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    rendered = markdown.render(to_markdown(said, blocks))
    assert rendered.count("<code>https://e.f</code>") == 12  # else GitHub makes a link of it
    found = Page(re.sub("</?code>", "", rendered))
    assert not set(found.tags) & {"b", "a", "s", "li", "blockquote"}
    assert found.pictures == ["a.png", "b.png", "d.png"]
    assert found.words.count(said) == 13


def test_a_report_needs_a_study_with_trials(stored: Stored) -> None:
    stored.write([])
    with pytest.raises(NotReported, match="make study NAME=s"):
        stored.report()
    with pytest.raises(StudyNotFound, match="available: s"):
        write_report("other", stored.paths.database_url, stored.paths)
    assert not (stored.paths.root / "reports").exists()


def test_mistakes_are_one_line(refused: Callable[..., str], stored: Stored) -> None:
    stored.write(searched(1))
    assert "make report NAME=cae" in refused("report")
    assert "no study 'other'" in refused("report", NAME="other", RUNS=stored.paths.root)


def test_the_command_says_where_the_page_is(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stored.write(searched(2))
    monkeypatch.setenv("RUNS", str(stored.paths.root))
    monkeypatch.setenv("NAME", "s")
    assert main(["report"]) == 0
    page = stored.paths.root / "reports" / "s" / "index.html"
    size = f"{page.stat().st_size / 1000:.0f} kB"
    said = f"report of study s: {page}  ({size}, one file that can be mailed)\n"
    assert capsys.readouterr().out == said


# --- the outcome


def exported(stored: Stored, token: str = "t", **changes: Any) -> None:
    """The export of rank 1 of a retrained trial, with a picture and a program."""
    folder = stored.paths.export("s", 1)
    folder.mkdir(parents=True)
    for name in ("latent.png", "samples.png", "learning_curve.png"):
        Image.new("L", (8, 8)).save(folder / name)
    (folder / "decoder.onnx").write_bytes(b"program")
    epochs = [{"number": 1, "train": {"mse": 0.3}, "valid": {"mse": 0.2}, "seconds": 1.0}]
    about = {
        "study": "s", "token": token, "trial": 1, "rank": 1, "metric": "mse",
        "direction": "minimize", "model": "CAE", "model_parameters": 1234, "data": "digits",
        "images": {"train": 50, "valid": 20, "test": 1359}, "valid": {"mse": 0.2},
        "test": {"mse": 0.25}, "trial_value": 0.3, "parameters": {"lr": 0.001}, "epochs": 1,
        "best_epoch": 1, "ended_by": "patience", "seconds": 1.0, "device": "cpu", "seed": 5,
        "curve": epochs, "tables": [], "judge": None, "verdict": {}, "revision": "abc",
        "made": "today", "usage": "images = model.sample(4)",
        "output_differences": {"decoder.onnx": 1.25e-7},
        "pictures": {"latent.png": "codes", "samples.png": "made", "learning_curve.png": "c"},
        **changes,
    }  # fmt: skip
    publish(folder, about)


def define(stored: Stored, **more: Any) -> None:
    """Make the stored study one of genstudy's."""
    storage = open_storage(stored.paths.database_url)
    study = optuna.load_study(study_name="s", storage=storage)
    about = {"token": "t", "data": "digits", "shape": [1, 28, 28], "epochs": 3, "seed": 7}
    study.set_user_attr("definition", json.dumps(about))
    for record in more.values():
        write_record(study, record)
    storage.engine.dispose()


def test_the_winner_stands_first_with_its_test_value_and_how_to_load_it(stored: Stored) -> None:
    stored.write(searched(3))
    define(stored)
    exported(stored)
    folder, written = stored.report()
    page = (folder / "index.html").read_text()
    lead = "The winner is trial 1 of 3, trained again: mse 0.25 on 1,359 test images"
    assert lead in written
    said = [
        lead, "samples.png", "decoder.onnx were loaded back and compared", "1.2e-07", 
        "SHA-256 of 5", "Load the winner", "load_export", "images = model.sample(4)", "latent.png",
        "## How it was searched", "digits, 28 × 28 pixels, grey",
        "50 training, 20 validation and 1,359 test images", "## The trials", "## All trials",
    ]  # fmt: skip
    found = written.replace("\\", "")
    assert [words for words in said if words not in found] == []
    places = [found.index(words) for words in said]
    assert places == sorted(places)
    assert "learning_curve" not in written, "the page draws it itself"
    assert "winner_curve.svg" in written
    assert str(stored.paths.export("s", 1)) in page


def test_a_page_counts_the_models_that_were_measured_on_the_test_images(
    stored: Stored,
) -> None:
    stored.write(searched(3))
    define(stored)
    exported(stored)
    storage = open_storage(stored.paths.database_url)
    words = "models of this study were measured on them"
    for count, training in enumerate(("60 epochs", "60 epochs", "80 epochs")):
        note_test(
            storage.engine, "t", training, 1,
            hold=lambda connection: hold_tests(connection, "t", runs="r", place="here"),
        )  # fmt: skip
        _, written = stored.report()
        assert (f"2 {words}" in written, words in written) == (count == 2, count == 2)
    storage.engine.dispose()


@pytest.mark.parametrize("winner", [1, 3])
def test_a_trial_that_is_better_than_all_exported_ones_is_named(
    stored: Stored, winner: int
) -> None:
    stored.write(searched(5))  # trial 3 has 0.503, trial 1 has 2.501
    define(stored)
    exported(stored, trial=winner)
    words = (
        "Since then trial 3 has done better in the search (value 0.503, 2.501 before), and is not "
        "trained again yet."
    )
    assert (words in stored.report()[1]) == (winner == 1)


def test_what_nobody_may_miss_of_a_winner_stands_on_top(stored: Stored) -> None:
    stored.write(searched(3))
    define(stored)
    baseline = {"what": "the mean training image", "test": 0.2, "valid": 0.2}
    exported(stored, baseline=baseline, remarks=["an epoch has only 4 steps"])
    folder, written = stored.report()
    assert "this model has learned next to nothing: its mse is 0.25" in written
    assert written.index("only 4 steps") < written.index("samples.png")
    assert "| the mean training image | 0.2 |" in written
    assert '<p class="warning">an epoch has only 4 steps</p>' in (folder / "index.html").read_text()


def test_a_gan_shows_its_verdict_and_the_floor_of_its_judge(stored: Stored) -> None:
    stored.write(searched(3))
    define(stored)
    judge = {"floor": {"mse": 0.01}, "extractor": "classifier", "hash": "ab" * 32, "samples": 1150}
    verdict = {"verdict": "d_won", "verdict_epoch": 4, "verdict_reason": "D tells <all> apart"}
    exported(stored, judge=judge, verdict=verdict)
    _, written = stored.report()
    assert "D won, epoch 4: D tells \\<all\\> apart" in written
    assert "real images reach mse 0.01 in the features of the classifier abababababab" in written


def test_the_export_of_a_deleted_namesake_is_no_outcome(stored: Stored) -> None:
    stored.write(searched(3))
    define(stored)
    exported(stored, token="another")
    _, written = stored.report()
    assert "The best is trial 1 with value 2.501" in written
    assert "nothing is exported yet: make study NAME=s trains the best again" in written


def test_what_the_last_run_wrote_down_is_told(stored: Stored) -> None:
    stored.write(searched(3))
    record = StudyRecord(
        command="s", trials=9, top=1, retrain_epochs=2, sampler="tpe(seed=1)", pruner="median",
        devices="2 x cpu", images={"train": 300, "valid": 20, "test": 10}, shape=(1, 28, 28),
        warm="12 trials of old",
    )  # fmt: skip
    define(stored, record=record)
    _, written = stored.report()
    assert "| sampler | tpe(seed=1) |" in written
    assert "| learned from | 12 trials of old |" in written
    assert "| pruner | median |" in written
    assert "300 training, 20 validation and 10 test images" in written
    assert "3 ended: 2 complete, 1 pruned; 9 in all" in written
    assert re.search(r"\| saved \| stopping 1 trial early saved \d+ of \d+ trial-epochs", written)


def test_trials_that_pause_are_told_from_interrupted_ones(stored: Stored) -> None:
    waiting = [create_trial(state=TrialState.WAITING) for _ in range(3)]
    stored.write([*searched(3), *waiting])
    storage = open_storage(stored.paths.database_url)
    with storage.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO genstudy_rungs (trial_id, rung, value, waits) "
                "SELECT trial_id, 1, 0.5, 1 FROM trials WHERE number > 3"
            )
        )
    storage.engine.dispose()
    _, written = stored.report()
    assert "3 ended: 2 complete, 1 pruned; 1 interrupted; 2 paused" in written


def test_a_study_of_another_program_is_reported_by_its_steps(stored: Stored) -> None:
    stored.write([ended(1.0, lr=0.01), ended(2.0)])
    folder, written = stored.report()
    assert "genstudy did not make this study" in written
    assert ">step</text>" in (folder / "curves.svg").read_text()
    define(stored)
    folder, written = stored.report()
    assert ">epoch</text>" in (folder / "curves.svg").read_text()


def test_a_study_of_several_objectives_is_reported_once_a_trial_has_ended(stored: Stored) -> None:
    storage = open_storage(stored.paths.database_url)
    study = optuna.create_study(
        study_name="s", storage=storage, directions=["minimize", "maximize"]
    )
    with pytest.raises(NotReported, match="no trial"):
        stored.report()
    study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    storage.engine.dispose()
    _, written = stored.report()
    assert "1 trial is on the front of value\\_0 and value\\_1" in written


def test_parameters_that_few_trials_have_get_a_panel_of_their_own(stored: Stored) -> None:
    rare: dict[str, BaseDistribution] = {
        "lr": FloatDistribution(1e-5, 1e-1, log=True),
        "momentum": FloatDistribution(0, 1),
    }
    trials = [
        create_trial(
            value=1.0 + i, params={"lr": 10.0**-i, "momentum": i / 9}, distributions=rare,
        )
        for i in range(1, 4)
    ]  # fmt: skip
    stored.write([*trials, *searched(5)])
    _, written = stored.report()
    assert "without momentum: 5 trials" in written
    assert "without kind: 3 trials" in written
    assert "slice_3.svg" in written


def test_many_trials_make_no_large_page(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MOST_LINKS", 20)
    monkeypatch.setattr(parameter_figures, "MOST_LINKS", 20)
    monkeypatch.setattr(tables, "MOST_ROWS", 30)
    stored.write(searched(40))
    folder, written = stored.report()
    page = page_of(folder)
    assert page.tags["tr"] > 40
    assert page.tags["circle"] < 10, "all trials are one mark"
    assert (folder / "index.html").stat().st_size < 60_000
    assert "README.md has the first 30 of 40" in written


def test_a_value_far_out_does_not_flatten_all_others(stored: Stored) -> None:
    far = ended(1e9, {"outcome": "diverged"}, state=TrialState.PRUNED)
    stored.write([*searched(20), far])
    _, written = stored.report()
    assert "1 leave the figure at its edge" in written


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-5.0, 3.0], [1e-9, 1e9], [1e300, 2e300]])
@pytest.mark.parametrize("minimize", [True, False, None])
def test_an_axis_holds_its_values_and_writes_few_numbers(
    values: list[float], minimize: bool | None
) -> None:
    axis = fit_axis(values, start=100.0, end=0.0, minimize=minimize)
    assert all(0 <= axis.place(value) <= 100 for value in values)
    ticks = axis.ticks(6)
    assert 1 <= len(ticks) <= 6
    assert len({text for _, text in ticks}) == len(ticks)
    assert all(0 <= axis.place(value) <= 100 for value, _ in ticks)
