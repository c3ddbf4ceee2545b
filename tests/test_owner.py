"""Who a process is: a worker counts as dead only where that is certain."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from search.trials import owner
from search.trials.owner import forget_mark, hold_mark, is_gone, owner_name, sweep_marks
from tests.preloaded import Preloaded
from tests.user import living


@pytest.fixture(autouse=True)
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This machine's folder for temporary files."""
    monkeypatch.setattr(owner, "MARKS", tmp_path)
    return tmp_path


def leave_mark(name: str) -> None:
    """What a killed process leaves: its mark, without its lock."""
    owner._mark_of(name).touch()


def test_no_two_owners_agree_even_with_the_number_of_one_process() -> None:
    names = {owner_name(1) for _ in range(100)}
    assert len(names) == 100
    assert all(re.fullmatch(r"[\w.-]+:1:[0-9a-f]{32}", name) for name in names)


def test_who_lives_is_not_gone_and_who_was_killed_is(
    monkeypatch: pytest.MonkeyPatch, preloaded: Preloaded
) -> None:
    monkeypatch.setattr(owner, "MARKS", Path("/tmp"))  # where the other process has its mark
    name = owner_name(1)
    assert not is_gone(name)  # it has not begun
    with living(name, preloaded):
        assert not is_gone(name)
    assert is_gone(name)
    forget_mark(name)
    assert not is_gone(name)  # nothing is known of it any more


def test_of_a_machine_with_the_same_name_nobody_is_taken_for_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clones share name and boot, and a number that no process has here is one that lives there."""
    monkeypatch.setattr(owner, "machine_name", lambda: "clone")
    theirs = owner_name(2**22 + 1)
    leave_mark(theirs)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(owner, "MARKS", other)
    assert not is_gone(theirs)


def test_of_another_machine_a_mark_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that machines share may not share its locks."""
    theirs = owner_name(1)
    leave_mark(theirs)
    assert is_gone(theirs)
    monkeypatch.setattr(owner, "machine_name", lambda: "another")
    assert not is_gone(theirs)


def test_a_machine_without_a_boot_has_its_hosts_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "BOOT", tmp_path / "none")
    monkeypatch.setattr("socket.gethostname", lambda: "host")
    assert owner_name(7).startswith("host:7:")


@pytest.mark.parametrize("name", ["host-1a2b-4026531836:12:345", "s:1:../../etc/passwd", "", ":"])
def test_names_of_older_versions_and_of_strangers_say_nothing(name: str) -> None:
    assert not is_gone(name)


def test_this_process_is_not_gone_and_leaves_nothing(marks: Path) -> None:
    name = owner_name(os.getpid())
    hold_mark(name)
    assert not is_gone(name)
    assert len(list(marks.iterdir())) == 1
    forget_mark(name)
    assert list(marks.iterdir()) == []


def test_a_disk_without_space_costs_the_mark_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "MARKS", Path("/nowhere"))
    name = owner_name(os.getpid())
    hold_mark(name)
    assert not is_gone(name)


def test_old_marks_are_swept_and_those_in_use_are_not(marks: Path) -> None:
    old, recent, held = (owner_name(number) for number in (1, 2, 3))
    leave_mark(old)
    leave_mark(recent)
    hold_mark(held)
    past = time.time() - 2 * owner.OLD
    for name in (old, held):
        os.utime(owner._mark_of(name), (past, past))
    sweep_marks()
    assert set(marks.iterdir()) == {owner._mark_of(recent), owner._mark_of(held)}
    forget_mark(held)
