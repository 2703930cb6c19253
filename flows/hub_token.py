"""The hub's token as a command sees it: of this machine, or a Secret block of a Prefect server that runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from flows.database_question import may_hold
from flows.environment import prefect_home
from flows.secret import find_secret
from flows.server import find_server, healthy
from ltxcore.publishing.token import SECRET_BLOCK, local_token

BLOCK: Final = "SELECT 1 FROM block_document WHERE name = ? LIMIT 1"
"""Where the file cannot be read the run itself asks the server."""


def token_here(workspace: Path) -> str | None:
    """The token that a run from here would upload with; None where none is to be found."""
    found = local_token()
    if found:
        return found
    server = find_server(workspace)
    given = os.environ.get("PREFECT_API_URL")
    url = given or (None if server is None else server.url)
    if url is None or not healthy(url):
        return None
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from tasks.hub import hub_token

    secret = find_secret(prefect_home(workspace)) if server is not None and server.url == url else None
    ours = {} if secret is None else {PREFECT_API_AUTH_STRING: secret}
    with temporary_settings({PREFECT_API_URL: url, **ours}):
        return hub_token()


def may_be_token(workspace: Path) -> Callable[[], str | None] | None:
    """How to ask for the token; None where a Secret block of a server that does not run may hold it."""
    asleep = find_server(workspace) is None and not os.environ.get("PREFECT_API_URL")
    if asleep and may_hold(prefect_home(workspace) / "prefect.db", BLOCK, SECRET_BLOCK):
        return None
    return partial(token_here, workspace)
