"""The secret of a workspace's servers: `USER:PASSWORD`, in a file that only its owner can read.

It is Prefect's auth string, and what browsers and programs show to the MLflow and the file server. It goes to
processes by their environment, never by a command line, which every user of the machine can read.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

USER: Final = "ltx2"
SERVER_VARIABLE: Final = "PREFECT_SERVER_API_AUTH_STRING"
CLIENT_VARIABLE: Final = "PREFECT_API_AUTH_STRING"
_FORM: Final = re.compile(rf"{USER}:[\w-]{{43}}")


def secret_file(home: Path) -> Path:
    """Where a PREFECT_HOME keeps it."""
    return home / "auth"


def find_secret(home: Path) -> str | None:
    """The secret of the servers under this PREFECT_HOME, None where none has been made."""
    try:
        text = secret_file(home).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    return text if _FORM.fullmatch(text) else None


def server_secret(home: Path) -> str:
    """The secret, made where there is none yet. Of two processes at once, one makes it for both.

    A file that others may read, or that a power cut has left damaged, is replaced by a new secret.
    """
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / "auth.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = find_secret(home)
        private = known is not None and secret_file(home).stat().st_mode & 0o077 == 0
        return known if known is not None and private else _make(home)


def _make(home: Path) -> str:
    made = f"{USER}:{secrets.token_urlsafe(32)}"
    partial = home / "auth.partial"
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(f"{made}\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(secret_file(home))
    return made


def client_environment(home: Path) -> dict[str, str]:
    """Variables for a process that talks to the server of this home; empty where it has no secret."""
    secret = find_secret(home)
    return {} if secret is None else {CLIENT_VARIABLE: secret}


def server_environment(secret: str, given: Mapping[str, str]) -> dict[str, str]:
    """`given`, with the secret for a server process."""
    return {**given, SERVER_VARIABLE: secret}


def authorization(secret: str) -> str:
    """The value of an `Authorization` header (Basic)."""
    return f"Basic {base64.b64encode(secret.encode()).decode()}"


def session_cookie(secret: str) -> tuple[str, str]:
    """Name and value of the cookie of a browser that has signed in.

    A browser sends cookies to every port of a host. So the value is derived: whoever sees it could look at
    galleries and metrics, but start nothing. The name differs from workspace to workspace.
    """
    name = hashlib.sha256(f"name {secret}".encode()).hexdigest()[:8]
    return f"ltx2-{name}", hmac.new(secret.encode(), b"browser session", hashlib.sha256).hexdigest()
