"""Access to the dashboard: a request needs its token, and a name that is this machine's.

    app = DashboardAccess(app, token=new_token(), hosts=("127.0.0.1", "lab.example"))

The dashboard reads and deletes studies, and any page in the world can make a browser on this
machine send it requests. So a request is answered only if all of this holds:

- **Token.** The address that `make dashboard` prints carries it. The browser's first visit trades
  it for a cookie, which no script can read, and goes on at the same address without it. Programs
  send ``Authorization: Bearer TOKEN``, or ``?token=TOKEN``. A proxy that asks for a password of its
  own sends the token of a file that both read (``TOKEN=PATH``); then nothing prints it.
- **Host.** It is an address, ``localhost``, this machine's name, or one of ``hosts``. A page whose
  own name was made to point to this machine (DNS rebinding) sends that name, and is refused. Any
  port is allowed, because an SSH tunnel has another one.
- **Origin.** A request that changes anything comes from the dashboard's own pages, or from no page
  at all.

The file of an artifact is shown and never run: a person who may write to the database may have
called a page of scripts a picture.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from search.errors import BadVariable
from search.spelling import spell
from storage.errors import short

Environment = dict[str, Any]
Headers = list[tuple[str, str]]

TOKEN = re.compile("[A-Za-z0-9_-]{32,256}")  # what a header, an address and a cookie can hold
SAFE = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
PAGES = "/dashboard"
FILES = "/artifacts/"
NO_TOKEN = "this dashboard needs its token: open the address that {} has printed"
NO_PAGE = "this request comes from a page of another origin, and is refused"
COMMON: Headers = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    # A notebook on this machine may show the dashboard in a frame. The dashboard renders the HTML
    # of notes, whoever wrote them: a form or a base there leads nowhere else.
    (
        "Content-Security-Policy",
        "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*; form-action 'self'; "
        "base-uri 'self'",
    ),
]
NOT_RUN = (
    "Content-Security-Policy",
    "default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'; "
    "sandbox",
)
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>genstudy dashboard</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 36rem; margin: 18vh auto;
  padding: 0 1rem }}
input {{ font: inherit; width: 60% }} button {{ font: inherit }}</style></head>
<body><h1>genstudy dashboard</h1><p>{text}</p>{form}</body></html>
"""
FORM = (
    f'<form action="{PAGES}"><label>Token <input name="token" type="password" '
    'autocomplete="off" required autofocus></label> <button>Open</button></form>'
)


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_hex(20)  # letters and digits: a terminal finds the end of its address


def read_token(path: Path) -> str:
    """Return the token that a file holds; raise `BadVariable` where it holds none, or shows it."""
    try:
        mode = path.stat().st_mode
        held = path.read_text(encoding="utf-8").strip() if stat.S_ISREG(mode) else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text of UTF-8"
        raise BadVariable(
            f"cannot read TOKEN={short(str(path))} ({reason}); name a file that holds the "
            "dashboard's token"
        ) from error
    if mode & stat.S_IRWXO:
        raise BadVariable(
            f"TOKEN={short(str(path))} may be read by others; keep it to yourself: "
            f"chmod 600 {short(str(path))}"
        )
    if not TOKEN.fullmatch(held):
        raise BadVariable(
            f"TOKEN={short(str(path))} holds no token, which is one line of 32 to 256 letters and "
            f"digits; make one: openssl rand -hex 20 > {short(str(path))}"
        )
    return held


