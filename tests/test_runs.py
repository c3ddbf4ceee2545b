"""Whole runs as a user starts them: real processes, signals, kills, both databases."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from models.export import load_export
from storage import curves, trials
from tests.model_cards import card_blocks, run_card
from tests.user import (
    LONG,
    LONGER,
    User,
    WriteStudy,
    is_error_line,
    limit_files,
    make_leases_short,
    wait_until,
    watched,
    workers_of,
)

FEW_DIGITS = True


def epochs_of(url: str) -> int:
    try:
        return len(curves("small", storage=url))
    except Exception:
        return 0


def test_a_study_runs_from_file_to_checked_exports(
    real_user: User, user: User, study_file: WriteStudy
) -> None:
    name = study_file()
    code, out, error = real_user.run(NAME=name, TRIALS=3, WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    frame = trials("small", storage=real_user.url)
    assert frame["state"].tolist() == ["COMPLETE"] * 3
    assert frame["number"].tolist() == list(range(3))
    exports = real_user.runs / "exports" / "small"
    assert [folder.name for folder in exports.iterdir()] == ["1"]
    assert re.search(r"^trial +\d+ +complete +mse 0\.\d+", out, re.MULTILINE)
    assert "study small: 3 trials, 3 complete" in out
    # a retraining of less than 0.05 s counts as none
    assert re.search(r"^machine time: \d+ s in 3 trials(, \d+ s to train .*)?$", out, re.M)

    # the README's claim of a whole export holds after a file was lost, too
    (exports / "1" / "encoder.onnx").unlink()
    (exports / f".2.{'a' * 32}").mkdir()  # as a killed export leaves it
    assert user.run(NAME=name, TRIALS=3, WORKERS=1, TOP=2)[0] == 0
    folders = sorted(exports.iterdir())
    assert [folder.name for folder in folders] == ["1", "2"]
    assert (folders[0] / "encoder.onnx").exists()
    records = [json.loads((folder / "provenance.json").read_text()) for folder in folders]
    values = [record["valid"]["mse"] for record in records]
    assert values == sorted(values)
    assert records[0]["test"]["mse"] > 0
    assert [record["test"] for record in records[1:]] == [None]
    load_export(folders[0])

    # again: it is done, nothing is trained, nothing is judged again
    stamp = (folders[0] / "provenance.json").stat().st_mtime_ns
    code, out, error = user.run(NAME=name, TRIALS=3, WORKERS=2, TOP=2)
    assert (code, error) == (0, "")
    assert "study small is done: 3 of 3 trials have ended; TRIALS=13 goes on" in out
    assert (folders[0] / "provenance.json").stat().st_mtime_ns == stamp
    cost = re.search(r"^machine time: .*$", out, re.M)
    code, out, error = user.run(NAME=name, TRIALS=3, WORKERS=2, TOP=0)
    assert cost is not None
    assert cost[0] in out, "what the exports have cost counts in a call without exports, too"

    # and on, to a larger total
    code, out, error = user.run(NAME=name, TRIALS=4, WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    assert len(trials("small", storage=user.url)) == 4
    assert "rank 2 (trial " in out, "the other export stays, and is named"
    assert (user.runs / "exports" / "small" / "2" / "encoder.onnx").exists()

    # the leaderboard and the list of studies
    code, out, error = user.run("trials", NAME="small")
    assert (code, error) == (0, "")
    assert "study small: 4 complete" in out
    code, out, error = user.run("studies")
    assert (code, error) == (0, "")
    assert re.search(r"^small +4 +0 +0 +0\.\d+", out, re.MULTILINE)


def test_a_search_may_leave_the_exports_for_later(user: User, study_file: WriteStudy) -> None:
    name = study_file()
    code, out, error = user.run(NAME=name, TRIALS=2, WORKERS=1, TOP=0)
    assert (code, error) == (0, "")
    frame = trials("small", storage=user.url)
    best = frame.sort_values("value")["number"].iloc[0]
    last = f"the best is trial {best}; TOP=3 retrains and exports the best three"
    assert last in out.splitlines()
    export = user.runs / "exports" / "small" / "1"
    assert not export.exists()
    code, out, error = user.run(NAME=name, TRIALS=2, WORKERS=1, TOP=3)
    assert (code, error) == (0, "")
    assert out.count("2 usable trials for TOP=3: fewer exports") == 1
    assert json.loads((export / "provenance.json").read_text())["trial"] == best
    code, out, error = user.run(NAME=name, TRIALS=2, TOP=0)
    assert (code, error) == (0, "")
    assert last in out.splitlines()
    assert export.exists(), "earlier exports stay"


def test_one_and_two_workers_make_the_same_table(user: User, study_file: WriteStudy) -> None:
    name = study_file()
    tables = []
    for workers in (1, 2):
        user.runs = user.runs.with_name(f"runs-{workers}")
        user.environment["RUNS"] = str(user.runs)
        code, _, error = user.run(NAME=name, TRIALS=4, WORKERS=workers, SEED=1, TOP=0)
        assert (code, error) == (0, "")
        frame = trials("small", storage=user.url)
        tables.append(frame[["number", "value", "channels", "latent", "lr", "seed"]])
    assert tables[0].equals(tables[1])


def test_a_study_runs_on_postgres(
    user: User, study_file: WriteStudy, postgres_url: str, tmp_path: Path
) -> None:
    table = tmp_path / "t.parquet"
    code, _, error = user.run(NAME=study_file(), WORKERS=2, TOP=1, STORAGE=postgres_url)
    assert (code, error) == (0, "")
    assert trials("small", storage=postgres_url)["state"].tolist() == ["COMPLETE"] * 4
    assert not (user.runs / "studies.db").exists()
    code, _, error = user.run("trials", NAME="small", STORAGE=postgres_url, PARQUET=table)
    assert (code, error) == (0, "")
    assert table.stat().st_size > 1000


OWN_MODEL = """
# A model of one's own: a linear autoencoder, complete in one file.
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F
from models.base import Model, ModelConfig, Program

