"""WARM=: trials of earlier studies that a new study's sampler sees, and any study of Optuna."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
import pytest
import sqlalchemy
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial

from search import passwords
from search.cli.study import _limit
from search.errors import BadVariable, StudyChanged
from search.events import Warned
from search.run import StudyRun
from search.setup.adapted import OutsideSpace, as_value
from search.setup.loading import load_study
from search.setup.stored_study import write_identity
from search.setup.warm import (
    Warm,
    describe_warm,
    find_warm,
    keep_warm,
    read_warm,
    remembered_warm,
)
from search.setup.warm_sources import parse_name, read_source
from search.strategies.carry_over import WarmSource, carry_over, order_trials
from search.strategies.pruners import make_pruner
from search.strategies.samplers import make_sampler
from search.strategies.warm import (
    WarmSampler,
    check_learns,
    spread,
    value_at,
    with_warm,
)
from search.study import Study
from search.trials.outcomes import Ending
from search.trials.owner import owner_name
from search.trials.queue import open_queue
from search.trials.study_record import StudyRecord, read_record, write_record
from search.variables import Variables, read_variables
from search.worker.startup import _open_queue
from storage import trials
from storage.database.connection import open_storage
from storage.database.foreign import opened_to_read
from tests.conftest import contents
from tests.local_pool import LocalControl
from tests.test_joining import IDENTITY
from tests.user import User, WriteStudy

optuna.logging.set_verbosity(optuna.logging.WARNING)

FEW_DIGITS = True
SPACE = {
    "channels": IntDistribution(1, 3),
    "latent": IntDistribution(2, 8),
    "lr": FloatDistribution(1e-4, 1e-2, log=True),
}


def fill(
    url: str,
    name: str = "old",
    *,
    count: int = 12,
    direction: str = "minimize",
    value: Callable[[dict[str, Any]], float] = lambda found: abs(math.log10(found["lr"]) + 3),
    more: dict[str, BaseDistribution] | None = None,
) -> None:
    """Make a study of plain Optuna whose parameters have the names of the small study's."""
    address = url.replace("postgresql://", "postgresql+psycopg://")
    storage = optuna.storages.RDBStorage(address)
    study = optuna.create_study(
        study_name=name, storage=storage, direction=direction,  # type: ignore[arg-type]
        sampler=optuna.samplers.RandomSampler(seed=1),
    )  # fmt: skip
    for _ in range(count):
        trial = study.ask({**SPACE, **(more or {})})
        study.tell(trial, value(trial.params))
    storage.engine.dispose()


@pytest.fixture
def small(study_file: WriteStudy) -> Study:
    return load_study(str(study_file(replace={'sampler="random"': 'sampler="tpe"'})))


def read(small: Study, url: str, written: str = "old") -> WarmSource:
    return read_source(parse_name(written), small, url, stored="small").source


# ---- the rule: how far a source carries over ----


def test_the_share_follows_the_rank_correlation_less_one_standard_error() -> None:
    assert carry_over([0, 1, 2]) == 0.0, "three trials say nothing"
    assert carry_over([0, 1, 2, 3]) == pytest.approx(math.tanh(math.atanh(0.999) - 1))
    assert carry_over(range(50)) > 0.99
    assert carry_over(range(50, 0, -1)) == 0.0
    assert carry_over([1.0] * 20) == 0.0, "a source that says the same of all says nothing"
    mixed = [0, 2, 1, 4, 3, 5, 7, 6]
    assert 0 < carry_over(mixed) < np.corrcoef(range(8), mixed)[0, 1]


def test_values_of_a_source_become_those_of_the_same_rank_here() -> None:
    here = [1.0, 2.0, 4.0, 8.0]
    assert [value_at((place + 0.5) / 4, here, 4) for place in range(4)] == here
    assert value_at(0.01, here, 4) == 1.0, "nothing is better than the best"
    assert value_at(0.7, here, 8) == 8.0, "where trials were pruned, the worst complete one"
    assert spread(10, 10) == list(range(10))
    assert spread(200, 3) == [33, 100, 166]
    assert spread(5, 0) == []


