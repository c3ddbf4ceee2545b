"""Files that every machine sees: checkpoints follow a trial to a machine with another RUNS.

A worker of machine A is cut off or killed; one of machine B, which shares the database and FILES
and nothing else, goes on. FILES is a folder, a bucket on a real S3 server, or the database itself.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from moto.server import ThreadedMotoServer
from optuna.artifacts.exceptions import ArtifactNotFound

from search.errors import StudyChanged
from search.events import Resumed
from search.setup.shared_place import keep_files
from search.supervisor.file_cleaning import remove_deleted, remove_ended
from search.trials.files_access import FilesAccess
from search.trials.outcomes import Ending
from search.variables import Variables
from search.worker.context import WorkerContext
from storage import trials
from storage.database.connection import open_storage
from storage.database.fences import TrialLost, raise_fence
from storage.database.file_records import create_file_tables, file_names, kept_files
from storage.database.job_claims import (
    JobLost,
    check_job,
    claim_job,
    read_claims,
    release_job,
    renew_jobs,
)
from storage.database.study_lock import CREATION, study_lock
from storage.database.transactions import write
from storage.errors import FilesAway
from storage.files.artifacts import ArtifactFolder, attach_to_trial, listed_artifacts
from storage.files.object_store import ObjectStore, open_objects
from storage.files.places import parse_files
from storage.files.shared_files import SharedFiles
from tests.conftest import contents
from tests.damages import DAMAGES
from tests.trials import MakeContext, run_one, said_by
from tests.user import (
    User,
    WriteStudy,
    kill_all,
    progress,
    set_constants,
    wait_until,
    watched,
)

FEW_DIGITS = True

EPOCHS, STEPS = 5, 5  # of a trial; questions of an epoch whether to stop
KINDS = ("folder", "s3", "database")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """A real S3 server of this machine."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
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
    monkeypatch.setattr("search.worker.trial_epochs.SHORT_EPOCH", 0.0)


def on_machine(context: WorkerContext, runs: Path, place: str) -> WorkerContext:
    """The context on a machine with a RUNS of its own and shared files."""
    create_file_tables(context.queue.engine)
    run = replace(context.run, runs=str(runs), files=place)
    store = open_objects(parse_files(place), context.queue.engine)
    with suppress(FilesAway):  # a test may have taken it away
        store.identify()
    files = SharedFiles(engine=context.queue.engine, token=run.token, store=store)
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


def test_a_killed_machine_is_followed_by_one_with_another_runs(
    s3: str, user: User, study_file: WriteStudy, postgres_url: str
) -> None:
    """One Postgres, one bucket, two RUNS: the trial goes on, the best is retrained once, and both
    machines have the same export."""
    name = study_file(replace={"epochs=2, retrain": "epochs=60, retrain"})
    given: dict[str, Any] = {"NAME": name, "TRIALS": 1, "WORKERS": 1}
    shared = given | {"STORAGE": postgres_url, "FILES": s3, "TOP": 1}
    set_constants(user, SHORT_EPOCH=0.0, GRACE=3.0, RENEWAL=0.5, SECOND_LOOK=1.0)
    here, there = user.with_other_runs("here"), user.with_other_runs("there")
    here.before = there.before = user.before
    with watched(here.start(**shared)) as process:
        wait_until(lambda: progress(postgres_url)() >= 4, seconds=150)
        kill_all(process)
    done = progress(postgres_url)()
    assert done < 60
    code, out, error = there.run(**shared)
    assert (code, error) == (0, "")
    found = re.search("trial +0 +goes on at epoch ([0-9]+)", out)
    assert found is not None, out
    # lost are the epochs whose copy was under way, which took longer than an epoch does here
    assert 1 < int(found[1]) <= done + 1
    code, out, error = here.run(**shared)
    assert (code, error) == (0, "")
    assert "retrained" not in out
    code, _, error = user.run(**given, TOP=0)
    assert (code, error) == (0, "")
    values = [trials("small", storage=url)["value"].tolist() for url in (postgres_url, user.url)]
    assert values[0] == values[1]
    exports = [machine.runs / "exports" / "small" / "1" for machine in (here, there)]
    first, second = (
        {Path(path).name: kept for path, kept in contents(place).items()} for place in exports
    )
    assert first == second
    assert len(first) > 5


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
    copies.settle()

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
    copies.keep(content, epoch=8)
    with pytest.raises(TrialLost):
        copies.settle()
    copies.settle()
    assert [kept.epoch for kept in files.kept("trial-0")] == [1]
    assert len(list((tmp_path / "shared" / "files").iterdir())) == 1


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("s3://AKIA:hidden@studies/mine", "keys and tokens do not belong into an address"),
        ("s3://studies/mine?X-Amz-Signature=hidden", "keys and tokens do not belong"),
        ("gs://hidden@studies", "give them by GOOGLE_APPLICATION_CREDENTIALS"),
        ("ftp://studies", "FILES begins with ftp://, which is not supported; use a folder"),
        ("s3:studies", "write s3://BUCKET/PREFIX"),
        ("s3://Studies", "this is no name of a bucket"),
        ("s3://studies/a/../b", "without spaces, '..' and"),
        ("s3://nobody-made-this", "make the bucket, or name another"),
        ("file", "cannot write to FILES="),
    ],
)
def test_a_mistake_in_files_is_one_line(
    refused: Callable[..., str], study_file: WriteStudy, tmp_path: Path, s3: str, files: str,
    said: str,
) -> None:  # fmt: skip
    (tmp_path / "file").touch()
    line = refused(NAME=study_file(), FILES=str(tmp_path / files) if files == "file" else files)
    assert said in line
    assert "hidden" not in line