@dataclass(frozen=True, kw_only=True)
class LinesConfig(ModelConfig):
    latent: int = 4

class Lines(Model):
    metrics = ("mse",)
    config_type = LinesConfig

    def __init__(self, config, shape):
        super().__init__(config, shape)
        size = shape[0] * shape[1] * shape[2]
        self.down = nn.Linear(size, config.latent)
        self.up = nn.Linear(config.latent, size)
        self.optimizers["all"] = torch.optim.Adam(self.parameters(), lr=1e-3)

    def forward(self, images):
        return self.up(self.down(images.flatten(1))).unflatten(1, self.shape)

    def train_step(self, batch):
        self.optimizers["all"].zero_grad()
        loss = F.mse_loss(self(batch.images), batch.images)
        loss.backward()
        self.optimizers["all"].step()
        return {"mse": loss.detach()}

    def evaluate(self, batch):
        return {"mse": F.mse_loss(self(batch.images), batch.images)}

    def programs(self):
        images = torch.zeros(2, *self.shape).flatten(1)
        return {"encoder": Program(module=self.down, example=images)}
"""
OWN_STUDY = """
# My study.
from lines import Lines, LinesConfig
from search.study import StudySpec

def suggest(trial):
    return LinesConfig(latent=trial.suggest_int("latent", 2, 20))

STUDY = StudySpec(model=Lines, suggest=suggest, data="digits", metric="mse",
                  trials=2, epochs=1, retrain_epochs=1)
