"""The hub's token as a command sees it: of this machine, or a Secret block of a Prefect server that runs."""

from __future__ import annotations

import os
from pathlib import Path

from flows.server import find_server, healthy
from ltxcore.publishing.token import local_token


def token_here(workspace: Path) -> str | None:
    """The token that a run from here would upload with; None where none is to be found."""
    found = local_token()
    if found:
        return found
    server = find_server(workspace)
    url = os.environ.get("PREFECT_API_URL") or (None if server is None else server.url)
    if url is None or not healthy(url):
        return None
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from tasks.hub import hub_token

    with temporary_settings({PREFECT_API_URL: url}):
        return hub_token()
