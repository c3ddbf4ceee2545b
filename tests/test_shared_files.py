"""Files that every machine sees: checkpoints follow a trial to a machine with another RUNS.

A worker of machine A is cut off or killed; one of machine B, which shares the database and FILES
and nothing else, goes on. FILES is a folder, a bucket on a real S3 server, or the database itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from moto.server import ThreadedMotoServer

from models.export import load_export
from search.messages import Resumed
from search.trials.files_access import FilesAccess
from search.worker.context import WorkerContext
from storage import trials
from storage.database.fences import TrialLost, raise_fence
from storage.database.file_records import create_file_tables, kept_files
from storage.database.transactions import write
from storage.files.object_store import ObjectStore, open_objects
from storage.files.places import parse_files
from storage.files.shared_files import SharedFiles
from tests.conftest import contents
from tests.damages import DAMAGES
from tests.trials import MakeContext, run_one, said_by
from tests.user import (
    User,
    WriteStudy,
    free_port,
    kill_all,
    progress,
    set_constants,
    slow,
    wait_until,
    watched,
)

EPOCHS, STEPS = 5, 5  # of a trial; questions of an epoch whether to stop
KINDS = ("folder", "s3", "database")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """A real S3 server of this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket, and the environment in which boto3 finds it."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "a-key", "AWS_DEFAULT_REGION":
        "us-east-1", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="studies")
    return "s3://studies/of/mine"


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """What FILES says, for each kind of place."""
    kind = request.param
    if kind == "s3":
        return str(request.getfixturevalue("s3"))
    return str(tmp_path / "shared") if kind == "folder" else str(kind)


