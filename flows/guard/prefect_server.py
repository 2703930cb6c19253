"""Prefect's server behind the guard: `python -m flows.guard.prefect_server HOST PORT`.

In place of `prefect server start`, which checks neither Host nor Origin. It puts the leftovers of killed runs
right before it answers. Services, migrations and log are
Prefect's own. Its UI asks the host name it was opened by, so that `localhost`, another address of this
machine and a tunnel all work.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.guard.before_service import Tidied
from flows.guard.database import queue_writers
from flows.guard.serving import guarded, home_and_secret, run

UI_SETTINGS: Final = "/ui-settings"


POLICY: Final = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; img-src * data: blob:; media-src *; "
    "connect-src 'self'; form-action 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'self'"
)
"""For the UI's pages. They hold the secret, and they would send use figures to a company (amplitude.com)."""


class OwnUi:
    """Prefect's UI, with its API at the address that the browser uses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != UI_SETTINGS:
            await self._app(scope, receive, _with_policy(send))
            return
        host = Headers(scope=scope)["host"]
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        status, body = 500, b""

        async def keep(message: Message) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")

        await self._app({**scope, "headers": plain}, receive, keep)
        settings: dict[str, Any] = json.loads(body)
        if status == 200:
            settings["api_url"] = f"{scope['scheme']}://{host}/api"
        await JSONResponse(settings, status_code=status)(scope, receive, send)


def _with_policy(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            if headers.get("content-type", "").startswith("text/html"):
                headers["Content-Security-Policy"] = POLICY
        await send(message)

    return wrapped


def main(host: str, port: str) -> None:
    settings = get_current_settings().server
    queue_writers()
    server = Tidied(create_app(final=True), *home_and_secret())
    app = guarded(OwnUi(server), host, private=False)
    run(
        app,
        host,
        int(port),
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
