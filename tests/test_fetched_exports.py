"""Exports of other machines: commands that read one bring it from FILES into their RUNS."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
import pytest
from rich.console import Console

from models.base import Model, ModelConfig, build
from models.cae import CAE, CAEConfig
from models.export import write_export
from models.vae import VAE, VAEConfig
from search.__main__ import main
from search.errors import BaseMissing
from search.setup.fetched_exports import fetch_export
from search.setup.inputs import find_inputs
from search.setup.loading import load_study
from search.setup.shared_place import keep_files
from search.setup.stored_study import ATTRIBUTE
from search.trials.shared_exports import Brought, bring_export, export_file, put_export
from search.variables import Variables
from storage.database.connection import open_storage
from storage.database.job_claims import check_job
from storage.files.exports import PROVENANCE, _digest, atomic_folder
from storage.files.object_store import open_objects
from storage.files.places import parse_files
from storage.files.sealed_json import write_sealed
from storage.files.shared_files import SharedFiles, may_always
from storage.paths import RunPaths
from tests.damages import DAMAGES
from tests.test_bases import HEAD
from tests.user import WriteStudy

FEW_DIGITS = True

TOKEN = "a-token"
SMALL = VAEConfig(latent=2, width=0.125)


class Shared:
    """A stored study whose best was exported by another machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seed = 0  # of the models' weights
        self.url = f"sqlite:///{folder / 'studies.db'}"
        self.place = str(folder / "shared")
        self.storage = open_storage(self.url)
        study = optuna.create_study(study_name="s", storage=self.storage)
        study.set_user_attr(ATTRIBUTE, json.dumps({"token": TOKEN}))
        keep_files(study, Variables(files=self.place), self.storage)
        store = open_objects(parse_files(self.place), self.storage.engine)
        self.files = SharedFiles(engine=self.storage.engine, token=TOKEN, store=store)

    def export(
        self,
        rank: int,
        trial: int,
        family: type[Model] = VAE,
        config: ModelConfig = SMALL,
        *,
        runs: str = "there",
        claim: int | None = 0,
    ) -> None:
        """Export a small model on a machine.

        claim: on the rank; 0: nobody asks for one; None: the export is not shared
        """
        model = build(family, config, (1, 28, 28), seed=self.seed + trial)
        model.programs = lambda: {}  # type: ignore[method-assign]
        folder = RunPaths(self.folder / runs).export("s", rank)
        shutil.rmtree(folder, ignore_errors=True)
        with atomic_folder(folder) as staging:
            write_export(model, staging)
            files = {path.name: _digest(path) for path in staging.iterdir()}
            about = {"study": "s", "trial": trial, "token": TOKEN, "rank": rank}
            write_sealed(staging / PROVENANCE, {**about, "sha256": files})
        guard = partial(check_job, token=TOKEN, name=export_file(rank), fence=claim or 0)
        if claim is not None:
            put_export(self.files, rank, folder, guard=guard if claim else may_always)

    def variables(self, runs: Path, files: str | None = None) -> Variables:
        return Variables(runs=runs, storage=self.url, files=files or self.place)

    def weights(self, runs: str) -> bytes:
        place = RunPaths(self.folder / runs).export("s", 1)
        return (place / "weights.safetensors").read_bytes()


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    found = Shared(tmp_path)
    found.export(rank=1, trial=7)
    return found


