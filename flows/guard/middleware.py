"""The guard in front of a server: refuses requests from pages of other origins and from strangers.

A browser sends requests for any page that is open in it, also to servers of its own machine. Three signs
tell whose they are. `Host` is the name in the address: after DNS rebinding, the stranger's. `Origin` is the
page that asks. `Sec-Fetch-Site` says the same of requests without an origin: pictures, scripts, frames.
"""

from __future__ import annotations

import hmac
import http.cookies
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.guard import sign_in
from flows.guard.hosts import host_name, is_address
from flows.secret import authorization, session_cookie

HEADERS: Final = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    # Our pages talk to their own server only; MLflow's would send use figures to a company.
    "Content-Security-Policy": (
        "connect-src 'self' blob: data:; form-action 'self'; base-uri 'self'; object-src 'none'; "
        "frame-ancestors 'self'"
    ),
}


class Guard:
    """An ASGI application that lets through what our own pages and processes ask.

    Args:
        app: what is guarded.
        names: host names that it is reached by, besides any IP address.
        home: PREFECT_HOME of the workspace, for the links that sign in.
        secret: of the workspace.
        private: whether every request must show the secret or the session cookie. Prefect asks for it itself.
        open_paths: answered to everybody on this machine, such as a health check.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: frozenset[str],
        home: Path,
        secret: str,
        private: bool,
        open_paths: Iterable[str] = (),
    ) -> None:
        self._app, self._names, self._home, self._secret = app, names, home, secret
        self._private, self._open = private, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        answer = self._refusal(scope)
        if scope["type"] == "websocket":
            if answer is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        if answer is None and scope["path"] == sign_in.PATH:
            answer = await sign_in.answer(Request(scope, receive), self._home, self._secret)
        app = self._app if answer is None else answer
        await app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        reason = foreign(scope, headers, self._names)
        if reason is not None:
            return PlainTextResponse(f"Refused: {reason}\n", status_code=403)
        if not self._private or scope["path"] in self._open or scope["path"] == sign_in.PATH:
            return None
        return (
            None
            if self._knows(headers)
            else HTMLResponse(sign_in.page("sign_in_first.html"), status_code=401)
        )

    def _knows(self, headers: Headers) -> bool:
        name, value = session_cookie(self._secret)
        shown = http.cookies.SimpleCookie()
        try:
            shown.load(headers.get("cookie", ""))
        except http.cookies.CookieError:
            shown.clear()
        cookie = shown[name].value if name in shown else ""
        given = headers.get("authorization", "")
        return hmac.compare_digest(cookie.encode(), value.encode()) or hmac.compare_digest(
            given.encode(), authorization(self._secret).encode()
        )


def foreign(scope: Scope, headers: Headers, names: frozenset[str]) -> str | None:
    """Why a request is refused as foreign; None if it is accepted."""
    hosts = headers.getlist("host")
    if len(hosts) != 1:
        return f"there are {len(hosts)} Host headers"
    name = host_name(hosts[0])
    if name not in names and not is_address(name):
        return (
            f"{name!r} is not a name of this server; if you gave it that name, set LTX2_ALLOWED_HOSTS={name}"
        )
    own = {f"http://{hosts[0]}", f"https://{hosts[0]}"}
    for origin in headers.getlist("origin"):
        if origin not in own:
            return f"a page of another origin asks, {origin!r}"
    site = headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin") and not _is_link(scope, headers):
        return f"a page of another origin asks ({site})"
    return None


def _is_link(scope: Scope, headers: Headers) -> bool:
    """A link that somebody follows: the page that holds it does not see what comes."""
    return (
        scope.get("method") in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return wrapped
