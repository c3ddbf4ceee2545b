"""`make compare`: which study found the better winner, how sure that is, and at which cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.__main__ import main
from search.reporting.compared import (
    ComparedStudy,
    NotComparable,
    check_comparable,
    reach_share,
)
from search.reporting.comparison import cells_of, describe_differences, write_comparison
from search.reporting.reported_study import DEFINITION, JUDGE, ReportedStudy, read_study
from search.trials.mean_difference import compare_means
from storage.database.connection import open_storage
from storage.database.preferences import page_settings
from storage.paths import RunPaths

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

BEGUN = datetime(2026, 1, 1)
PIXELS = {"shape": [1, 8, 8], "data": "digits", "pixels": "abc"}


@dataclass(frozen=True)
class WithExports(ReportedStudy):
    """A study whose exports say what the test gives."""

    said: list[dict[str, Any]] = field(default_factory=list)

    @property
    def exports(self) -> list[tuple[Path, dict[str, Any]]]:  # type: ignore[override]
        return [(Path("1"), about) for about in self.said]


def store(
    url: str,
    name: str,
    values: Sequence[float | None],
    seconds: float = 10.0,
    metric: str = "mse",
    pixels: str = "abc",
    judge: object = None,
) -> None:
    """Store a study whose trials take two epochs each; None: it was pruned."""
    storage = open_storage(url)
    study = optuna.create_study(study_name=name, storage=storage)
    study.set_metric_names([metric])
    study.set_user_attr(DEFINITION, json.dumps({**PIXELS, "pixels": pixels}))
    if judge is not None:
        study.set_user_attr(JUDGE, judge)
    for place, value in enumerate(values):
        trial = create_trial(
            state=TrialState.PRUNED if value is None else TrialState.COMPLETE,
            value=value,
            intermediate_values={0: 1.0, 1: value or 2.0},
            user_attrs={"seconds": seconds},
        )
        trial.datetime_start = BEGUN
        trial.datetime_complete = BEGUN + timedelta(seconds=place)
        study.add_trial(trial)
    storage.engine.dispose()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def compared(url: str, tmp_path: Path) -> Callable[..., ComparedStudy]:
    """Read studies, with the values of their winners' seeds."""

    def read(names: Sequence[str], *seeds: Sequence[float], test: float = 0.5) -> ComparedStudy:
        storage = open_storage(url, create=False)
        runs = []
        for place, name in enumerate(names):
            found = read_study(name, storage, RunPaths(tmp_path))
            said = [
                {"certificate": {"values": list(values)}, "valid": {}, "test": {"mse": test}}
                for values in seeds[place : place + 1]
            ]
            runs.append(WithExports(found.study, storage, found.paths, said=said))
        study = ComparedStudy(tuple(runs))
        _ = study.progress, study.metric
        storage.engine.dispose()
        return study

    return read


def test_the_winner_s_seeds_say_how_sure_the_difference_is(
    url: str, compared: Callable[..., ComparedStudy]
) -> None:
    store(url, "a", [0.5, 0.3])
    store(url, "b", [0.4, 0.2])
    a = compared(["a"], [0.30, 0.31, 0.32])
    clearly = describe_differences([a, compared(["b"], [0.20, 0.21, 0.22])])
    assert "The winner of b is better than that of a by 0.1 (95 %: 0.0773 to 0.123" in clearly[0]
    hardly = describe_differences([a, compared(["b"], [0.29, 0.32, 0.30])])
    assert "The winners of a and b cannot be told apart: b is ahead by 0.00667" in hardly[0]
    once = describe_differences([a, compared(["b"], [0.2])])
    assert "nobody knows whether that is chance" in once[0]
    equal = describe_differences([a, compared(["b"], [0.30, 0.31, 0.32])])
    assert equal[0] == "The winners of a and b are equally good."
    assert cells_of(a)[:4] == ["a", "0.310 ± 0.010", "3 seeds", "0.5"]


def test_several_runs_count_as_runs_and_their_seeds_as_one_value(
    url: str, compared: Callable[..., ComparedStudy]
) -> None:
    for name in ("a1", "a2"):
        store(url, name, [0.5, 0.3])
    both = compared(["a1", "a2"], [0.3, 0.5], [0.6])
    assert both.values == pytest.approx((0.4, 0.6))
    assert cells_of(both)[0] == "a1 and 1 more"
    assert cells_of(both)[2] == "2 runs"
    assert cells_of(both)[5:7] == ["4", "8"]


