"""What a Prefect server does before it answers anybody: it takes up recorded runs, and ends killed ones."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.leftovers import close_leftovers
from flows.raw_api import RawApi
from flows.recorder.deliver import keep_taking_up, take_up


class Tidied:
    """Prefect's application, which counts as started when it has recorded runs, and leftovers are cleaned up.

    No worker can take a run meanwhile, whoever started server and workers: nothing listens yet.

    Args:
        home: PREFECT_HOME, WORKSPACE/prefect.
        secret: of the server.
    """

    def __init__(self, app: ASGIApp, home: Path, secret: str) -> None:
        self._app, self._home, self._secret = app, home, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        later: list[asyncio.Task[None]] = []

        async def tidy_first(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                # First: a recorder that was killed leaves runs that seem to go on.
                await take_up(self._home)
                api = _from_inside(self._app, self._secret, asyncio.get_running_loop())
                await asyncio.to_thread(close_leftovers, api, self._home)
                later.append(asyncio.create_task(keep_taking_up(self._home)))
            await send(message)

        async def stop_first() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                for task in later:
                    task.cancel()
            return message

        await self._app(scope, stop_first, tidy_first)


def _from_inside(app: ASGIApp, secret: str, loop: asyncio.AbstractEventLoop) -> RawApi:
    """The application asked without a socket, from another thread than its loop's."""

    async def request(
        method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api") as client:
            answer = await client.request(method, path, headers=dict(headers), content=body)
            return answer.status_code, answer.content

    def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
        # Without a limit: whoever waits for the server gives it up when it stands still.
        return asyncio.run_coroutine_threadsafe(request(method, path, headers, body), loop).result()

    return RawApi(secret, send)