@pytest.fixture
def sample(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call `make sample` on this machine; returns its exit code, output and errors."""

    def call(**more: str) -> tuple[int, str, str]:
        given = {"NAME": "s", "N": "2", "RUNS": str(shared.folder / "here"), "STORAGE": shared.url}
        for name, value in {**given, **more}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("COLUMNS", "300")
        code = main(["sample"])
        for name in more:
            monkeypatch.delenv(name)
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_images_are_made_with_the_export_of_another_machine(
    shared: Shared, sample: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, error = sample(FILES=shared.place)
    assert (code, error) == (0, "")
    assert f"rank 1 of s is brought from FILES={shared.place} to " in out
    assert shared.weights("here") == shared.weights("there")
    assert (shared.folder / "here" / "samples" / "s" / "1" / "1.png").exists()
    assert "is brought" not in sample(FILES=shared.place)[1]
    shared.export(rank=1, trial=8)  # a later one takes its place, which is kept
    assert "rank 1 of s is brought" in sample(FILES=shared.place)[1]
    assert shared.weights("here") == shared.weights("there")
    assert (shared.folder / "here" / "exports" / "s" / "1-earlier").is_dir()


def test_who_forgets_files_is_told_where_the_export_is(
    shared: Shared, sample: Callable[..., tuple[int, str, str]]
) -> None:
    (shared.folder / "here" / "exports" / "s").mkdir(parents=True)
    code, _, error = sample()
    assert code == 2
    assert f"the study keeps its exports in FILES={shared.place}: give FILES, too" in error


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_export_is_not_brought(
    shared: Shared, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    (newest,) = shared.files.kept(export_file(1))
    damage(Path(shared.place) / "files" / newest.key)
    said: list[str] = []
    fetch_export(shared.variables(tmp_path / "here"), "s", 1, said.append)
    assert said == [f"rank 1 of s: the export in FILES={shared.place} is damaged"]
    assert not [*(tmp_path / "here").rglob("weights.safetensors")]


def test_what_stands_here_is_used_while_files_is_away(shared: Shared, tmp_path: Path) -> None:
    variables, said = shared.variables(tmp_path / "here"), list[str]()
    fetch_export(variables, "s", 1, said.append)
    shutil.move(shared.place, tmp_path / "away")
    fetch_export(variables, "s", 1, said.append)
    assert "is used, as it stands here" in said[-1]
    assert shared.weights("here") == shared.weights("there")


def test_no_other_place_and_no_other_study_is_taken(shared: Shared, tmp_path: Path) -> None:
    other = tmp_path / "other"
    open_objects(parse_files(str(other)), None).identify()
    for variables, name in (
        (shared.variables(tmp_path / "here", str(other)), "s"),  # not where it keeps its files
        (shared.variables(tmp_path / "here"), "another"),
        (Variables(runs=tmp_path / "here", files=shared.place), "s"),  # no database yet
    ):
        fetch_export(variables, name, 1, pytest.fail)
    assert not (tmp_path / "here" / "exports").exists()


def test_a_study_starts_from_the_export_of_another_machine(
    shared: Shared, tmp_path: Path, study_file: WriteStudy
) -> None:
    base = study_file("s")
    head = load_study(str(study_file("head", HEAD.replace("BASE", str(base)))))
    shared.export(rank=1, trial=7, family=CAE, config=CAEConfig(channels=2, latent=3))
    variables = replace(shared.variables(tmp_path / "here"), data_root=tmp_path)
    with pytest.raises(BaseMissing, match=f"keeps its own in FILES={shared.place}: give FILES"):
        find_inputs(replace(variables, files=None), head, Console(quiet=True))
    found = find_inputs(variables, head, Console(quiet=True))
    assert found.base == RunPaths(tmp_path / "here").export("s", 1)
    assert shared.weights("here") == shared.weights("there")


def test_two_processes_bring_one_export(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has put it in its place in between."""
    folder = RunPaths(tmp_path / "here").export("s", 1)
    files = shared.files

    def overtaken(content: Path, place: Path) -> None:
        shutil.copytree(content, place)
        raise FileExistsError(place)

    monkeypatch.setattr("search.trials.shared_exports._put_in_place", overtaken)
    assert bring_export(files, folder, 1) is Brought.FETCHED
    assert bring_export(files, folder, 1) is Brought.STANDS
    assert bring_export(files, folder, 2) is Brought.NOT_THERE