@dataclass
class DashboardAccess:
    """A WSGI application that lets through to ``app`` what is allowed to.

    hosts: the address that it serves, then further names by which browsers reach it
    """

    app: Callable[..., Iterable[bytes]]
    token: str = field(repr=False)
    hosts: Sequence[str] = ("127.0.0.1",)

    def __post_init__(self) -> None:
        self._names = {name.lower() for name in (*self.hosts, socket.gethostname(), "localhost")}

    def __call__(self, environ: Environment, start_response: Any) -> Iterable[bytes]:
        host = str(environ.get("HTTP_HOST", ""))
        if not self._is_ours(host):
            return _refuse(environ, start_response, self._unknown_name(host))
        if not _comes_from_here(environ, host):
            return _refuse(environ, start_response, NO_PAGE)
        path, given = environ["PATH_INFO"], self._query_token(environ)
        is_page = environ["REQUEST_METHOD"] == "GET" and (path == "/" or path.startswith(PAGES))
        if is_page and given is not None and self._is_token(given):
            return self._let_in(environ, start_response, host)
        if path == "/":
            return _redirect(start_response, PAGES)
        sent = (given, _bearer(environ), _cookie(environ, host))
        if not any(self._is_token(each) for each in sent if each is not None):
            return _refuse(environ, start_response, NO_TOKEN.format(spell("dashboard")), FORM)
        return self.app(environ, _guarded(start_response, path))

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        name = name.rstrip(".")
        try:
            return bool(ip_address(name))  # of an address, nobody can change where it points
        except ValueError:
            return name in self._names or name.endswith(".localhost")

    def _unknown_name(self, host: str) -> str:
        name = short(host.rpartition(":")[0] or host)
        return (
            f"this dashboard does not know itself as {name!r}; if that is a proxy's name, or "
            f"another one of this machine, start it with HOST={self.hosts[0]},{name}"
        )

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self.token.encode())

    def _query_token(self, environ: Environment) -> str | None:
        return dict(parse_qsl(environ.get("QUERY_STRING", ""))).get("token")

    def _let_in(self, environ: Environment, start_response: Any, host: str) -> Iterable[bytes]:
        """Give the browser its cookie, and send it to the page's address without the token."""
        pairs = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        rest = urlencode([pair for pair in pairs if pair[0] != "token"])
        path = environ["PATH_INFO"]
        to = PAGES if path == "/" else quote(path.encode("latin-1"))
        # Lax: a link in a notebook or a mail still opens the page. Without a date it ends with the
        # browser's session.
        cookie = f"{_cookie_name(host)}={self.token}; Path=/; HttpOnly; SameSite=Lax"
        return _redirect(start_response, f"{to}?{rest}" if rest else to, ("Set-Cookie", cookie))


def _comes_from_here(environ: Environment, host: str) -> bool:
    """Whether a request may change what it asks for: of a page of ours, or of no page."""
    if environ["REQUEST_METHOD"] in SAFE:
        return True
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None:
        return urlsplit(origin).netloc.lower() == host.lower()  # a proxy may add TLS
    return environ.get("HTTP_SEC_FETCH_SITE", "same-origin") in ("same-origin", "none")


def _bearer(environ: Environment) -> str | None:
    kind, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    return given.strip() if kind.lower() == "bearer" else None


def _cookie(environ: Environment, host: str) -> str | None:
    try:
        found = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(_cookie_name(host))
    except CookieError:
        return None
    return None if found is None else found.value


def _cookie_name(host: str) -> str:
    """Return a name that differs by port: a browser keeps one jar for all ports of a name."""
    return f"genstudy-{host.rpartition(':')[2] if host[-1:].isdigit() else 80}"


def _guarded(start_response: Any, path: str) -> Any:
    """Return ``start_response`` that adds what a browser has to heed."""

    def start(status: str, headers: Headers, *error: Any) -> Any:
        added = [NOT_RUN, *COMMON[:2]] if path.startswith(FILES) else COMMON
        kept = [pair for pair in headers if pair[0].lower() != "access-control-allow-origin"]
        return start_response(status, [*kept, *added], *error)

    return start


def _redirect(start_response: Any, to: str, *headers: tuple[str, str]) -> Sequence[bytes]:
    start_response("302 Found", [("Location", to), ("Content-Length", "0"), *COMMON, *headers])
    return [b""]


def _refuse(environ: Environment, start_response: Any, why: str, form: str = "") -> Sequence[bytes]:
    """Answer with the reason: a page for people, and what the dashboard's own page shows."""
    is_page = environ["PATH_INFO"].startswith((PAGES, "/favicon")) or environ["PATH_INFO"] == "/"
    text = PAGE.format(text=escape(why), form=form) if is_page else json.dumps({"reason": why})
    kind = "text/html; charset=utf-8" if is_page else "application/json"
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"
    body = text.encode()
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), *COMMON[:2]]
    start_response("403 Forbidden", [*headers, ("Content-Security-Policy", policy)])
    return [body]
