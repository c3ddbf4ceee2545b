"""Copies are put into FILES while the training goes on: in their order, once, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from search.trials.files_access import FilesAccess
from search.worker.shared_copies import SharedCopies
from search.worker.uploads import Uploads
from storage.database.connection import open_storage
from storage.database.fences import TrialLost
from storage.database.file_records import create_file_tables
from storage.database.retry import DatabaseRetry
from storage.files.artifacts import shared_name
from storage.files.object_store import ObjectStore, open_objects
from storage.files.places import parse_files
from storage.files.shared_files import SharedFiles, may_always

SECONDS = 20.0  # that anything may take


class Slow(ObjectStore):
    """A place that takes nothing before it may."""

    gate = threading.Event()
    reached = threading.Event()

    def write(self, name: str, content: Path | bytes) -> None:
        self.reached.set()
        assert self.gate.wait(SECONDS)
        super().write(name, content)


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Uploads]:
    Slow.gate, Slow.reached = threading.Event(), threading.Event()
    engine = open_storage(f"sqlite:///{tmp_path / 'studies.db'}").engine
    create_file_tables(engine)
    store = open_objects(parse_files(str(tmp_path / "shared")), None)
    store.identify()
    files = SharedFiles(engine=engine, token="t", store=Slow(**vars(store)))
    yield Uploads(FilesAccess(files, DatabaseRetry(), lambda: False, pytest.fail))
    Slow.gate.set()


@pytest.fixture
def keep(uploads: Uploads, tmp_path: Path) -> Callable[..., None]:
    """Write the next content over the one before, as a checkpoint, and have it kept."""

    def call(epoch: int, name: str = "trial-7", guard: Callable[..., object] = may_always) -> None:
        beside = tmp_path / "beside"
        beside.write_text(f"after epoch {epoch}")
        beside.replace(tmp_path / "checkpoint")
        copies = SharedCopies(uploads=uploads, name=name, guard=guard, tell=pytest.fail)
        copies.keep(tmp_path / "checkpoint", epoch=epoch)

    return call


def kept(uploads: Uploads, tmp_path: Path, name: str = "trial-7") -> list[tuple[int, str]]:
    """The epochs of the copies and their contents, the newest first."""
    files, found = uploads.access.files, []
    for record in files.kept(name):
        assert files.fetch(record, tmp_path / "fetched")
        found.append((record.epoch, (tmp_path / "fetched").read_text()))
    return found


def test_nobody_waits_for_a_copy_that_is_under_way_and_it_is_what_was_written(
    uploads: Uploads, keep: Callable[..., None], tmp_path: Path
) -> None:
    keep(1)
    assert Slow.reached.wait(SECONDS)
    for epoch in (2, 3, 4):  # the file has other contents by now
        keep(epoch)
    assert kept(uploads, tmp_path) == []  # none is whole: nobody resumes from it
    Slow.gate.set()
    uploads.wait()
    assert kept(uploads, tmp_path) == [(4, "after epoch 4"), (1, "after epoch 1")]
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_who_lost_the_training_hears_it_and_puts_nothing(
    uploads: Uploads, keep: Callable[..., None], tmp_path: Path
) -> None:
    Slow.gate.set()
    keep(1)
    uploads.wait()

    def lost(connection: Connection) -> None:
        raise TrialLost

    keep(2, guard=lost)
    with pytest.raises(TrialLost):
        uploads.wait()
    keep(3, guard=lost)
    uploads.clear()  # another training begins, which has lost nothing
    keep(4, name="trial-8")
    uploads.wait()
    assert [epoch for epoch, _ in kept(uploads, tmp_path)] == [1]
    assert [epoch for epoch, _ in kept(uploads, tmp_path, "trial-8")] == [4]
    keep(5, guard=lost)
    assert wait_for_failure(uploads)
    with pytest.raises(TrialLost):
        keep(6)


def test_a_trial_hears_of_no_loss_but_its_own(
    uploads: Uploads, keep: Callable[..., None], tmp_path: Path
) -> None:
    def lost(connection: Connection) -> None:
        raise TrialLost

    Slow.gate.set()
    keep(1, name="trial-70", guard=lost)
    keep(1, name="trial-7")
    uploads.wait("trial-7")
    keep(2, name="trial-7-rows", guard=lost)
    with pytest.raises(TrialLost):
        uploads.wait("trial-7")
    with pytest.raises(TrialLost):
        uploads.wait("trial-70")
    (tmp_path / "picture").write_text("drawn")
    uploads.share("picture", tmp_path, lost, of="trial-8")
    uploads.wait("trial-7")
    with pytest.raises(TrialLost):
        uploads.wait("trial-8")


def wait_for_failure(uploads: Uploads) -> bool:
    with uploads._changed:
        return uploads._changed.wait_for(lambda: bool(uploads._failed), timeout=SECONDS)


def test_what_is_forgotten_is_not_put_afterwards(
    uploads: Uploads, keep: Callable[..., None], tmp_path: Path
) -> None:
    keep(1)
    assert Slow.reached.wait(SECONDS)
    keep(2)
    threading.Timer(0.2, Slow.gate.set).start()
    copies = SharedCopies(uploads=uploads, name="trial-7", guard=may_always, tell=pytest.fail)
    copies.forget()
    uploads.wait()
    assert uploads.access.files.names() == []
    assert list((tmp_path / "shared" / "files").iterdir()) == []


@pytest.fixture
def share(uploads: Uploads, tmp_path: Path) -> Callable[..., None]:
    """Draw a picture over the one before, and have it put."""
    (tmp_path / "artifacts").mkdir()

    def call(content: str, guard: Callable[..., object] = may_always, name: str = "id") -> None:
        beside = tmp_path / "drawn"
        beside.write_text(content)
        beside.replace(tmp_path / "artifacts" / name)
        uploads.share(name, tmp_path / "artifacts", guard)

    return call


def shared(tmp_path: Path, name: str = "id") -> str | None:
    """The content of a picture in FILES."""
    path = tmp_path / "shared" / "artifacts" / name
    return path.read_text() if path.exists() else None


def test_nobody_waits_for_a_picture_and_the_latest_of_a_name_stays(
    uploads: Uploads, share: Callable[..., None], keep: Callable[..., None], tmp_path: Path
) -> None:
    share("after epoch 1")
    assert Slow.reached.wait(SECONDS)
    for epoch in (2, 3):
        share(f"after epoch {epoch}")
    keep(3)
    assert shared(tmp_path) is None
    Slow.gate.set()
    uploads.wait()
    assert shared(tmp_path) == "after epoch 3"
    assert [epoch for epoch, _ in kept(uploads, tmp_path)] == [3]
    assert (tmp_path / "artifacts" / "id").exists()


def test_who_lost_the_trial_puts_no_picture_over_a_later_attempts(
    uploads: Uploads, share: Callable[..., None], tmp_path: Path
) -> None:
    """It was its own when the picture was drawn, and is another's when its turn comes."""
    is_lost = threading.Event()

    def guard(connection: Connection) -> None:
        if is_lost.is_set():
            raise TrialLost

    share("of another trial", name="other")
    assert Slow.reached.wait(SECONDS)
    share("of the earlier attempt", guard)
    is_lost.set()
    Slow.gate.set()
    with pytest.raises(TrialLost):
        uploads.wait()
    assert shared(tmp_path) is None
    share("of a trial that is ours", name="third")
    uploads.wait()
    assert shared(tmp_path, "third") == "of a trial that is ours"