def test_the_search_is_followed_over_training_seconds_and_pruned_trials_cost_too(
    url: str, compared: Callable[..., ComparedStudy]
) -> None:
    store(url, "a", [None, 0.5, 0.3, 0.4])
    store(url, "b", [0.6, None, None, 0.3], seconds=20.0)
    (run,) = compared(["a"]).progress
    assert run.seconds == (10.0, 20.0, 30.0, 40.0)
    assert run.epochs == (2, 4, 6, 8)
    assert run.best == (None, 0.5, 0.3, 0.3)
    assert run.best_after(25.0, run.seconds) == 0.5
    assert run.best_after(5.0, run.seconds) is None
    a, b = compared(["a"]), compared(["b"])
    assert reach_share(a, b) == pytest.approx(30 / 80)
    assert describe_differences([a, b]) == [
        "a found the best value of b's search in 0.38 of its training time."
    ]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"metric": "bce"}, "different metric: mse and bce"),
        ({"pixels": "x"}, r"different images: digits \(abc\) and digits \(x\)"),
    ],
)
def test_values_that_mean_something_else_are_not_compared(
    url: str, compared: Callable[..., ComparedStudy], other: dict[str, Any], words: str
) -> None:
    store(url, "a", [0.5])
    store(url, "b", [0.5], **other)
    with pytest.raises(NotComparable, match=words):
        check_comparable([compared(["a"]), compared(["b"])])


def test_studies_that_a_person_ranks_are_not_compared(
    url: str, compared: Callable[..., ComparedStudy]
) -> None:
    store(url, "a", [0.5])
    store(url, "b", [0.5])
    storage = open_storage(url)
    for key, value in page_settings(2).items():
        storage.set_study_system_attr(storage.get_study_id_from_name("b"), key, value)
    storage.engine.dispose()
    with pytest.raises(NotComparable, match="a person's choices rank study 'b', and a comparison"):
        check_comparable([compared(["a"]), compared(["b"])])


def test_values_in_other_features_are_not_compared(
    url: str, compared: Callable[..., ComparedStudy]
) -> None:
    for name, judge in {"a": {"hash": "f" * 64}, "b": {"hash": "e" * 64}, "c": "odd"}.items():
        store(url, name, [0.5], judge=judge)
    words = f"different extractors of features: {'f' * 16} and {'e' * 16}"
    with pytest.raises(NotComparable, match=words):
        check_comparable([compared(["a"]), compared(["b"])])
    check_comparable([compared(["a"]), compared(["c"])])  # nothing is known of c


def test_the_page_has_both_figures_and_a_band_for_several_runs(
    url: str, compared: Callable[..., ComparedStudy], tmp_path: Path
) -> None:
    for name, values in {"a1": [0.5, 0.3], "a2": [0.6, 0.2], "b": [0.4]}.items():
        store(url, name, values)
    place = write_comparison([compared(["a1", "a2"]), compared(["b"])], tmp_path / "page")
    page = (place / "index.html").read_text()
    assert page.count('class="band best"') == 2
    assert "no export here" in page
    assert sorted(path.name for path in place.iterdir()) == [
        "README.md", "best-over-epochs.svg", "best-over-seconds.svg", "index.html",
    ]  # fmt: skip


def test_the_command_shows_a_table_and_says_where_the_page_is(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store(url, "a", [0.5, 0.3], judge={"hash": "f" * 64})
    store(url, "b", [0.4], judge={"hash": "f" * 64})
    for name, value in {"NAMES": "a,b", "RUNS": str(tmp_path), "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    assert main(["compare"]) == 0
    said = capsys.readouterr().out
    assert "no export here" in said
    assert f"lower is better; all were judged with extractor {'f' * 16}" in " ".join(said.split())
    assert (tmp_path / "reports/a-b/index.html").exists()


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("a", "compare needs NAMES, two studies or more separated by commas"),
        ("a,,b", "a name is missing"),
        ("a,b+a", "NAMES has 'a' twice"),
        ("a,b,c,d,e", "NAMES has 5 studies; compare at most 4 at once"),
        ("a,nobody", "no study 'nobody'"),
    ],
)
def test_a_mistake_in_names_is_one_line(
    url: str, refused: Callable[..., str], names: str, words: str
) -> None:
    store(url, "a", [0.5])
    assert words in refused("compare", NAMES=names, STORAGE=url)


def test_equal_values_say_nothing_of_chance() -> None:
    assert compare_means([0.5, 0.5], [0.4, 0.41]).p is None
    assert compare_means([1.0, 1.2], [1.0, 1.2]).is_told is False