def source_of(score: Callable[[dict[str, Any]], float], count: int = 60) -> WarmSource:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    found = sorted((study.ask(SPACE).params for _ in range(count)), key=score)
    return WarmSource(
        name="old", numbers=tuple(range(count)), parameters=found, varied=sorted(SPACE)
    )


def goodness(found: dict[str, Any]) -> float:
    """A value whose best lies at lr 0.001 and latent 6."""
    return (math.log10(found["lr"]) + 3) ** 2 + (found["latent"] - 6) ** 2 / 20


def search(
    sources: list[WarmSource], *, trials: int = 16, sign: int = 1, pruner: str = "none"
) -> tuple[Any, list[int]]:
    """Search the space of `goodness`; return the study and how many earlier trials were shown."""
    sampler = with_warm(make_sampler("tpe", seed=5, space=SPACE), sources, SPACE)
    study = optuna.create_study(
        sampler=sampler,
        pruner=make_pruner(pruner),
        direction="minimize" if sign > 0 else "maximize",
    )
    shown = []
    for _ in range(trials):
        trial = study.ask()
        for name, distribution in SPACE.items():
            trial._suggest(name, distribution)
        shown.append(len(sampler._shown[1]) if isinstance(sampler, WarmSampler) else 0)
        study.tell(trial, sign * goodness(trial.params))
    return study, shown


def params_of(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def test_a_source_that_holds_is_shown_and_changes_what_is_drawn() -> None:
    study, shown = search([source_of(goodness)])
    assert shown[:4] == [0, 0, 0, 0]
    assert min(shown[6:10]) > 20
    assert set(shown[10:]) == {0}, "TPE has as many trials as it asks for"
    cold, _ = search([])
    assert params_of(study)[:4] == params_of(cold)[:4]
    assert params_of(study) != params_of(cold)
    assert params_of(search([source_of(goodness)])[0]) == params_of(study), "draws follow the trial"


def test_a_pruner_that_shows_samplers_a_part_of_the_study_takes_earlier_trials() -> None:
    study, shown = search([source_of(goodness)], pruner="hyperband")
    assert len(study.trials) == len(shown) == 16
    assert any(shown)


def test_a_source_with_reversed_ranks_is_never_shown() -> None:
    study, shown = search([source_of(lambda found: -goodness(found))])
    assert set(shown) == {0}
    assert params_of(study) == params_of(search([])[0])


def test_direction_and_scale_of_a_source_do_not_count() -> None:
    here, _ = search([source_of(lambda found: 1e6 + goodness(found))])
    assert params_of(here) == params_of(search([source_of(goodness)])[0])
    upwards, shown = search([source_of(goodness)], sign=-1)
    assert max(shown) > 20
    assert params_of(upwards) == params_of(here)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_trials_that_pause_say_what_carries_over_too(direction: str) -> None:
    """With `asha` nearly all trials of a study pause until all have begun."""
    sampler = with_warm(make_sampler("tpe", seed=5, space=SPACE), [source_of(goodness)], SPACE)
    assert isinstance(sampler, WarmSampler)
    study = optuna.create_study(sampler=sampler, direction=direction)  # type: ignore[arg-type]
    drawing = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=9))
    sign = 1 if direction == "minimize" else -1
    for _ in range(8):
        found = drawing.ask(SPACE).params
        study.add_trial(
            create_trial(
                state=optuna.trial.TrialState.WAITING, params=found, distributions=dict(SPACE),
                intermediate_values={0: sign * goodness(found)},
            )
        )  # fmt: skip
    shown = sampler._choose(study)
    assert len(shown) > 20
    values = [sign * (trial.value or 0.0) for trial in shown]
    assert values == sorted(values, reverse=True), "the best is the latest"


def test_earlier_trials_are_seen_by_the_sampler_alone() -> None:
    study, _ = search([source_of(goodness)])
    assert [trial.number for trial in study.trials] == list(range(16))
    assert study.best_trial.number >= 0
    assert not [key for trial in study.trials for key in trial.user_attrs]