@pytest.fixture
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch leaves a checkpoint."""
    monkeypatch.setattr("search.worker.trial.SHORT_EPOCH", 0.0)


def on_machine(context: WorkerContext, runs: Path, place: str) -> WorkerContext:
    """The context on a machine with a RUNS of its own and shared files."""
    create_file_tables(context.queue.engine)
    run = replace(context.run, runs=str(runs), files=place)
    files = SharedFiles(
        engine=context.queue.engine, token=run.token,
        store=open_objects(parse_files(place), context.queue.engine),
    )  # fmt: skip
    access = FilesAccess(files, context.queue.retry, context.interrupted, context.tell)
    moved = replace(context, run=run, files=access)
    moved.heard = context.heard  # type: ignore[attr-defined]
    return moved


def leave_in(make_context: MakeContext, epoch: int, runs: Path, place: str) -> None:
    """Let a trial be interrupted in an epoch, on the machine with ``runs``."""
    asked = 0

    def interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked > (epoch - 1) * STEPS + 1

    context = make_context(epochs=EPOCHS, interrupted=interrupted)
    assert run_one(on_machine(context, runs, place))["state"] == "WAITING"


def undisturbed_value(make_context: MakeContext, known: dict[str, float] = {}) -> float:  # noqa: B006
    """The value of the same trial, which nobody interrupts."""
    if not known:
        known["value"] = run_one(make_context(epochs=EPOCHS, runs="undisturbed"))["value"]
    return known["value"]


def resumed(context: WorkerContext) -> list[int]:
    heard = context.heard  # type: ignore[attr-defined]
    return [event.epoch for event in heard if isinstance(event, Resumed)]


def objects_in(store: ObjectStore) -> list[str]:
    """The names of all objects that hold content of studies."""
    if store.place.kind == "folder":
        found = [p.relative_to(store.place.folder) for p in store.place.folder.rglob("*")]
        return sorted(str(p) for p in found if (store.place.folder / p).is_file())
    if store.place.kind == "s3":
        import boto3

        listed = boto3.client("s3").list_objects_v2(Bucket="studies").get("Contents", [])
        return sorted(each["Key"] for each in listed)
    from sqlalchemy import text

    with store.store.engine.connect() as connection:  # type: ignore[attr-defined]
        return sorted(connection.scalars(text("SELECT name FROM genstudy_objects")))


@pytest.mark.usefixtures("all_kept")
@pytest.mark.parametrize("place", KINDS, indirect=True)
def test_a_trial_goes_on_from_its_checkpoint_on_a_machine_with_another_runs(
    make_context: MakeContext, tmp_path: Path, place: str
) -> None:
    leave_in(make_context, 4, tmp_path / "a", place)
    context = on_machine(make_context(epochs=EPOCHS), tmp_path / "b", place)
    assert context.files is not None
    assert len(kept_files(context.queue.engine, "t", "trial-0")) == 2  # two deep
    ended = run_one(context)
    assert ended["value"] == undisturbed_value(make_context)
    assert resumed(context) == [3]
    assert said_by(context) == []
    assert kept_files(context.queue.engine, "t", "trial-0") == []
    assert [name for name in objects_in(context.files.files.store) if "files/" in name] == []


@pytest.mark.parametrize("place", ["folder", "s3"], indirect=True)
def test_a_killed_machine_is_followed_by_one_with_another_runs(
    user: User, study_file: WriteStudy, tmp_path: Path, postgres_url: str, place: str
) -> None:
    """One Postgres, two RUNS: the trial goes on, the best are retrained once, and both machines
    have the exports and the pictures."""
    name = study_file(replace={**slow(0.05), "epochs=2, retrain": "epochs=8, retrain"})
    given: dict[str, Any] = {"NAME": name, "TRIALS": 2, "TOP": 1, "WORKERS": 1}
    shared = given | {"STORAGE": postgres_url, "FILES": place, "PORT": free_port()}
    set_constants(user, SHORT_EPOCH=0.0, GRACE=3.0, RENEWAL=0.5, SECOND_LOOK=1.0)
    here, there = user.with_other_runs("here"), user.with_other_runs("there")
    here.before = there.before = user.before
    with watched(here.start(**shared)) as process:
        wait_until(lambda: progress(postgres_url)() >= 4)
        kill_all(process)
    code, out, error = there.run(**shared)
    assert (code, error) == (0, "")
    assert re.search(r"trial +0 .*goes on (after|behind|from) epoch [3-8]", out), out
    code, out, error = here.run(**shared)
    assert (code, error) == (0, "")
    assert "retrained" not in out
    code, _, error = user.run(**given)
    assert (code, error) == (0, "")
    undisturbed = trials("small", storage=user.url)
    frame = trials("small", storage=postgres_url)
    assert frame["value"].tolist() == undisturbed["value"].tolist()
    exports = [runs.runs / "exports" / "small" / "1" for runs in (here, there)]
    assert contents(exports[0]).values() == contents(exports[1]).values()
    assert load_export(exports[0]) is not None


@pytest.mark.usefixtures("all_kept")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_copy_costs_the_epochs_since_the_one_before(
    make_context: MakeContext, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    leave_in(make_context, 4, tmp_path / "a", str(tmp_path / "shared"))
    context = on_machine(make_context(epochs=EPOCHS), tmp_path / "b", str(tmp_path / "shared"))
    newest, _ = kept_files(context.queue.engine, "t", "trial-0")
    damage(tmp_path / "shared" / "files" / newest.key)
    assert run_one(context)["value"] == undisturbed_value(make_context)
    assert resumed(context) == [2]
    (line,) = said_by(context)
    assert "the checkpoint of epoch 3 of trial-0 in FILES=" in line
    assert not list((tmp_path / "shared" / "files").iterdir())


def make_files(context: WorkerContext, place: str) -> SharedFiles:
    found = on_machine(context, Path(context.run.runs), place).files
    assert found is not None
    return found.files


def test_a_worker_that_lost_its_trial_overwrites_nothing(
    make_context: MakeContext, tmp_path: Path
) -> None:
    """Its object is refused, before it is written and after it was."""
    context = make_context()
    files = make_files(context, str(tmp_path / "shared"))
    trial = context.queue.claim(9)
    assert trial is not None
    copies = on_machine(context, tmp_path / "a", str(tmp_path / "shared")).copies_of_trial(trial)
    assert copies is not None
    content = tmp_path / "content"
    content.write_bytes(b"of the late one")
    copies.keep(content, epoch=1)

    def overtake(*_: object) -> None:
        with write(context.queue.engine) as connection:
            raise_fence(connection, trial._trial_id)

    class Overtaken(ObjectStore):
        def write(self, name: str, content: Path | bytes) -> None:
            super().write(name, content)
            overtake()

    late = replace(files, store=Overtaken(**vars(files.store)))
    with pytest.raises(TrialLost):
        late.put("trial-0", content, epoch=9, guard=copies.guard)
    with pytest.raises(TrialLost):
        copies.keep(content, epoch=8)
    assert [kept.epoch for kept in files.kept("trial-0")] == [1]
    assert len(list((tmp_path / "shared" / "files").iterdir())) == 1
