"""Prefect's plugin hook that makes `prefect deployment run train-ltx2` work without the flow's name.

Prefect wants FLOW/DEPLOYMENT. Every deployment here is named as its flow is, so NAME can only mean NAME/NAME.
And it wants to know its server: where none is set, the one that serves ./workspace is meant.
Prefect runs the hook when it is imported, before its command line reads `sys.argv`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, Final

from prefect.plugins import SetupResult, register_hook
from prefect.settings import get_current_settings

from flows.environment import prefect_home
from flows.secret import client_environment
from flows.server import find_server

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"

NO_OTHER: Final = "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"
ASKING: Final = frozenset(
    [
        "api",
        "artifact",
        "automation",
        "block",
        "concurrency-limit",
        "dashboard",
        "deploy",
        "deployment",
        "event",
        "flow",
        "flow-run",
        "global-concurrency-limit",
        "task-run",
        "variable",
        "work-pool",
        "work-queue",
        "worker",
    ]
)
"""Commands that ask a server; most of them may be written with an `s`."""


def expand(argv: Sequence[str]) -> list[str]:
    """The command line with NAME written as NAME/NAME after `deployment run` and `deployment inspect`."""
    out = list(argv)
    if (
        len(out) > 3
        and _is_prefect(out[0])
        and out[1] == "deployment"
        and out[2] in ("run", "inspect")
        and not out[3].startswith("-")
        and "/" not in out[3]
    ):
        out[3] = f"{out[3]}/{out[3]}"
    return out


def _is_prefect(program: str) -> bool:
    return PurePath(program).name in ("prefect", "prefect.exe")


def _asks_a_server(argv: Sequence[str]) -> bool:
    return len(argv) > 1 and argv[1].removesuffix("s") in ASKING and "--help" not in argv


def program_of(argv: Sequence[str], original: Sequence[str]) -> str:
    """The program that runs: argv[0], or the module's name while `python -m MODULE` is still importing it."""
    if argv[0] == "-m" and "-m" in original[:-1]:
        return original[original.index("-m") + 1]
    return argv[0]


def server_settings(workspace: Path) -> dict[str, str]:
    """How the command line reaches the server of a workspace; nothing where the user has set another.

    While none runs, no other is started in its place.
    """
    settings = get_current_settings().api
    server = find_server(workspace)
    if server is None and settings.url is None and prefect_home(workspace).is_dir():
        # Prefect would start one for this one command, without a guard and beside the workspace's records.
        return {NO_OTHER: "false"}
    if server is None or settings.auth_string is not None:
        return {}
    if settings.url is not None and settings.url.rstrip("/") != server.url:
        return {}
    return {"PREFECT_API_URL": server.url, **client_environment(prefect_home(workspace))}


@register_hook
def setup_environment(*, ctx: Any) -> SetupResult | None:
    """Called by Prefect at import."""
    if not sys.argv:
        return None
    program = program_of(sys.argv, sys.orig_argv)
    sys.argv[1:] = expand([program, *sys.argv[1:]])[1:]
    if not _is_prefect(program):
        return None
    workspace = Path(os.environ.get("LTX2_WORKSPACE", "workspace"))
    found = server_settings(workspace)
    if NO_OTHER in found and _asks_a_server(sys.argv):
        raise SystemExit(f"No server runs for {workspace.resolve()}. Start it: `make serve` or `ltx2 serve`")
    return SetupResult(env=found)