@pytest.mark.parametrize("name", ["random", "gp", "cmaes", "qmc", "nsgaii", "brute_force"])
def test_samplers_that_take_no_earlier_trials_are_refused(name: str) -> None:
    sampler = make_sampler(name, seed=0, space=SPACE)
    with pytest.raises(BadVariable, match=f"{name} takes no such trials: give SAMPLER=tpe"):
        check_learns(sampler)
    assert with_warm(sampler, [source_of(goodness)], SPACE) is sampler
    check_learns(make_sampler(optuna.samplers.TPESampler(seed=1), seed=0, space=SPACE))


# ---- sources: what is taken of them ----


@pytest.mark.parametrize(
    ("distribution", "value", "found"),
    [
        (IntDistribution(1, 64), 32.0, 32),
        (IntDistribution(1, 64), 32.5, None),
        (IntDistribution(1, 64), True, None),
        (IntDistribution(1, 64), math.inf, None),
        (IntDistribution(0, 64, step=8), 12, None),
        (FloatDistribution(0, 1), 1, 1.0),
        (FloatDistribution(0, 1), math.nan, None),
        (FloatDistribution(0, 1), 10**400, None),
        (FloatDistribution(0, 1), "0.5", None),
        (CategoricalDistribution([32, 64]), 64.0, 64),
        (CategoricalDistribution([True, False]), 1, None),
        (CategoricalDistribution([0, 1]), True, None),
        (CategoricalDistribution(["a", None]), None, None),
        (CategoricalDistribution(["a", "b"]), "c", None),
    ],
)
def test_values_are_taken_as_this_study_has_them(
    distribution: BaseDistribution, value: Any, found: Any
) -> None:
    is_choice = isinstance(distribution, CategoricalDistribution) and value in distribution.choices
    if found is None and not (is_choice and value is None):
        with pytest.raises(OutsideSpace):
            as_value(distribution, value)
        return
    taken = as_value(distribution, value)
    assert taken == found
    assert type(taken) is type(found)


def test_any_study_of_optuna_is_a_source(small: Study, storage_url: str) -> None:
    fill(storage_url)
    source = read(small, "", f"{storage_url}#old")
    assert sorted(source.numbers) == list(range(12))
    values = [abs(math.log10(found["lr"]) + 3) for found in source.parameters]
    assert values == sorted(values)
    assert source.varied == ("channels", "latent", "lr")
    assert read(small, "", storage_url) == source, "the only study there need not be named"


def test_a_source_may_be_named_by_its_study_file(small: Study, storage_url: str) -> None:
    fill(storage_url, name="cae-digits")
    opened = optuna.load_study(study_name="cae-digits", storage=open_storage(storage_url))
    write_record(
        opened,
        StudyRecord(
            command="cae", trials=12, top=0, retrain_epochs=1, sampler="tpe", pruner="none",
            devices="cpu", images={"train": 1, "valid": 1, "test": 1}, shape=(1, 8, 8),
        ),
    )  # fmt: skip
    assert read(small, storage_url, "cae").name == "cae-digits"
    with pytest.raises(BadVariable, match="unknown study 'vae'"):
        read(small, storage_url, "vae")


def test_a_journal_of_optuna_is_a_source_and_stays_as_it_is(small: Study, tmp_path: Path) -> None:
    path = tmp_path / "old.log"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="a#b", storage=storage, direction="maximize")
    for _ in range(5):
        trial = study.ask(SPACE)
        study.tell(trial, trial.params["lr"])
    before = contents(tmp_path)
    source = read(small, "", f"journal:{path}")
    assert [found["lr"] for found in source.parameters] == sorted(
        (found["lr"] for found in source.parameters), reverse=True
    )
    assert contents(tmp_path) == before
    path.write_text("no journal\nat all\n")
    with pytest.raises(BadVariable, match=r"cannot read .*old\.log as a journal of Optuna"):
        read(small, "", f"journal:{path}")
    with pytest.raises(BadVariable, match=r"there is no file .*gone\.log"):
        read(small, "", f"journal:{tmp_path}/gone.log#x")
    assert not (tmp_path / "gone.log").exists()


