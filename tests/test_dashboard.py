"""The dashboard: a real server, asked over HTTP for studies, trials and their pictures."""

from __future__ import annotations

import io
import json
import signal
import socket
from pathlib import Path

import optuna
import psutil
import pytest
from PIL import Image

from storage.database.connection import open_storage
from storage.files.artifacts import attach_to_trial
from storage.paths import RunPaths
from tests.user import User, free_port, get, watched


@pytest.fixture
def runs(tmp_path: Path) -> RunPaths:
    """A study with one trial that has a picture."""
    paths = RunPaths(tmp_path / "runs")
    study = optuna.create_study(study_name="s", storage=open_storage(paths.database_url))
    trial = study.ask()
    picture = tmp_path / "reconstructions.png"
    Image.new("RGB", (40, 20), (200, 30, 30)).save(picture)
    paths.artifacts.mkdir(parents=True)
    attach_to_trial(paths.artifacts, trial, picture)
    study.tell(trial, 0.5)
    return paths


def test_the_dashboard_shows_trials_with_their_pictures(runs: RunPaths, real_user: User) -> None:
    port = free_port()
    with watched(real_user.start("dashboard", PORT=port)) as process:
        place = f"http://127.0.0.1:{port}"
        assert b"<html" in get(f"{place}/dashboard/").lower()
        studies = json.loads(get(f"{place}/api/studies"))["study_summaries"]
        assert [study["study_name"] for study in studies] == ["s"]
        number = studies[0]["study_id"]
        (trial,) = json.loads(get(f"{place}/api/studies/{number}?after=0"))["trials"]
        (artifact,) = trial["artifacts"]
        assert artifact["mimetype"] == "image/png"
        where = f"{place}/artifacts/{number}/{trial['trial_id']}/{artifact['artifact_id']}"
        assert Image.open(io.BytesIO(get(where))).size == (40, 20)
        listening = {
            found.laddr.ip
            for found in psutil.Process(process.pid).net_connections("inet")
            if found.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert f"http://127.0.0.1:{port}/dashboard" in out
    assert "warning" not in out


def test_an_open_dashboard_warns(runs: RunPaths, user: User) -> None:
    port = free_port()
    with watched(user.start("dashboard", PORT=port, HOST="0.0.0.0")) as process:
        get(f"http://127.0.0.1:{port}/api/studies")
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert "warning: HOST=0.0.0.0 opens the dashboard to other machines" in out


def test_a_taken_port_is_one_line(runs: RunPaths, user: User) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, error = user.run("dashboard", PORT=port)
    assert code == 2
    assert error.startswith(f"error: cannot serve on 127.0.0.1:{port}")
    assert error.count("\n") == 1


def test_without_a_study_there_is_nothing_to_show(user: User) -> None:
    code, _, error = user.run("dashboard")
    assert code == 2
    assert "run a study first" in error
    assert not user.runs.exists()
