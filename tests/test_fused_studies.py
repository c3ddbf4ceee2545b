"""FUSE=4: whole studies whose worker trains several trials as one program."""

from __future__ import annotations

from typing import Any

import pandas as pd
import psutil

from search.trials.recorded_trial import FUSED_EPOCHS
from storage import curves, trials
from storage.database.connection import open_storage
from tests.user import User, WriteStudy, wait_until, watched, workers_of

FEW_DIGITS = True

# Only rates differ: all trials have one shape.
ALIKE = {
    'channels=trial.suggest_int("channels", 1, 3)': "channels=1",
    'latent=trial.suggest_int("latent", 2, 8)': "latent=3",
}
LONG = 20  # epochs


def fused_epochs(url: str) -> list[int]:
    """Of each trial, how many epochs were trained together with others."""
    import optuna

    study = optuna.load_study(study_name="small", storage=open_storage(url))
    return [t.user_attrs.get(FUSED_EPOCHS, 0) for t in study.get_trials(deepcopy=False)]


def count_epochs(url: str) -> int:
    try:
        return len(curves("small", storage=url))
    except Exception:  # the study is not there yet
        return 0


def table(url: str) -> pd.DataFrame:
    return trials("small", storage=url).sort_values("number").reset_index(drop=True)


def test_a_whole_study_is_fused_where_that_is_asked_for(user: User, study_file: WriteStudy) -> None:
    code, out, error = user.run(
        NAME=study_file(replace=ALIKE), WORKERS=1, TRIALS=5, TOP=0, FUSE="4"
    )
    assert (code, error) == (0, ""), out
    assert fused_epochs(user.url) == [2, 2, 2, 2, 0]
    assert table(user.url)["outcome"].tolist() == ["complete"] * 5


def test_a_killed_worker_loses_no_trial_and_each_goes_on_alone(
    user: User, study_file: WriteStudy, storage_url: str
) -> None:
    name = study_file(replace={**ALIKE, "epochs=2, retrain": f"epochs={LONG}, retrain"})
    asked: dict[str, Any] = {"NAME": name, "WORKERS": 1, "TRIALS": 4, "TOP": 0, "FUSE": 3}
    process = user.start(STORAGE=storage_url, **asked)
    with watched(process):
        wait_until(lambda: count_epochs(storage_url) >= 5)
        workers_of(process)[0].kill()
        out, error = process.communicate(timeout=150)
    assert (process.returncode, error) == (0, ""), out
    assert "trial 0 goes on elsewhere; trial 1 goes on elsewhere; trial 2 goes on" in out
    frame = table(storage_url)
    assert frame["state"].tolist() == ["COMPLETE"] * 4
    assert curves("small", storage=storage_url).groupby("number").size().tolist() == [LONG] * 4
    assert max(fused_epochs(storage_url)[:3]) < LONG, "they were trained alone after that"


def test_two_workers_hold_several_trials_each_and_ctrl_c_keeps_all(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace={**ALIKE, "epochs=2, retrain": f"epochs={LONG}, retrain"})
    asked: dict[str, Any] = {
        "NAME": name,
        "WORKERS": 2,
        "TRIALS": 5,
        "TOP": 0,
        "FUSE": 2,
        "PRUNER": "asha",
    }
    process = user.start(**asked)
    with watched(process):
        wait_until(lambda: count_epochs(user.url) >= 3)
        psutil.Process(process.pid).send_signal(2)
        process.communicate(timeout=60)
    assert "RUNNING" not in table(user.url)["state"].tolist(), "all were given back"
    code, out, error = user.run(**asked)
    assert (code, error) == (0, ""), out
    frame = table(user.url)
    assert set(frame["outcome"]) <= {"complete", "pruned"}
    assert "complete" in frame["outcome"].tolist()
    assert len(frame) == 5