def test_somebody_else_s_database_is_not_written(small: Study, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    fill(f"sqlite:///{path}")
    before = contents(tmp_path)
    assert len(read(small, "", f"sqlite:///{path}#old").numbers) == 12
    assert contents(tmp_path) == before


def test_a_database_opened_to_read_refuses_what_is_written(storage_url: str) -> None:
    fill(storage_url)
    with opened_to_read(storage_url) as storage:
        study = optuna.load_study(study_name="old", storage=storage)
        assert len(study.trials) == 12
        with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
            study.set_user_attr("a", 1)
        assert re.search("read.?only", str(caught.value.__cause__))


def test_tables_of_an_older_optuna_are_a_plain_message(small: Study, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    fill(f"sqlite:///{path}")
    with sqlalchemy.create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v2.6.0.a'"))
        connection.execute(sqlalchemy.text("UPDATE version_info SET schema_version = 11"))
    before = contents(tmp_path)
    with pytest.raises(BadVariable, match=r"WARM: cannot use .*optuna storage upgrade"):
        read(small, "", f"sqlite:///{path}#old")
    with sqlalchemy.create_engine(f"sqlite:///{path}").begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM version_info"))
    before = contents(tmp_path)
    with pytest.raises(BadVariable, match=r"WARM: cannot open .*readonly database"):
        read(small, "", f"sqlite:///{path}#old")
    assert contents(tmp_path) == before


def test_what_does_not_fit_is_left_out_and_said(small: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    fill(
        url,
        "wider",
        more={"latent": IntDistribution(2, 14), "depth\x1b[31m": IntDistribution(1, 9)},
    )
    found = read_source(parse_name("wider"), small, url, stored="small")
    inside = len(found.source.numbers)
    assert 0 < inside < 12
    assert found.line == (
        f"{inside} trials of wider; {12 - inside} outside this study's space left out; without its "
        r"depth\x1b[31m"
    )
    narrow: dict[str, BaseDistribution] = {
        "channels": IntDistribution(1, 3),
        "latent": IntDistribution(2, 8),
    }
    storage = open_storage(url)
    study = optuna.create_study(study_name="narrow", storage=storage)
    for _ in range(3):
        trial = study.ask(narrow)
        study.tell(trial, trial.params["latent"])
    found = read_source(parse_name("narrow"), small, url, stored="small")
    assert found.line == "3 trials of narrow; lr drawn at random"
    assert found.source.varied == ("channels", "latent")
    assert all(each.keys() == SPACE.keys() for each in found.source.parameters)
    assert read_source(parse_name("narrow"), small, url, stored="small").source == found.source
    shared = Warm(given=("narrow",), sources=(found.source,)).shared
    assert all(each.keys() == {"channels", "latent"} for each in shared.values())


def test_pruned_trials_rank_behind_and_useless_ones_are_left_out(
    small: Study, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    study = optuna.create_study(study_name="old", storage=open_storage(url))
    given = {"channels": 1, "latent": 2, "lr": 1e-3}

    def add(state: str, value: float | None = None, reports: int = 0, **more: Any) -> None:
        study.add_trial(
            create_trial(
                state=optuna.trial.TrialState[state], value=value, params=given,
                distributions=dict(SPACE), intermediate_values={i: 0.5 - i for i in range(reports)},
                **more,
            )
        )  # fmt: skip

    add("PRUNED", reports=1)
    add("COMPLETE", 2.0)
    add("PRUNED", reports=4)
    add("COMPLETE", 1.0)
    add("COMPLETE", math.inf)
    add("FAIL")
    add("PRUNED")
    add("PRUNED", reports=2, system_attrs={"constraints:memory": 3.0})
    assert [trial.number for trial in order_trials(study)] == [3, 1, 2, 0, 6]
    assert list(read(small, url).numbers) == [3, 1, 2, 0], "the last one has reported nothing"


def test_of_many_trials_some_of_every_rank_are_kept(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.setup.warm_sources.MOST", 4)
    url = f"sqlite:///{tmp_path}/old.db"
    study = optuna.create_study(study_name="old", storage=open_storage(url))
    study.add_trials(
        [
            create_trial(
                value=float(number),
                params={"channels": 1, "latent": 2, "lr": 1e-3},
                distributions=dict(SPACE),
            )
            for number in range(12)
        ]
    )
    found = read_source(parse_name("old"), small, url, stored="small")
    assert found.source.numbers == (1, 4, 7, 10)
    assert found.line == "4 of 12 trials of old"


# ---- kept with the study ----


def stored(url: str, name: str = "small") -> optuna.Study:
    return optuna.create_study(study_name=name, storage=open_storage(url), load_if_exists=True)


def test_what_a_study_began_with_stays_whatever_becomes_of_the_source(
    small: Study, storage_url: str
) -> None:
    fill(storage_url)
    found = find_warm(["old"], small, storage_url, stored="small")
    assert found is not None
    opened = stored(storage_url)
    assert keep_warm(opened, found, small.space) == found
    assert remembered_warm(opened, small.space) == found
    storage = open_storage(storage_url)
    grown = optuna.load_study(study_name="old", storage=storage)
    grown.tell(grown.ask(SPACE), 0.0)
    later = read_source(parse_name("old"), small, storage_url, stored="small").source
    assert len(later.numbers) == 13
    second = Warm(given=("old",), sources=(later,))
    assert keep_warm(opened, second, small.space) == found, "the first of two machines decides"
    opened.ask()
    optuna.delete_study(study_name="old", storage=opened._storage)
    again = find_warm(["old"], small, storage_url, stored="small")
    assert again == found
    assert keep_warm(opened, again, small.space) == found
    assert keep_warm(opened, None, small.space) == found, "a call without WARM goes on with it"
    assert find_warm([], small, storage_url, stored="small") is None
    with pytest.raises(
        StudyChanged, match="'small' has begun with WARM=old, and goes on so: leave"
    ):
        find_warm(["old", "other"], small, storage_url, stored="small")


def test_a_study_that_has_begun_without_takes_none(small: Study, storage_url: str) -> None:
    fill(storage_url)
    opened = stored(storage_url)
    found = find_warm(["old"], small, storage_url, stored="small")
    opened.ask()
    assert keep_warm(opened, None, small.space) == Warm()
    for attempt in (
        lambda: find_warm(["old"], small, storage_url, stored="small"),
        lambda: keep_warm(opened, found, small.space),  # another machine was first
    ):
        with pytest.raises(StudyChanged, match=r"has begun without WARM, and .*renamed study file"):
            attempt()


def test_the_first_trials_try_the_best_of_each_source(small: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    fill(url)
    fill(url, "second", direction="maximize")
    found = find_warm(["old", "second"], small, url, stored="small")
    assert found is not None
    first, second = found.sources
    assert found.shared == {
        f"WARM old trial {first.numbers[0]}": first.parameters[0],
        f"WARM second trial {second.numbers[0]}": second.parameters[0],
    }
    assert first.parameters[0] != second.parameters[0]
    assert describe_warm(found.to_plain()) == [
        "WARM: 12 trials of old", "WARM: 12 trials of second",
    ]  # fmt: skip


def test_rows_that_others_have_written_are_no_trials(small: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    fill(url)
    found = find_warm(["old"], small, url, stored="small")
    assert found is not None
    plain = found.to_plain()
    assert read_warm(plain, small.space) == found
    plain["sources"][0]["parameters"][0]["lr"] = 7.0
    plain["sources"][0]["parameters"][1]["evil"] = "rm"
    assert read_warm(plain, small.space).sources[0].numbers == found.sources[0].numbers[2:]
    plain["sources"][0]["parameters"] = [{"lr": 7.0}] * 12
    assert read_warm(plain, small.space).sources == ()
    for broken in (None, "x", {}, {"given": [], "sources": [3], "lines": []}, {"given": 1}):
        assert read_warm(broken, small.space) == Warm()


def test_a_study_that_runs_before_or_after_learns_from_no_other() -> None:
    assert _limit(Variables(warm=("old",), trials=5), load_study("cae")).warm == ()


# ---- mistakes ----


def test_a_mistake_in_warm_is_one_line_and_changes_nothing(
    refused: Callable[..., str], study_file: WriteStudy, tmp_path: Path
) -> None:
    path = study_file(replace={'sampler="random"': 'sampler="tpe"'})
    (tmp_path / "runs").mkdir()
    url = f"sqlite:///{tmp_path}/studies.db"

    def refuse(warm: str, may_make: Sequence[str] = (), **more: object) -> str:
        return refused("study", may_make, NAME=path, WARM=warm, STORAGE=url, **more)

    said = refuse("old", may_make=["runs/cache"])
    assert f"no trial database at {tmp_path}/studies.db" in said
    fill(url)
    assert "WARM: unknown study 'odl'; did you mean 'old'? available: old" in refuse("odl")
    assert "lacks a name beside a comma" in refuse("old,,x")
    assert "names a study twice" in refuse("old,old")
    assert "WARM: unknown study 'mysql://h/d#x'" in refuse("mysql://h/d#x")
    assert "no trial database at /no/such.db" in refuse("sqlite:////no/such.db#x")
    stored(url, "empty")
    assert "WARM=empty has no complete trial" in refuse("empty")
    optuna.create_study(study_name="two", storage=open_storage(url), directions=["minimize"] * 2)
    assert "WARM=two has 2 objectives" in refuse("two")
    elsewhere = f"sqlite:///{tmp_path}/studies.db"
    assert "does not say which study (empty, old, two); add # and its name" in refuse(elsewhere)
    strange = optuna.create_study(study_name="strange", storage=open_storage(url))
    strange.tell(strange.ask({"x": FloatDistribution(0, 1)}), 1.0)
    assert "has no parameter of this study: there x; here channels, latent, lr" in refuse("strange")
    far = optuna.create_study(study_name="far", storage=open_storage(url))
    far.tell(far.ask({"lr": FloatDistribution(5, 6)}), 1.0)
    assert "none of its 1 trial lies in this study's space" in refuse("far")
    assert "random takes no such trials: give SAMPLER=tpe" in refuse("old", SAMPLER="random")


def test_a_study_is_no_source_of_itself_or_of_another_family(small: Study, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    fill(url, "small")
    with pytest.raises(BadVariable, match="WARM=small is the study itself"):
        read(small, url, "small")
    fill(url, "vae")
    opened = stored(url, "vae")
    write_identity(opened, replace(IDENTITY, model="models.vae:VAE"))
    with pytest.raises(BadVariable, match=r"has searched models\.vae:VAE, and this study searches"):
        read(small, url, "vae")


@pytest.mark.parametrize(
    ("written", "holds"),
    [
        ("cae,postgresql://me:pw@h/d#x", True),
        ("postgresql+psycopg://me:p,w@h/d#x", True),
        ("sqlite:///a.db#x,postgresql://h/d?password=pw#x", True),
        ("sqlite:///a:b@c.db#x", False),
        ("postgresql://me@h/d#x", False),
        ("file:~/address#x", False),
        ("cae,old", False),
    ],
)
def test_a_password_in_warm_is_found(written: str, holds: bool) -> None:
    assert passwords.names_password(written) is holds


def test_a_password_in_warm_leaves_the_command_line_and_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    begun: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr("os.execve", lambda *given: begun.append(given))
    secret = "postgresql://me:hunter2@h/d#old"
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "genstudy", "study", f"WARM={secret}"])
    passwords.hide_password()
    ((_, words, environment),) = begun
    assert "hunter2" not in repr((words, environment))
    assert "WARM=file:PATH#STUDY" in capfd.readouterr().err
    monkeypatch.setenv("WARM", words[-1].removeprefix("WARM="))
    with passwords.received_storage():
        assert "WARM" not in os.environ
        assert read_variables().warm == (secret,)
    assert parse_name(secret).shown == "postgresql://me:***@h/d#old"


def test_an_address_may_stand_in_a_file_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "address"
    path.write_text("postgresql://me:hunter2@h/d\n")
    path.chmod(0o600)
    found = parse_name(f"file:{path}#old")
    assert (found.address, found.study) == ("postgresql://me:hunter2@h/d", "old")
    assert found.shown == "postgresql://me:***@h/d#old"
    path.chmod(0o644)
    with pytest.raises(BadVariable, match=r"^WARM=file:.*address may be read by others"):
        parse_name(f"file:{path}#old")


# ---- whole studies ----


def draw_trials(url: str, name: str, warm: Warm, *, workers: int) -> list[dict[str, Any]]:
    """Let workers by turns take twelve trials, of which one is given back; return their
    parameters."""
    stored(url, name)
    queues = [
        open_queue(
            name,
            url,
            owner=owner_name(os.getpid()),
            sampler=with_warm(make_sampler("tpe", seed=5, space=SPACE), warm.sources, SPACE),
            references=warm.shared,
        )
        for _ in range(workers)
    ]
    for index in range(13):
        queue = queues[index % workers]
        trial = queue.claim(12)
        assert trial is not None
        if index == 7:  # its worker is killed
            queue.release(trial.number)
            continue
        for each, distribution in SPACE.items():
            trial._suggest(each, distribution)
        queue.end(trial, Ending.complete(goodness(trial.params), 1))
    found = [trial.params for trial in queues[0].study.get_trials()]
    for queue in queues:
        queue.storage.engine.dispose()
    return found


def test_whichever_worker_draws_a_trial_it_is_the_same(storage_url: str) -> None:
    warm = Warm(given=("old",), sources=(source_of(goodness),), lines=("60 trials of old",))
    keep_warm(stored(storage_url), warm, SPACE)
    kept = remembered_warm(stored(storage_url), SPACE)
    alone = draw_trials(storage_url, "alone", warm, workers=1)
    assert alone[:1] == list(warm.shared.values())
    assert draw_trials(storage_url, "together", kept, workers=3) == alone
    assert draw_trials(storage_url, "cold", Warm(), workers=1)[4:] != alone[4:]


def test_a_study_begins_with_what_its_source_has_found(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    path = study_file(replace={'sampler="random"': 'sampler="tpe"'})
    source = f"sqlite:///{tmp_path}/old.db"
    fill(source)
    asked: dict[str, Any] = {"NAME": path, "WARM": f"{source}#old", "TOP": 0, "WORKERS": 1}
    code, output, error = user.run(TRIALS=2, EPOCHS=1, **asked)
    assert code == 0, error
    assert "WARM: 12 trials of old\n" in output
    found = trials("small", storage=user.url)
    assert len(found) == 2
    assert str(found["reference"][0]).startswith("WARM old trial ")
    assert math.isclose(found["lr"][0], 1e-3, rel_tol=0.5), "the best of twelve random ones"
    record = read_record(stored(user.url))
    assert record is not None
    assert record.warm == "12 trials of old"


def test_a_machine_that_joins_learns_from_the_same(small: Study, storage_url: str) -> None:
    fill(storage_url)
    found = find_warm(["old"], small, storage_url, stored="small")
    opened = stored(storage_url)
    keep_warm(opened, found, small.space)
    assert found is not None
    assert read_warm(remembered_warm(opened, small.space).to_plain(), small.space) == found


def test_a_machine_that_was_begun_without_takes_what_another_has_stored(
    small: Study, storage_url: str, tmp_path: Path
) -> None:
    fill(storage_url)
    opened = stored(storage_url)
    run = StudyRun(
        name=small.reference, study="small", storage=storage_url, runs=str(tmp_path), images="",
        seed=0, trials=3, epochs=1, retrain_epochs=1, revision="", token="t", sampler="tpe",
    )  # fmt: skip
    control = LocalControl()
    cold, late = (
        _open_queue(run, small, cast(Any, control), owner_name(os.getpid())) for _ in range(2)
    )
    found = find_warm(["old"], small, storage_url, stored="small")
    assert found is not None
    keep_warm(opened, found, small.space)  # by the other machine, a moment later
    trial = cold.claim(3)
    assert trial is not None
    assert trial.user_attrs["reference"] == next(iter(found.shared))
    assert isinstance(cold.study.sampler, WarmSampler)
    assert [event.what for event in control.heard if isinstance(event, Warned)] == [
        "another machine began it with WARM=old"
    ]
    again = late.claim(3)
    assert again is not None
    assert "reference" not in again.user_attrs, "each reference is tried once"
    assert isinstance(late.study.sampler, WarmSampler), "that of all trials, not of the first alone"
    cold.claim(3)
    assert len(control.heard) == 2, "each worker says it once"
    for queue in (cold, late):
        queue.storage.engine.dispose()