"""


def test_a_model_and_a_study_outside_the_repository_are_one_file_each(
    user: User, tmp_path: Path
) -> None:
    (tmp_path / "my_lines.py").write_text(OWN_STUDY)
    model = tmp_path / "lines.py"
    model.write_text(OWN_MODEL.replace("loss.backward()", "los.backward()"))
    code, _, error = user.run(NAME=tmp_path / "my_lines.py", WORKERS=1, TOP=1)
    assert code == 2
    assert is_error_line(error)
    assert f"{model}, line 30: NameError: name 'los' is not defined" in error
    assert not (user.runs / "studies.db").exists(), "no study is left behind"
    model.write_text(OWN_MODEL)
    code, out, error = user.run(NAME=tmp_path / "my_lines.py", WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    assert "trying Lines on two images first: a step, an evaluation, a picture, an export" in out
    folder = user.runs / "exports" / "my_lines" / "1"
    assert (folder / "encoder.onnx").exists()
    assert user.preloaded is not None
    run_card(folder, user.preloaded)
    assert "from lines import Lines" in card_blocks(folder)[1]
    code, out, error = user.run(NAME=tmp_path / "my_lines.py", WORKERS=1, TOP=1)
    assert (code, error) == (0, "")
    assert "trying" not in out, "it is remembered"
    assert len(trials("my_lines", storage=user.url)) == 2


def test_ctrl_c_ends_cleanly_and_the_next_run_goes_on(user: User, study_file: WriteStudy) -> None:
    name = study_file(replace=LONGER)
    process = user.start(NAME=name, WORKERS=2, TRIALS=3)
    with watched(process):
        wait_until(lambda: epochs_of(user.url) >= 3)
        workers = workers_of(process)
        assert len(workers) == 2
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert error == ""
    assert re.search(r"stopped: \d of 3 trials have ended; the same command goes on", out)
    assert not any(worker.is_running() for worker in workers)
    before = trials("small", storage=user.url)
    assert "RUNNING" not in set(before["state"])
    code, _, error = user.run(NAME=name, WORKERS=2, TRIALS=3, TOP=0)
    assert (code, error) == (0, "")
    after = trials("small", storage=user.url)
    assert after["state"].tolist() == ["COMPLETE"] * 3
    assert after["lr"].tolist()[: len(before)] == before["lr"].tolist()
    assert curves("small", storage=user.url).groupby("number").size().tolist() == [LONG] * 3


def test_two_ctrl_c_end_at_once(user: User, study_file: WriteStudy) -> None:
    process = user.start(NAME=study_file(replace=LONGER), WORKERS=1)
    with watched(process):
        wait_until(lambda: epochs_of(user.url) >= 1)
        (worker,) = workers_of(process)
        worker.suspend()  # so that it cannot end cleanly
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=5)
    assert process.returncode == 130
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_frozen_worker_neither_holds_up_the_study_nor_spoils_it(
    user: User, study_file: WriteStudy
) -> None:
    """Stopped beyond the grace period: its trial is taken over, and the run ends without it."""
    name = study_file(replace={"epochs=2, retrain": "epochs=50, retrain"})
    make_leases_short(user)
    process = user.start(NAME=name, WORKERS=2, TRIALS=2, TOP=0)
    with watched(process):
        wait_until(lambda: epochs_of(user.url) >= 10)
        frozen = workers_of(process)[0]
        frozen.suspend()
        out, error = process.communicate(timeout=150)
    assert (process.returncode, error) == (0, ""), out
    assert trials("small", storage=user.url)["state"].tolist() == ["COMPLETE"] * 2
    assert curves("small", storage=user.url).groupby("number").size().tolist() == [50] * 2
    assert not frozen.is_running()


def test_a_killed_workers_trial_goes_on_as_the_same_trial(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace=LONGER)
    process = user.start(NAME=name, WORKERS=2, TRIALS=3, TOP=0)
    with watched(process):
        wait_until(lambda: epochs_of(user.url) >= 4)
        name.write_text(name.read_text().replace('"latent", 2, 8', '"latent", 30, 60'))
        running = trials("small", storage=user.url).query("state == 'RUNNING'")
        psutil.Process(int(running["pid"].dropna().iloc[0])).kill()
        out, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "")
    assert re.search(r"worker \d ended by signal 9; trial \d goes on elsewhere", out)
    frame = trials("small", storage=user.url)
    assert frame["state"].tolist() == ["COMPLETE"] * 3
    assert frame["latent"].max() <= 8, "the study goes on as it began, whatever its file says now"
    assert curves("small", storage=user.url).groupby("number").size().tolist() == [LONG] * 3


def test_workers_end_when_their_supervisor_is_killed_and_the_next_run_goes_on(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(replace=LONGER)
    process = user.start(NAME=name, WORKERS=2, TRIALS=2)
    with watched(process):
        wait_until(lambda: epochs_of(user.url) >= 2)
        workers = workers_of(process)
        process.kill()
        process.wait()
        wait_until(lambda: not any(worker.is_running() for worker in workers), seconds=15)
    code, _, error = user.run(NAME=name, WORKERS=1, TRIALS=2, TOP=0)
    assert (code, error) == (0, "")
    assert trials("small", storage=user.url)["state"].tolist() == ["COMPLETE"] * 2


def test_two_runs_of_one_study_share_its_trials(user: User, study_file: WriteStudy) -> None:
    name = study_file(replace=LONGER)
    first = user.start(NAME=name, WORKERS=1, TRIALS=5, TOP=1)
    with watched(first):
        wait_until(lambda: epochs_of(user.url) >= 1)
        second = user.start(NAME=name, WORKERS=1, TRIALS=5, TOP=1)
        with watched(second):
            for process in (first, second):
                _, error = process.communicate(timeout=120)
                assert (process.returncode, error) == (0, "")
    frame = trials("small", storage=user.url)
    assert frame["state"].tolist() == ["COMPLETE"] * 5
    assert frame["pid"].nunique() == 2


def test_without_its_data_a_study_runs_loudly_on_digits_under_another_name(
    user: User, study_file: WriteStudy, tmp_path: Path
) -> None:
    name = study_file(replace={'data="digits"': 'data="fashion_mnist"'})
    nowhere = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    code, out, error = user.run(
        NAME=name, TRIALS=2, WORKERS=1, TOP=0, DATA_ROOT=tmp_path / "no", **nowhere
    )
    assert code == 0, error
    assert "FashionMNIST is not in" in out
    assert "RUNNING ON DIGITS INSTEAD, as study small-digits" in out
    assert trials("small-digits", storage=user.url)["state"].tolist() == ["COMPLETE"] * 2
    # asked for by name there is no fallback
    code, out, error = user.run(
        NAME=name, DATA="fashion_mnist", DATA_ROOT=tmp_path / "no", **nowhere
    )
    assert code == 2
    assert error.startswith("error: FashionMNIST is not in")


def test_a_study_whose_trials_all_fail_ends_and_says_why(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file(
        replace={"model=CAE,": "model=Broken,", "def suggest": BROKEN + "def suggest"}
    )
    code, out, error = user.run(NAME=name, TRIALS=2, WORKERS=2)
    assert (code, error) == (1, "")
    assert "0 complete, 0 pruned, 2 failed" in out
    assert "nothing to export (first failure: ValueError: a mistake in the model)" in out
    frame = trials("small", storage=user.url)
    assert frame["reason"].tolist() == ["ValueError: a mistake in the model"] * 2
    code, out, _ = user.run("trials", NAME="small")
    assert "trial 0 failed: ValueError: a mistake in the model" in out

    # as it is, the same command tries nothing again
    assert user.run(NAME=name, TRIALS=2, WORKERS=1)[0] == 1
    assert len(trials("small", storage=user.url)) == 2

    # once it was mended, it tries both again, and nothing is lost from the table
    name.write_text(name.read_text().replace("raise ValueError(", "print("))
    code, out, error = user.run(NAME=name, TRIALS=2, WORKERS=2, TOP=0)
    assert (code, error) == (0, "")
    assert "2 trials that failed are tried again: the study's files have changed" in out
    assert "study small: 2 trials, 2 complete, 0 pruned, 0 failed" in out
    after = trials("small", storage=user.url)
    assert after["state"].tolist() == ["FAIL"] * 2 + ["COMPLETE"] * 2
    assert sorted(after["lr"][2:]) == sorted(after["lr"][:2])
    assert sorted(after["retries"][2:]) == [0, 1]


BROKEN = """class Broken(CAE):
        def train_step(self, batch):
            if len(batch.images) > 3:  # later than in the dry run
                raise ValueError("a mistake in the model")
            return super().train_step(batch)

    """


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NAME": "caee"}, "did you mean 'cae'?"),
        ({}, "NAME is not set"),
        ({"NAME": "cae", "TRIALS": "many"}, "TRIALS='many' is not a whole number"),
        ({"NAME": "cae", "SAMPLER": "tpee"}, "unknown sampler 'tpee'"),
        ({"NAME": "cae", "PRUNER": "median(x=1)"}, "pruner 'median(x=1)'"),
        ({"NAME": "cae", "GPUS": "63"}, "GPUS names GPU 63"),
        ({"NAME": "cae", "DATA": "folder:/nowhere"}, "no folder /nowhere"),
        ({"NAME": "cae", "DATA": "imagenet"}, "unknown data 'imagenet'"),
        ({"NAME": "cae", "STORAGE": "postgresql://u:pw@127.0.0.1:1/d"}, "cannot open postgresql"),
        ({"NAME": "cae", "STORAGE": "mysql://h/d"}, "mysql://, which is not supported"),
        ({"NAME": "cae", "RUNS": "/proc/runs"}, "cannot write under RUNS=/proc/runs"),
        ({"NAME": "cae", "GENSTUDY_GIVEN": "TRAILS"}, "unknown variable 'TRAILS'"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(
    user: User, variables: dict[str, str], message: str
) -> None:
    code, _, error = user.run(**variables)
    assert code == 2
    assert is_error_line(error)
    assert message in error
    assert "pw" not in error
    assert not list(user.runs.glob("exports"))


def test_a_changed_search_space_is_refused_and_nothing_is_lost(
    user: User, study_file: WriteStudy
) -> None:
    name = study_file()
    assert user.run(NAME=name, TRIALS=2, WORKERS=1, TOP=0)[0] == 0
    before = trials("small", storage=user.url)
    name.write_text(name.read_text().replace('"latent", 2, 8', '"latent", 2, 16'))
    code, _, error = user.run(NAME=name, TRIALS=4)
    assert code == 2
    assert is_error_line(error)
    assert "latent 2 to 8, now 2 to 16" in error
    assert trials("small", storage=user.url).equals(before)


def test_a_full_disk_is_one_line_and_loses_nothing(user: User, study_file: WriteStudy) -> None:
    """A file size limit stands in for a full disk: writing fails half-way through the cache."""
    name = study_file()
    user.before = limit_files(300 * 1024)
    code, _, error = user.run(NAME=name)
    assert code == 2
    assert is_error_line(error), error
    assert not list((user.runs / "cache").iterdir())
    user.before = ""
    assert user.run(NAME=name, TRIALS=1, WORKERS=1, TOP=0)[0] == 0


def test_a_study_that_another_tool_made_is_left_alone(user: User, study_file: WriteStudy) -> None:
    import optuna

    user.runs.mkdir()
    optuna.create_study(study_name="small", storage=user.url).ask()
    code, _, error = user.run(NAME=study_file())
    assert code == 2
    assert "a study 'small' that genstudy did not make" in error


def test_the_database_password_stays_out_of_sight(
    real_user: User, study_file: WriteStudy, postgres_url: str
) -> None:
    secret = "hunter2secret"
    url = postgres_url.replace("postgres:@", f"postgres:{secret}@")
    assert secret in url
    process = real_user.start(
        NAME=study_file(replace={"epochs=2, retrain": "epochs=8, retrain"}),
        WORKERS=1,
        TRIALS=1,
        TOP=0,
        STORAGE=url,
    )
    with watched(process):
        wait_until(lambda: epochs_of(url) >= 1)
        for each in (psutil.Process(process.pid), *workers_of(process)):
            assert secret not in " ".join([*each.cmdline(), *each.environ().values()])
        out, error = process.communicate(timeout=100)
    assert process.returncode == 0
    assert secret not in out + error
    for path in real_user.runs.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()
