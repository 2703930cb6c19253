"""Signing a browser in by a link that works once: `http://HOST:PORT/ltx2/sign-in#TOKEN`.

The token stands behind the `#`, so that no log or `Referer` ever has it. The page sends it back to its own
server, which gives the browser the session cookie and, for Prefect's UI, what the UI keeps of a password.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from flows.secret import authorization, session_cookie
from ltxcore.pages import environment

PATH: Final = "/ltx2/sign-in"
LIFE_S: Final = 7 * 24 * 3600.0
SESSION_S: Final = 90 * 24 * 3600
_MAX_BODY_BYTES: Final = 1024


def make_link(home: Path, ui_url: str) -> str:
    """A link that signs one browser in, within a week. `home` is the server's PREFECT_HOME."""
    folder = _folder(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _forget_old(folder)
    token = secrets.token_urlsafe(24)
    (folder / _digest(token)).touch(mode=0o600)
    return f"{ui_url}{PATH}#{token}"


def redeem(home: Path, token: str) -> bool:
    """Whether the token is good; it is so once."""
    folder = _folder(home)
    _forget_old(folder)
    try:
        (folder / _digest(token)).unlink()
    except FileNotFoundError:
        return False
    return True


async def answer(request: Request, home: Path, secret: str) -> Response:
    """The page, and the answer to the token that it sends."""
    if request.method == "GET":
        return HTMLResponse(page("sign_in.html"), headers=_page_headers())
    if request.method != "POST":
        return Response(status_code=405, headers={"Allow": "GET, POST"})
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            return JSONResponse({"detail": "That is no token."}, status_code=413)
    if not redeem(home, body.decode(errors="replace")):
        return JSONResponse({"detail": "This link has been used already, or it is too old."}, status_code=403)
    # Prefect's UI keeps what comes behind `Basic `.
    password = authorization(secret).removeprefix("Basic ")
    response = JSONResponse({"password": password}, headers={"Cache-Control": "no-store"})
    name, value = session_cookie(secret)
    response.set_cookie(name, value, max_age=SESSION_S, httponly=True, samesite="strict", path="/")
    return response


@cache
def page(name: str) -> str:
    """A page of the guard: `sign_in.html`, or `sign_in_first.html` for who has not signed in."""
    return environment.html(__package__).get_template(name).render()


@cache
def _page_headers() -> dict[str, str]:
    """The page's own script and style run, known by their hashes, and nothing else."""
    script, style = (_source("sign_in.js"), _source("notice.css"))
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
        ),
    }


def _source(name: str) -> str:
    text = environment.asset(__package__, name)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _folder(home: Path) -> Path:
    return home / "sign-in"


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _forget_old(folder: Path) -> None:
    for file in folder.glob("*"):
        if time.time() - file.stat().st_mtime > LIFE_S:
            file.unlink(missing_ok=True)
