"""`make dashboard`: serve optuna-dashboard with the trials' pictures, also while a study runs.

    make dashboard                             this machine only
    ssh -L 8080:127.0.0.1:8080 machine         the same from elsewhere, at the printed address
    make dashboard HOST=0.0.0.0,lab.example    other machines too; after the comma: a proxy's name
    make dashboard TOKEN=token.txt             for a proxy that asks for a password itself

The address that is printed carries a token (`search.reporting.dashboard_access`), unless TOKEN
names a file that holds it: what a service prints is kept in logs. `tests/deploy/` has such a proxy.
"""

from __future__ import annotations

import socket
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
import optuna_dashboard

from search.console import open_console, shorten_path
from search.errors import BadVariable
from search.reporting.dashboard_access import DashboardAccess, new_token, read_token
from search.reporting.dashboard_view import DashboardView
from search.setup.shared_place import open_for_reading, places_left_out
from search.variables import Variables, read_variables
from storage.database.address import redact_url
from storage.database.connection import open_storage
from storage.errors import short
from storage.files.artifacts import ArtifactFolder

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # all addresses of this machine, of which none can be opened


class Server(ThreadingMixIn, WSGIServer):
    """A server with a thread a request: one that reads a large study does not delay the others."""

    daemon_threads = True


class ServerIPv6(Server):
    """The same for addresses such as ``::1``."""

    address_family = socket.AF_INET6


class QuietHandler(WSGIRequestHandler):
    """A handler that prints no line a request."""

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Print nothing: the page asks every ten seconds, and nobody reads that."""


def dashboard() -> int:
    """Serve the dashboard until Ctrl-C."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    variables = read_variables()
    console = open_console()
    storage = open_storage(variables.storage_url, create=False)  # looking creates nothing
    token = new_token() if variables.token is None else read_token(variables.token)
    try:
        shared = open_for_reading(variables.files_address, storage.engine)
        for line in places_left_out(variables, storage):
            console.print(line, soft_wrap=True, markup=False)
        app = optuna_dashboard.wsgi(
            storage, artifact_store=ArtifactFolder(variables.paths.artifacts, shared)
        )
        view = DashboardView(app, storage)
        with _bind(variables, DashboardAccess(view, token, variables.host)) as server:
            if variables.host[0] not in LOOPBACK:
                console.print(
                    f"warning: HOST={variables.host[0]} opens the dashboard to other machines, "
                    "without encryption; an SSH tunnel to the default HOST needs none of that",
                    style="bold yellow",
                )
            console.print(
                f"dashboard of {shorten_path(redact_url(variables.storage_url))}: "
                f"{_entrance(variables, token)}  (Ctrl-C ends it)",
                soft_wrap=True,
            )
            server.serve_forever()
    except KeyboardInterrupt:
        console.print("dashboard ended")
    finally:
        storage.engine.dispose()
    return 0


def _entrance(variables: Variables, token: str) -> str:
    """Return the address for a browser. A token that another program keeps is not shown."""
    if variables.token is None:
        return f"{_address(variables)}?token={token}"
    place = f"{variables.host[0]}:{variables.port}"
    return f"{place}, for a proxy that sends the token of {shorten_path(variables.token)}"


def _address(variables: Variables) -> str:
    """Return where a browser finds the dashboard."""
    host, *names = variables.host
    if names or host in EVERYWHERE:
        host = names[0] if names else socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{variables.port}/dashboard"


def _bind(variables: Variables, app: Any) -> WSGIServer:
    """Return a server at HOST and PORT; raise `BadVariable` if there can be none."""
    host = variables.host[0]
    server = ServerIPv6 if ":" in host else Server
    try:
        return make_server(host, variables.port, app, server, QuietHandler)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadVariable(
            f"cannot serve on {short(host)}:{variables.port} ({reason}); set PORT to "
            "a free one, and HOST to an address of this machine"
        ) from error
