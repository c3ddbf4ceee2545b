"""`make dashboard`: serve optuna-dashboard with the trials' pictures, also while a study runs.

It has no password, so that only this machine reaches it unless HOST says otherwise.
"""

from __future__ import annotations

import socket
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna_dashboard

from search.console import open_console, shorten_path
from search.errors import BadVariable
from search.reporting.dashboard_view import DashboardView
from search.variables import Variables, read_variables
from storage.database.address import redact_url
from storage.database.connection import open_storage
from storage.errors import short
from storage.files.artifacts import ArtifactFolder

LOOPBACK = ("127.0.0.1", "localhost", "::1")


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
    variables = read_variables()
    console = open_console()
    storage = open_storage(variables.storage_url, create=False)  # looking creates nothing
    try:
        app = optuna_dashboard.wsgi(
            storage, artifact_store=ArtifactFolder(variables.paths.artifacts)
        )
        with _bind(variables, DashboardView(app, storage)) as server:
            if variables.host not in LOOPBACK:
                console.print(
                    f"warning: HOST={variables.host} opens the dashboard to other machines; it "
                    "has no password, and whoever reaches it can delete studies",
                    style="bold yellow",
                )
            host = f"[{variables.host}]" if ":" in variables.host else variables.host
            console.print(
                f"dashboard of {shorten_path(redact_url(variables.storage_url))}: "
                f"http://{host}:{variables.port}/dashboard  (Ctrl-C ends it)",
                soft_wrap=True,
            )
            server.serve_forever()
    except KeyboardInterrupt:
        console.print("dashboard ended")
    finally:
        storage.engine.dispose()
    return 0


def _bind(variables: Variables, app: Any) -> WSGIServer:
    """Return a server at HOST and PORT; raise `BadVariable` if there can be none."""
    server = ServerIPv6 if ":" in variables.host else Server
    try:
        return make_server(variables.host, variables.port, app, server, QuietHandler)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadVariable(
            f"cannot serve on {short(variables.host)}:{variables.port} ({reason}); set PORT to "
            "a free one, and HOST to an address of this machine"
        ) from error
