"""A study goes on with more epochs: nothing is trained twice, and values are those of one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.trial import TrialState

from models.cae import CAEConfig
from models.gan import GANConfig
from models.vae import VAEConfig
from search.errors import StudyChanged
from search.run import StudyRun
from search.setup.extension import check_extension, extend_epochs
from search.setup.loading import load_study
from search.setup.remembered import remember_pausing_pruner
from search.setup.stored_study import StudyIdentity, read_identity, write_identity
from search.strategies.promotion import AshaPruner
from search.supervisor.earlier_trials import show_earlier
from search.supervisor.file_cleaning import remove_deleted_here, remove_ended
from search.worker.context import WorkerContext
from search.worker.trial import run_trial
from storage import curves, trials
from tests.test_progress import a_display
from tests.test_shared_files import on_machine, resumed
from tests.trials import MakeContext, run_one
from tests.user import User, WriteStudy, progress, slow, wait_until, watched

FEW_DIGITS = True
LEARNED = ["epoch", "value", "train_mse", "valid_mse"]

OWN = {
    "def suggest": "class Mine(CAE):\n"
    "        def begin_epoch(self, number, epochs):\n"
    "            super().begin_epoch(number, epochs)\n\n"
    "    def suggest",
    "model=CAE": "model=Mine",
}
SAYS = {
    "class Mine": "class MyConfig(CAEConfig):\n"
    "        def settled_in(self, epochs):\n"
    "            return 1\n\n"
    "    class Mine",
    "return CAEConfig": "return MyConfig",
}


def identity(epochs: int) -> StudyIdentity:
    return StudyIdentity(
        model="m", metric="mse", direction="minimize", data="d", pixels="p", shape=(1, 28, 28),
        space={}, epochs=epochs, file_epochs=2, seed=0, file_seed=0, configurations="c", token="t",
    )  # fmt: skip


def curve(url: str, number: int) -> pd.DataFrame:
    frame = curves("small", storage=url)
    return frame.loc[frame["number"] == number, LEARNED].reset_index(drop=True)


def test_a_search_with_rungs_goes_on_with_more_epochs(user: User, study_file: WriteStudy) -> None:
    """Though the first call that raises the epochs is killed."""
    name = study_file(replace=slow(0.03))
    call: dict[str, Any] = {"NAME": name, "WORKERS": 2, "TOP": 0, "TRIALS": 9}
    code, out, error = user.run(**call, PRUNER="asha", EPOCHS=3)
    assert (code, error) == (0, "")
    before = trials("small", storage=user.url).set_index("number")
    assert set(before["outcome"]) == {"complete", "pruned"}

    epochs = progress(user.url)
    known, running = epochs(), user.start(**call, EPOCHS=9)
    with watched(running):
        wait_until(lambda: epochs() > known)
        running.kill()
        out, _ = running.communicate()
    assert "PRUNER=asha holds as before; the study file says none" in out
    count = int((before["outcome"] == "complete").sum())
    assert f"EPOCHS=9, after 3 until now: of {count} complete trials the best go on" in out
    assert "goes on at epoch 4" in out
    code, out, error = user.run(**call)
    assert (code, error) == (0, "")
    after = trials("small", storage=user.url).set_index("number")
    winners = after.index[after["outcome"] == "complete"]
    assert list(winners) == [before["value"].where(before["outcome"] == "complete").idxmin()]
    assert sorted(after["epochs"].unique()) == [1, 3, 9]
    assert before["latent"].equals(after["latent"])

    other = user.with_other_runs("other")
    assert other.run(**{**call, "TRIALS": winners[0] + 1}, EPOCHS=9)[::2] == (0, "")
    for number in range(winners[0] + 1):
        found, whole = curve(user.url, number), curve(other.url, number)
        pd.testing.assert_frame_equal(found, whole[: len(found)])
    value = trials("small", storage=other.url).set_index("number")["value"]
    assert after["value"][winners[0]] == value[winners[0]]


def test_a_search_that_keeps_checkpoints_becomes_the_longer_one(
    user: User, study_file: WriteStudy
) -> None:
    call: dict[str, Any] = {"NAME": study_file(), "WORKERS": 1, "TOP": 0, "TRIALS": 2}
    assert user.run(**call, KEEP="checkpoints", EPOCHS=1)[::2] == (0, "")
    folder = user.runs / "checkpoints" / "small"
    (folder / "trial-1.safetensors").unlink()
    code, out, error = user.run(**call, EPOCHS=3)
    assert (code, error) == (0, "")
    assert "EPOCHS=3, after 1 until now: 2 complete trials go on" in out
    assert "1 complete trial without a checkpoint here begins at epoch 1 if they go on: 1" in out
    assert out.count("goes on at epoch 2") == 1

    other = user.with_other_runs("other")
    code, _, error = other.run(**call, EPOCHS=3)
    assert (code, error) == (0, "")
    columns = ["number", "state", "value", "outcome", "latent", "epochs", "seed"]
    pd.testing.assert_frame_equal(
        trials("small", storage=user.url)[columns], trials("small", storage=other.url)[columns]
    )
    for number in range(2):
        pd.testing.assert_frame_equal(curve(user.url, number), curve(other.url, number))
    code, _, error = other.run(**call, EPOCHS=4)
    assert code == 2
    assert "its 2 complete trials kept no checkpoint to go on from; with KEEP=checkpoint" in error
    assert user.run(**call, EPOCHS=2)[0] == 2, "fewer epochs are another study"


def make_ended(make_context: MakeContext, **more: Any) -> WorkerContext:
    """A study of 3 epochs with rungs after 1, and one trial that was complete."""
    context = make_context(epochs=3, pruner="asha", **more)
    write_identity(context.queue.study, identity(3))
    for _ in range(2):  # alone it pauses at its rung, and goes on since nothing else is left
        trial = context.queue.claim(1)
        assert trial is not None
        run_trial(context, trial)
    assert context.queue.count() == {"COMPLETE": 1}
    return context


def longer(context: WorkerContext, epochs: int) -> StudyRun:
    return replace(context.run, epochs=epochs)


def test_a_complete_trial_goes_on_at_once_where_its_epochs_are_no_rung(
    make_context: MakeContext,
) -> None:
    context = make_ended(make_context)
    queue = context.queue
    queue.study.pruner = AshaPruner(min_resource=2)
    assert extend_epochs(queue, longer(context, 9), filed=2) == [
        "EPOCHS=9, after 3 until now: 1 complete trial goes on"
    ]
    assert queue.count() == {"WAITING": 1}
    stored = read_identity(queue.study)
    assert stored is not None
    assert (stored.epochs, stored.file_epochs) == (9, 2)
    assert extend_epochs(queue, longer(context, 9), filed=2) == [], "it has them by now"


def test_the_best_stays_the_best_while_it_goes_on(make_context: MakeContext) -> None:
    context = make_ended(make_context)
    queue = context.queue
    (trial,) = queue.study.get_trials()
    queue.study.pruner = AshaPruner(min_resource=2)
    extend_epochs(queue, longer(context, 9), filed=2)
    display, _ = a_display()
    show_earlier(display, queue)
    assert display.leader.best == (trial.value, 0, trial.params)
    assert trial.value is not None
    assert not display.leader.mark(1, [trial.value + 0.1], {}, violates=False)
    assert display.leader.mark(0, [trial.value - 0.1], trial.params, violates=False) == "*best"


def test_no_study_is_extended_while_a_trial_runs(make_context: MakeContext) -> None:
    context = make_ended(make_context)
    assert context.queue.claim(2) is not None
    with pytest.raises(StudyChanged, match=r"at work with EPOCHS=3: trial 1 runs.*End that run"):
        extend_epochs(context.queue, longer(context, 9), filed=2)
    assert context.queue.count() == {"COMPLETE": 1, "RUNNING": 1}


def test_a_run_of_fewer_epochs_takes_no_trial_any_more(make_context: MakeContext) -> None:
    context = make_ended(make_context)
    queue = context.queue
    queue.epochs = 3
    trial = queue.claim(2)
    assert trial is not None
    queue.release(trial.number)
    extend_epochs(queue, longer(context, 9), filed=2)
    with pytest.raises(StudyChanged, match="has trials of 9 epochs by now, and this run began wit"):
        queue.claim(2)
    queue.epochs = 9
    assert queue.claim(2) is not None


@pytest.mark.parametrize(
    ("config", "stretched"),
    [
        (CAEConfig(), False),
        (CAEConfig(schedule="cosine"), True),
        (VAEConfig(warm_up=30), False),
        (GANConfig(), False),
        (GANConfig(instance_noise=0.1), True),
    ],
)
def test_what_is_stretched_over_all_epochs_is_known(config: Any, stretched: bool) -> None:
    assert config.is_stretched is stretched


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({}, None),
        ({"lr=trial": "schedule='cosine', lr=trial"}, "in trial 0 something is stretched over all"),
        (OWN, r"begin_epoch of Mine may stretch .* CAEConfig.settled_in has to say"),
        ({**OWN, **SAYS}, None),
    ],
)
def test_a_study_of_stretched_trainings_has_no_more_epochs(
    make_context: MakeContext, study_file: WriteStudy, edits: dict[str, str], message: str | None
) -> None:
    context = make_ended(make_context)
    study = load_study(str(study_file("other", replace=edits)))
    stored = context.queue.study
    if message is None:
        check_extension(study, identity(3), identity(9), stored, keeps=True)
        return
    with pytest.raises(StudyChanged, match=message):
        check_extension(study, identity(3), identity(9), stored, keeps=True)


def test_the_pruner_with_which_trials_pause_stays(
    make_context: MakeContext, study_file: WriteStudy
) -> None:
    stored = make_context().queue.study
    study = load_study(str(study_file()))
    assert remember_pausing_pruner(stored, study, None) is None
    assert remember_pausing_pruner(stored, study, "asha(2)") == "asha(2)"
    assert remember_pausing_pruner(stored, study, None) == "asha(2)"
    edited = load_study(str(study_file("other", replace={'"none"': '"median"'})))
    assert remember_pausing_pruner(stored, edited, None) is None, "the file says another now"
    assert remember_pausing_pruner(stored, study, "median") == "median"
    assert remember_pausing_pruner(stored, study, None) is None


def checkpoints_of(context: WorkerContext) -> list[str]:
    folder = context.run.paths.checkpoints("small")
    return sorted(path.name for path in folder.glob("trial-*"))


def test_checkpoints_go_with_their_study(make_context: MakeContext) -> None:
    remove_deleted_here((before := make_context()).queue, before.run)  # as the search begins
    context = make_ended(make_context)
    queue, run = context.queue, context.run
    remove_ended(None, queue, run)
    remove_deleted_here(queue, run)
    assert checkpoints_of(context) == ["trial-0.safetensors"]
    foreign = run.paths.checkpoints("small") / "kept-in-0123456789abcdef"
    foreign.touch()
    queue.storage.delete_study(queue.study_id)
    remove_deleted_here(queue, run)
    assert checkpoints_of(context), "another database may have it"
    foreign.unlink()
    remove_deleted_here(queue, run)
    assert checkpoints_of(context) == []


def test_checkpoints_of_an_older_version_may_be_another_database_s(
    make_context: MakeContext,
) -> None:
    context = make_ended(make_context)  # no note was there when they were written
    remove_deleted_here(context.queue, context.run)
    context.queue.storage.delete_study(context.queue.study_id)
    remove_deleted_here(context.queue, context.run)
    assert checkpoints_of(context) == ["trial-0.safetensors"]


def test_a_trial_that_cannot_come_back_keeps_no_checkpoint(make_context: MakeContext) -> None:
    """Pruned by another pruner, or failed; and what another study of this name has left stays."""
    context = make_ended(make_context)
    queue, run = context.queue, context.run
    queue.study.pruner = make_context().queue.study.pruner
    remove_ended(None, queue, replace(run, token="other"))
    assert checkpoints_of(context) == ["trial-0.safetensors"]
    remove_ended(None, queue, run)
    assert checkpoints_of(context) == []


def test_fewer_checkpoints_stay_than_there_are_trials(make_context: MakeContext) -> None:
    """Nine trials pause after one epoch; three go on, and six of nine could."""
    context = make_context(epochs=3, pruner="asha")
    write_identity(context.queue.study, identity(3))
    while (trial := context.queue.claim(9)) is not None:
        run_trial(context, trial)
    states = [each.state for each in context.queue.study.get_trials()]
    complete = states.count(TrialState.COMPLETE)
    kept = [name for name in checkpoints_of(context) if name.endswith("safetensors")]
    assert len(kept) <= 6
    assert len(kept) >= complete
    assert not [name for name in kept if "earlier" in name]


def test_another_machine_goes_on_with_more_epochs(
    make_context: MakeContext, tmp_path: Path
) -> None:
    """It has a RUNS of its own, and sees FILES: there the last checkpoint stays, and no earlier."""
    place = str(tmp_path / "shared")
    first = on_machine(make_context(epochs=3, pruner="none"), tmp_path / "a", place)
    first = replace(first, run=replace(first.run, keeps=True))
    write_identity(first.queue.study, identity(3))
    run_one(first)
    assert first.files is not None
    assert [kept.epoch for kept in first.files.files.kept("trial-0")] == [3]
    remove_ended(first.files, first.queue, first.run)

    second = on_machine(make_context(epochs=5, pruner="none"), tmp_path / "b", place)
    (line,) = extend_epochs(second.queue, second.run, filed=2)
    assert line == "EPOCHS=5, after 3 until now: 1 complete trial goes on"
    row = run_one(second)
    assert resumed(second) == [3]
    undisturbed = run_one(make_context(epochs=5, pruner="none", runs="undisturbed"))
    assert (row["value"], row["epochs"]) == (undisturbed["value"], 5)
    assert second.files is not None
    assert second.files.files.names() == [], "without KEEP nothing stays"
