"""Prefect's API asked by plain requests, where Prefect's own client is not at hand."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from flows.secret import authorization
from ltxcore.deadline import within

DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
LIMIT_S: Final = 60.0
"""Right after its start, on a busy machine, the server takes long for its first answers."""

Send = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]
"""Method, path below /api, headers and body; returns status and body of the answer."""


class ApiError(RuntimeError):
    """The server refused; the text is what was asked, and its answer."""


class RawApi:
    """A Prefect server, asked with its secret and a token against forged posts."""

    def __init__(self, secret: str | None, send: Send) -> None:
        self._secret, self._send = secret, send

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self.ask("POST", path, body)

    def ask(self, method: str, path: str, body: dict[str, Any]) -> Any:
        """The answer to a request that changes something, None where there is none.

        Raises:
            ApiError: it was refused.
            OSError: nobody answers.
        """
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers["Authorization"] = authorization(self._secret)
        client = str(uuid.uuid4())
        status, answer = self._send("GET", f"/csrf-token?client={client}", headers, None)
        if status == HTTPStatus.OK:
            headers |= {"Prefect-Csrf-Client": client, "Prefect-Csrf-Token": json.loads(answer)["token"]}
        elif status != HTTPStatus.UNPROCESSABLE_ENTITY:  # Prefect's word for: no such protection here.
            raise ApiError(f"GET /csrf-token was answered with {status}: {answer[:200]!r}")
        status, answer = self._send(method, path, headers, json.dumps(body).encode())
        if status >= HTTPStatus.BAD_REQUEST:
            raise ApiError(f"{method} {path} was answered with {status}: {answer[:200]!r}")
        return json.loads(answer) if answer else None


def over_http(secret: str | None, api_url: str) -> RawApi:
    """The server that answers at an address such as http://127.0.0.1:4200/api."""

    def send(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
        request = urllib.request.Request(  # noqa: S310 - our own server's address
            f"{api_url}{path}", data=body, headers=dict(headers), method=method
        )

        def ask() -> tuple[int, bytes]:
            try:
                with DIRECT.open(request, timeout=LIMIT_S) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        return within(LIMIT_S, f"asking {api_url}{path}", ask)

    return RawApi(secret, send)