def test_a_picture_for_which_files_was_away_is_put_with_the_next(
    uploads: Uploads, share: Callable[..., None], tmp_path: Path
) -> None:
    """Also that of a trial before; one that has become another's since stops nobody."""
    Slow.gate.set()
    said: list[str] = []
    outage = uploads._own._outage
    outage.tell = said.append
    (tmp_path / "shared").rename(tmp_path / "away")
    share("first", name="first")
    uploads.wait()
    uploads.clear()
    is_lost: list[bool] = []

    def guard(connection: Connection) -> None:
        if is_lost:
            raise TrialLost

    share("lost meanwhile", guard, name="lost")
    uploads.wait()
    (line,) = said
    assert f"pictures stay in {tmp_path / 'artifacts'}" in line
    (tmp_path / "away").rename(tmp_path / "shared")
    outage.rests_until = 0.0
    is_lost.append(True)
    share("next", name="next")
    uploads.wait()
    names = ("first", "lost", "next")
    assert [shared(tmp_path, name) for name in names] == ["first", None, "next"]


def test_copies_are_put_in_their_order(
    uploads: Uploads, keep: Callable[..., None], tmp_path: Path
) -> None:
    """The last checkpoint of a retraining is of no use without the best one."""
    order: list[str] = []
    keep(1, name="first")
    assert Slow.reached.wait(SECONDS)
    for epoch in (2, 3):
        for name in ("best", "last"):
            keep(epoch, name=name, guard=lambda _, name=name: order.append(name))
    Slow.gate.set()
    uploads.wait()
    assert order == ["best", "best", "last", "last"]  # begun and whole
    assert kept(uploads, tmp_path, "last") == [(3, "after epoch 3")]


def test_a_checkpoint_that_somebody_removes_costs_its_copy_alone(
    uploads: Uploads, keep: Callable[..., None], tmp_path: Path
) -> None:
    keep(1)
    assert Slow.reached.wait(SECONDS)
    keep(2)
    for path in tmp_path.glob(".checkpoint.*"):
        path.unlink()
    uploads.put("trial-7", tmp_path / "gone", epoch=3, guard=may_always, left="")
    Slow.gate.set()
    uploads.wait()
    keep(4)
    uploads.wait()
    assert kept(uploads, tmp_path)[0] == (4, "after epoch 4")


def test_a_picture_too_large_for_the_database_stays_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.files.database_objects.LARGEST", 10)
    engine = open_storage(f"sqlite:///{tmp_path / 'studies.db'}").engine
    create_file_tables(engine)
    store = open_objects(parse_files("database"), engine)
    store.identify()
    files = SharedFiles(engine=engine, token="t", store=store)
    said: list[str] = []
    access = FilesAccess(files, DatabaseRetry(), lambda: False, said.append)
    for name, size in (("a", 5), ("large", 11), ("b", 5), ("larger", 12), ("c", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
        access.share_artifact(name, tmp_path)
    (line,) = said
    assert line.startswith(f"pictures stay in {tmp_path}: ")
    names = ("a", "large", "b", "larger", "c")
    there = [name for name in names if store.read(shared_name(name), tmp_path / "copy")]
    assert there == ["a", "b", "c"]
