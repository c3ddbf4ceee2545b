"""The services of compose.yaml, as processes instead of containers.

    services = read_services(STUDY="small.py")
    services["worker"].command          # ["worker", "small.py"]
    services["worker"].environment      # {"STORAGE": "postgresql:///?service=genstudy", ...}
    places.on_this_machine(services["worker"])   # the same with folders of this machine

Nothing is said twice: words and environment are those of the file. A process sees other paths than
a container, so those where something is mounted are replaced by what is mounted there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
COMPOSE = HERE / "compose.yaml"
SECRETS = "/run/secrets"
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")  # ${NAME:-default}, all that the file makes use of


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a container is started with.

    mounts: path in the container -> volume, or file beside compose.yaml
    """

    name: str
    command: list[str]
    environment: dict[str, str]
    mounts: dict[str, str]
    secrets: tuple[str, ...]
    stop_signal: str


def read_compose() -> dict[str, Any]:
    """Return the file as it stands, anchors followed."""
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return content


def read_services(**given: str) -> dict[str, Service]:
    """Return the services by name, with the variables ``given`` where the file asks for them."""
    services = _fill_in(read_compose()["services"], given)
    return {
        name: Service(
            name=name,
            command=about.get("command", []),
            environment=about.get("environment", {}),
            mounts={to: source for source, to in map(_split_mount, about.get("volumes", []))},
            secrets=tuple(about.get("secrets", ())),
            stop_signal=about.get("stop_signal", "SIGTERM"),
        )
        for name, about in services.items()
    }


def _split_mount(written: str) -> tuple[str, str]:
    source, to, *_ = written.split(":")
    return source, to


def _fill_in(content: Any, given: Mapping[str, str]) -> Any:
    """Replace ``${NAME:-default}`` in all texts, as compose does."""
    if isinstance(content, dict):
        return {key: _fill_in(value, given) for key, value in content.items()}
    if isinstance(content, list):
        return [_fill_in(value, given) for value in content]
    if isinstance(content, str):
        return VARIABLE.sub(lambda found: given.get(found[1], found[2]), content)
    return content


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where on this machine the paths of containers lie: below ``folder``, save for secrets."""

    folder: Path
    secrets: Path

    def on_this_machine(self, service: Service) -> Service:
        """Return ``service`` with paths of this machine; its secrets must be those it names."""
        names = {SECRETS: str(self.secrets), "/runs": str(self.folder / "runs")}
        for to, source in service.mounts.items():
            beside = source.startswith("./")
            names[to] = str(HERE / source if beside else self.folder / source)
        for written in (*service.command, *service.environment.values()):
            for name in re.findall(rf"{SECRETS}/([\w.]+)", written):
                assert name in service.secrets, f"{service.name} is not given {name}"

        def place(written: str) -> str:
            for path, here in names.items():
                written = re.sub(rf"(?<![\w.]){re.escape(path)}(?![\w-])", here, written)
            return written

        return replace(
            service,
            command=[place(word) for word in service.command],
            environment={name: place(value) for name, value in service.environment.items()},
        )