def test_who_may_not_write_and_what_is_not_installed_is_one_line(
    refused: Callable[..., str], study_file: WriteStudy, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    line = refused(NAME=study_file(), FILES=s3)
    assert "Unable to locate credentials" in line
    assert "by AWS_PROFILE, AWS_ACCESS_KEY_ID or ~/.aws" in line
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "pip install 'genstudy[s3]'" in refused(NAME=study_file(), FILES=s3)


def test_a_place_that_the_study_does_not_know_is_refused(
    make_context: MakeContext, tmp_path: Path
) -> None:
    """Such as a folder of the same name on a machine that does not share it."""
    queue = make_context().queue
    study, storage = queue.study, queue.storage
    shared, other = tmp_path / "shared", tmp_path / "other"
    assert keep_files(study, Variables(files=str(shared)), storage) == str(shared)
    assert keep_files(study, Variables(files=str(shared)), storage) == str(shared)
    with pytest.raises(StudyChanged, match="other is not where study 'small' keeps its files"):
        keep_files(study, Variables(files=str(other)), storage)
    with pytest.raises(StudyChanged, match=r"keeps its files in FILES=.*shared: give FILES"):
        keep_files(study, Variables(), storage)
    shutil.copytree(shared, moved := tmp_path / "moved")
    assert keep_files(study, Variables(files=str(moved)), storage) == str(moved)


@pytest.mark.parametrize("kind", ["folder", "database"])
def test_a_study_begins_with_files_on_both_databases(
    storage_url: str, tmp_path: Path, kind: str
) -> None:
    """It begins under a lock, and on a server the lock has the only connection of a process."""
    files = "database" if kind == "database" else str(tmp_path / "shared")
    storage = open_storage(storage_url)
    storage.engine.pool._timeout = 1.0  # type: ignore[attr-defined]
    with study_lock(storage.engine, CREATION):
        study = optuna.create_study(study_name="s", storage=storage)
        assert keep_files(study, Variables(files=files), storage) == files
    assert keep_files(study, Variables(files=files), storage) == files


def test_files_that_are_away_cost_no_training(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local copy stays, and the line says where; then FILES is back."""
    context = on_machine(make_context(), tmp_path / "a", str(tmp_path / "shared"))
    trial = context.queue.claim(9)
    assert trial is not None
    copies, access = context.copies_of_trial(trial), context.files
    assert copies is not None
    assert access is not None
    content = tmp_path / "content"
    content.write_bytes(b"content")
    (tmp_path / "shared").rename(tmp_path / "elsewhere")
    (tmp_path / "shared").write_text("a disk that is not mounted")
    monkeypatch.setattr("search.trials.files_access.OUTAGE", 0.0)
    copies.keep(content, epoch=1)
    copies.settle()
    copies.keep(content, epoch=2)
    copies.settle()
    (line,) = said_by(context)
    assert "cannot be reached" in line
    assert "checkpoints stay in" in line
    with pytest.raises(FilesAway, match="for 0 minutes"):
        access.wait_for(lambda files: files.put("trial-0", content))
    (tmp_path / "shared").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "shared")
    access._outage.rests_until = 0.0
    copies.keep(content, epoch=3)
    copies.settle()
    assert "is back after" in said_by(context)[-1]
    assert [kept.epoch for kept in access.files.kept("trial-0")] == [3]
    remove_ended(access, context.queue, context.run)
    assert len(access.files.kept("trial-0")) == 1  # it runs
    context.queue.end(trial, Ending.complete(0.5, 3))
    remove_ended(access, context.queue, context.run)
    assert access.files.names() == []
    access.files.put("export-1", content)
    remove_deleted(access, context.queue)  # no study has this token
    assert access.files.names() == []
    assert not list((tmp_path / "shared" / "files").iterdir())


def test_pictures_are_seen_on_every_machine(make_context: MakeContext, tmp_path: Path) -> None:
    context = on_machine(make_context(), tmp_path / "a", str(tmp_path / "shared"))
    trial = context.queue.claim(9)
    assert trial is not None
    (tmp_path / "picture.png").write_bytes(b"picture")
    folder = context.run.paths.artifacts
    artifact = attach_to_trial(folder, trial, tmp_path / "picture.png")
    context.share_picture(trial, artifact)
    assert context.uploads is not None
    context.uploads.wait()
    store = open_objects(parse_files(str(tmp_path / "shared")), None)
    elsewhere = ArtifactFolder(tmp_path / "b" / "artifacts", store)
    with elsewhere.open_reader(artifact) as file:
        assert file.read() == b"picture"
    assert elsewhere.bring(artifact).read_bytes() == b"picture"
    with pytest.raises(ArtifactNotFound):
        elsewhere.open_reader("../../etc/passwd")
    elsewhere.remove(artifact)
    assert not list((tmp_path / "shared" / "artifacts").iterdir())


def test_all_pictures_of_a_trial_are_there_when_it_has_ended(
    make_context: MakeContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training does not wait for them, and the end of the trial does."""
    write = ObjectStore.write

    def take_time(self: ObjectStore, name: str, content: Path | bytes) -> None:
        time.sleep(0.1)
        write(self, name, content)

    context = on_machine(make_context(), tmp_path / "a", str(tmp_path / "shared"))
    context.spec = replace(context.spec, pictures_every=1)
    monkeypatch.setattr(ObjectStore, "write", take_time)
    seen: list[set[str]] = []
    end = context.queue.end

    def look_and_end(trial: optuna.Trial, ending: Ending) -> None:
        seen.append({path.name for path in (tmp_path / "shared" / "artifacts").iterdir()})
        end(trial, ending)

    monkeypatch.setattr(context.queue, "end", look_and_end)
    run_one(context)
    (stored,) = context.queue.study.get_trials()
    listed = {about.artifact_id for about in listed_artifacts(stored.system_attrs)}
    assert len(listed) == 3
    assert seen == [listed]


def test_who_holds_the_lock_of_a_study_makes_the_tables(storage_url: str) -> None:
    """A process has one connection to a server."""
    engine = open_storage(storage_url).engine
    with study_lock(engine, CREATION):
        create_file_tables(engine)
    create_file_tables(engine)
    assert file_names(engine, "t") == []


def test_a_retraining_is_one_machines_and_an_overtaken_one_writes_nothing(
    storage_url: str, tmp_path: Path
) -> None:
    engine = open_storage(storage_url).engine
    create_file_tables(engine)
    store = open_objects(parse_files(str(tmp_path / "shared")), None)
    store.identify()
    files = SharedFiles(engine=engine, token="t", store=store)
    (tmp_path / "content").write_bytes(b"content")
    assert claim_job(engine, "t", "retrain-7", owner="a", seen=0) == 1
    assert claim_job(engine, "t", "retrain-7", owner="b", seen=0) is None

    def put(fence: int) -> None:
        files.put(
            "retrain-7", tmp_path / "content",
            guard=lambda connection: check_job(connection, "t", "retrain-7", fence),
        )  # fmt: skip

    put(1)
    renew_jobs(engine, "t", "a")
    assert read_claims(engine, "t")["retrain-7"].renewed == 1
    assert claim_job(engine, "t", "retrain-7", owner="b", seen=1) == 2
    with pytest.raises(JobLost):
        put(1)
    release_job(engine, "t", "retrain-7", 1)
    assert read_claims(engine, "t")["retrain-7"].owner == "b"
    put(2)
    assert len(files.kept("retrain-7")) == 2


def test_another_folder_in_the_place_of_files_is_not_taken_for_it(
    make_context: MakeContext, tmp_path: Path
) -> None:
    """Such as the empty one where a disk is not mounted: what is not there now is not gone."""
    context = on_machine(make_context(), tmp_path / "a", str(tmp_path / "shared"))
    assert context.files is not None
    files = context.files.files
    (tmp_path / "content").write_bytes(b"content")
    files.put("trial-0", tmp_path / "content")
    (tmp_path / "shared").rename(tmp_path / "unmounted")
    (tmp_path / "shared").mkdir()
    (record,) = files.kept("trial-0")
    for call in (
        lambda: files.fetch(record, tmp_path / "fetched"),
        lambda: files.put("trial-0", tmp_path / "content"),
    ):
        with pytest.raises(FilesAway, match="there is no genstudy-files"):
            call()
    (tmp_path / "shared").rmdir()
    (tmp_path / "unmounted").rename(tmp_path / "shared")
    assert files.fetch(record, tmp_path / "fetched")
