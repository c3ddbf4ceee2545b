"""The dashboard: a real server, asked over HTTP for studies, trials and their pictures."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPCookieProcessor, build_opener

import optuna
import psutil
import pytest
from PIL import Image

from storage.database.connection import open_storage
from storage.files.artifacts import attach_to_trial
from storage.paths import RunPaths
from tests.user import User, free_port, watched


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


@dataclass
class Served:
    """A dashboard that runs. ``page``: what it has printed, with the token"""

    process: subprocess.Popen[str]
    page: str
    said: str = ""  # until it has ended

    @property
    def token(self) -> str:
        return self.page.partition("?token=")[2]

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
        """Send a request as it is written here: nothing follows redirects or keeps cookies."""
        place = urlsplit(self.page)
        connection = HTTPConnection("127.0.0.1", place.port, timeout=30)
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    def api(self, path: str) -> dict[str, Any]:
        """What a program with the token is told."""
        status, _, body = self.ask(path, Authorization=f"Bearer {self.token}")
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found


@contextmanager
def served(user: User, **variables: object) -> Iterator[Served]:
    """A dashboard, as `make dashboard` starts it; it ends by Ctrl-C."""
    with watched(user.start("dashboard", PORT=free_port(), **variables)) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while "?token=" not in "".join(lines):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        page = re.search(r"http://\S+", lines[-1])
        assert page is not None
        found = Served(process, page[0])
        yield found
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=60)
    found.said = "".join(lines) + rest
    assert (process.returncode, error) == (0, "")


def test_the_dashboard_shows_trials_with_their_pictures(runs: RunPaths, real_user: User) -> None:
    with served(real_user) as dashboard:
        opener = build_opener(HTTPCookieProcessor())  # as a browser: it keeps cookies
        with opener.open(dashboard.page) as answer:
            assert b"<html" in answer.read().lower()
            assert answer.url == dashboard.page.partition("?")[0]
        place = dashboard.page.partition("/dashboard")[0]
        studies = json.loads(opener.open(f"{place}/api/studies").read())["study_summaries"]
        assert [study["study_name"] for study in studies] == ["s"]
        number = studies[0]["study_id"]
        found = json.loads(opener.open(f"{place}/api/studies/{number}?after=0").read())
        (trial,) = found["trials"]
        (artifact,) = trial["artifacts"]
        assert artifact["mimetype"] == "image/png"
        where = f"{place}/artifacts/{number}/{trial['trial_id']}/{artifact['artifact_id']}"
        assert Image.open(io.BytesIO(opener.open(where).read())).size == (40, 20)
        listening = {
            found.laddr.ip
            for found in psutil.Process(dashboard.process.pid).net_connections("inet")
            if found.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    assert "warning" not in dashboard.said


def test_pages_of_others_neither_read_nor_change_anything(runs: RunPaths, user: User) -> None:
    with served(user) as dashboard:
        place = urlsplit(dashboard.page).netloc
        key = {"Authorization": f"Bearer {dashboard.token}"}
        study = "/api/studies/1"
        # no token, or another
        assert dashboard.ask("/api/studies")[0] == 403
        assert dashboard.ask("/api/studies?token=x")[0] == 403
        assert dashboard.ask("/static/bundle.js")[0] == 403
        assert dashboard.ask(study, "DELETE", Cookie=f"genstudy-{place.split(':')[1]}=x")[0] == 403
        # a name that was made to point here
        for host in ("evil.example", f"evil.example:{urlsplit(dashboard.page).port}", "", "[::1"):
            assert dashboard.ask("/api/studies", Host=host, **key)[0] == 403
            assert dashboard.ask(study, "DELETE", Host=host, **key)[0] == 403
        # another origin, also one that differs by its port, or that hides its name
        for origin in (
            "https://evil.example",
            "http://localhost:9",
            "null",
            f"http://{place}.evil",
        ):
            assert dashboard.ask(study, "DELETE", Origin=origin, **key)[0] == 403
            assert dashboard.ask(f"{study}/rename", "POST", Origin=origin, **key)[0] == 403
        assert dashboard.ask(study, "DELETE", Sec_Fetch_Site="same-site", **key)[0] == 403
        assert [
            each["study_name"] for each in dashboard.api("/api/studies")["study_summaries"]
        ] == ["s"]
        # its own page may
        own = {"Origin": f"http://{place}", "Sec_Fetch_Site": "same-origin"}
        assert dashboard.ask(study, "DELETE", **own, **key)[0] == 204
        assert dashboard.api("/api/studies") == {"study_summaries": []}


def test_a_browser_trades_the_token_for_a_cookie(runs: RunPaths, user: User) -> None:
    """Also behind an SSH tunnel with another port, of which the server knows nothing."""
    with served(user) as dashboard:
        tunnel = "localhost:9999"
        status, headers, _ = dashboard.ask(
            f"/dashboard/studies/1?token={dashboard.token}&tab=a", Host=tunnel
        )
        assert (status, headers["Location"]) == (302, "/dashboard/studies/1?tab=a")
        cookie = headers["Set-Cookie"]
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
        sent = cookie.partition(";")[0]
        assert sent.startswith("genstudy-9999=")
        status, headers, _ = dashboard.ask("/dashboard", Host=tunnel, Cookie=f"theme=dark; {sent}")
        assert status == 200
        assert "frame-ancestors 'self'" in str(headers)
        assert dashboard.ask("/api/studies", Host=tunnel, Cookie=sent)[0] == 200
        own = {"Host": tunnel, "Cookie": sent, "Origin": f"http://{tunnel}"}
        assert dashboard.ask("/api/studies/1", "DELETE", **own)[0] == 204
        status, _, body = dashboard.ask("/dashboard")
        assert status == 403
        assert b"make dashboard" in body
        assert b'name="token"' in body
        assert dashboard.ask("/")[0] == 302
        assert dashboard.ask(f"/?token={dashboard.token}")[1]["Location"] == "/dashboard"


def test_an_artifact_is_shown_and_not_run(runs: RunPaths, user: User) -> None:
    page = "3f1c2d4e-0000-4000-8000-00000000000a"
    (runs.artifacts / page).write_text("<script>alert(1)</script>")
    study = optuna.load_study(study_name="s", storage=open_storage(runs.database_url))
    about = {"artifact_id": page, "filename": "x.html", "mimetype": "text/html", "encoding": None}
    study._storage.set_study_system_attr(1, f"artifacts:{page}", json.dumps(about))
    with served(user) as dashboard:
        status, headers, _ = dashboard.ask(f"/artifacts/1/{page}?token={dashboard.token}")
    assert status == 200
    assert headers["Content-Security-Policy"].endswith("; sandbox")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in headers


def test_an_open_dashboard_warns_and_is_known_by_the_names_given(
    runs: RunPaths, user: User
) -> None:
    with served(user, HOST="0.0.0.0,lab.example") as dashboard:
        assert dashboard.page.startswith("http://lab.example:")
        key = {"Authorization": f"Bearer {dashboard.token}"}
        for host in ("lab.example", "LAB.example.:80", "192.0.2.7:8080", socket.gethostname()):
            assert dashboard.ask("/api/studies", Host=host, **key)[0] == 200
        status, _, body = dashboard.ask("/dashboard", Host="other.example:80", **key)
    assert status == 403
    assert b"start it with HOST=0.0.0.0,other.example" in body
    said = dashboard.said
    assert "warning: HOST=0.0.0.0 opens the dashboard to other machines" in said


def test_a_taken_port_is_one_line(runs: RunPaths, user: User) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, error = user.run("dashboard", PORT=port)
    assert code == 2
    assert error.startswith(f"error: cannot serve on 127.0.0.1:{port}")
    assert error.count("\n") == 1


def test_a_proxy_sends_the_token_of_a_file_and_nothing_prints_it(
    runs: RunPaths, user: User, tmp_path: Path
) -> None:
    token = tmp_path / "token.txt"
    token.write_text("0123456789abcdef" * 2 + "\n")
    held = token.read_text().strip()
    token.chmod(0o600)
    process = user.start("dashboard", PORT=(port := free_port()), TOKEN=token)
    with watched(process):
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f": 127.0.0.1:{port}, for a proxy that sends the token of " in said
        served = Served(process, f"http://127.0.0.1:{port}/dashboard?token={held}")
        assert served.ask("/dashboard")[0] == 403
        assert served.api("/api/studies")["study_summaries"]
        process.send_signal(signal.SIGINT)
        rest, error = process.communicate(timeout=60)
    assert held not in said + rest + error
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0o600, "No such file or directory"),
        ("0123456789abcdef" * 2, 0o604, "may be read by others; keep it to yourself: chmod 600"),
        ("short", 0o600, "holds no token, which is one line of 32 to 256 letters and digits"),
        ("two words that are long enough to be one", 0o600, "holds no token"),
    ],
)
def test_a_token_that_is_none_is_one_line(
    runs: RunPaths,
    tmp_path: Path,
    refused: Callable[..., str],
    content: str | None,
    mode: int,
    said: str,
) -> None:
    token = tmp_path / "token.txt"
    if content is not None:
        token.write_text(content)
        token.chmod(mode)
    assert said in refused("dashboard", TOKEN=token)


def test_without_a_study_there_is_nothing_to_show(user: User) -> None:
    code, _, error = user.run("dashboard")
    assert code == 2
    assert "run a study first" in error
    assert not user.runs.exists()
