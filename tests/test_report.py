"""`make report`: a study as a page, with and without GANs, judges and enough trials."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import optuna
import pytest
from optuna.artifacts import ArtifactMeta
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from PIL import Image

from models.results import Table
from search.__main__ import main
from search.reporting.document import (
    heading,
    paragraph,
    picture,
    pictures_table,
    table,
    to_html,
    to_markdown,
)
from search.reporting.report import NothingToReport, write_report
from search.reporting.second_judge import ranking_check
from storage.database.connection import open_storage
from storage.errors import StudyNotFound
from storage.files.artifacts import KEY
from storage.files.study_summary import keep_summary
from storage.paths import RunPaths


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
def stored(tmp_path: Path) -> Stored:
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


class Links(HTMLParser):
    """The files that a page names, its tags, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[str] = []
        self.tags: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.files += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_shows_every_picture_beside_it_and_runs_no_script(stored: Stored) -> None:
    shown = {
        3: stored.pictures("samples-epoch-002.png", "samples.png", "game.png"),
        0: stored.pictures("samples.png"),
    }
    failed = ended(None, {"outcome": "failed"}, state=TrialState.FAIL)
    stored.write([*searched(20, shown), failed])
    folder, written = stored.report()
    page = Links()
    page.feed((folder / "index.html").read_text())
    best = {"best_samples.png", "best_game.png"}
    assert set(page.files) == {"values.png", "importance.png", "worst_samples.png"} | best
    assert set(re.findall(r"\]\((\S+?)\)", written)) == set(page.files)
    assert "script" not in page.tags
    assert {path.name for path in folder.glob("*.png")} == set(page.files)
    assert "21 trials have ended: 14 complete, 6 pruned, 1 failed" in written
    assert "The best: trial 3, complete, value 0.503" in written
    assert "The worst: trial 0, complete, value 3.5" in written
    assert "PED-ANOVA over 20 trials, of which 6 were pruned" in written


def test_complete_trials_come_first_and_the_best_of_them_on_top(stored: Stored) -> None:
    stored.write(searched(9), direction="maximize")
    _, written = stored.report()
    rows = re.findall(r"^\| (\d+) \| (\S+) \| (\w+)", written, re.MULTILINE)
    values = [(outcome, float(value)) for _, value, outcome in rows]
    assert [outcome for outcome, _ in values] == ["complete"] * 6 + ["pruned"] * 3
    assert [value for _, value in values[:6]] == sorted([v for _, v in values[:6]], reverse=True)
    assert "the higher, the better. Best: trial 7, 3.507" in written


@pytest.mark.parametrize("count", [1, 7])
def test_few_trials_are_not_said_to_show_what_mattered(stored: Stored, count: int) -> None:
    stored.write(searched(count))
    folder, written = stored.report()
    assert "too few to say" in written
    assert not (folder / "importance.png").exists()
    assert (folder / "values.png").exists()


def test_trials_without_any_value_are_still_listed(stored: Stored) -> None:
    failed = {"outcome": "failed", "verdict": "d_won"}
    stored.write([ended(None, failed, state=TrialState.FAIL)])
    folder, written = stored.report()
    assert "No trial has a value" in written
    assert "| D won |" in written
    assert not list(folder.glob("*.png"))


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
    assert page.index("## Rows") < page.index("0.1 ± 0.0") < page.index("## Values")
    assert "The table covers the 3 trials that had ended then. Means." in page
    assert "&lt;all&gt;" in (folder / "index.html").read_text()


def test_an_earlier_report_is_replaced(stored: Stored) -> None:
    stored.write(searched(3))
    folder, _ = stored.report()
    (folder / "best_old.png").write_bytes(b"")
    stored.report()
    assert not (folder / "best_old.png").exists()


def test_a_name_that_leads_elsewhere_is_no_file_of_a_report(stored: Stored) -> None:
    stored.write(searched(2, {1: stored.pictures("fine.png", "a b.png", "..png", "../up.png")}))
    folder, _ = stored.report()
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "index.html", "values.png", "best_fine.png",
    }  # fmt: skip


def judged(first: list[float], second: list[float], coverage: list[float]) -> list[FrozenTrial]:
    measured = zip(first, second, coverage, strict=True)
    return [
        ended(a, {"last_frechet": a, "second_frechet": b, "second_coverage": c})
        for a, b, c in measured
    ]


def words(trials: list[FrozenTrial], path: Path) -> str:
    return "\n".join(ranking_check(trials, "frechet", path))


def test_the_ranks_of_two_judges_are_compared(tmp_path: Path) -> None:
    distances = [1.0, 2.0, 4.0, 8.0, 16.0]
    trials = judged(distances, [30.0, 10.0, 20.0, 40.0, 50.0], [0.9, 0.8, 0.7, 0.6, 0.5])
    said = words([*trials, ended(9.0, {"last_frechet": 3.0})], tmp_path / "ranking.png")
    assert "rho 0.70 over 5 trials (1: the same order)" in said
    assert "frechet with coverage, second evaluator: Spearman's rho -1.00 over 5 trials" in said
    assert (tmp_path / "ranking.png").stat().st_size > 1000


def test_four_trials_are_too_few_to_compare_judges(tmp_path: Path) -> None:
    said = words(judged([1.0] * 4, [1.0] * 4, [1.0] * 4), tmp_path / "ranking.png")
    assert said.count("too few to say: 4 trials have both, at least 5 are needed") == 2
    assert not (tmp_path / "ranking.png").exists()


def test_equal_values_have_no_ranks(tmp_path: Path) -> None:
    said = words(judged([1.0] * 6, [1.0, 2, 3, 4, 5, 6], [1.0] * 6), tmp_path / "ranking.png")
    assert said.count("no ranks to compare") == 2


def test_a_study_without_a_second_judge_has_no_ranking_check(tmp_path: Path) -> None:
    assert ranking_check(searched(9), "mse", tmp_path / "ranking.png") == []


@pytest.mark.parametrize("start", ["", "1. ", "- ", "+ ", "> ", "# "])
def test_words_of_the_user_are_shown_as_they_are(start: str) -> None:
    said = start + "<b> & &lt; | *a* `x` ~~s~~ [y](z) \\| c:\\d https://e.f"
    blocks = [
        heading(said), paragraph(said), picture("a.png", said), table([said], [[said]]),
        pictures_table({said: {"a.png": "b.png"}, "other": {"c.png": "d.png"}}),
    ]  # fmt: skip
    found = Links()
    found.feed(to_html(said, to_markdown(said, blocks)))
    assert found.tags.isdisjoint({"b", "a", "code", "s", "li", "blockquote"})
    assert found.files == ["a.png", "b.png", "d.png"]
    assert found.words.count(said) == 8, "two titles, four blocks, a head, a cell"


def test_a_report_needs_a_study_with_trials(stored: Stored) -> None:
    stored.write([])
    with pytest.raises(NothingToReport, match="make study NAME=s"):
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
    assert capsys.readouterr().out == (
        f"report of study s: {stored.paths.root / 'reports' / 's' / 'index.html'}\n"
    )
