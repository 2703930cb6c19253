"""`ltx2 notify`: sends messages when a training is done or has failed."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from flows.cli.options import WorkspaceOption, refuse
from flows.environment import prefect_home
from flows.readiness import ServerError
from flows.secret import client_environment
from flows.server import find_server

console = Console()
ADDRESS: Final = "LTX2_NOTIFY_URL"
KINDS: Final = ("webhook", "slack")
FAILED: Final = 1


def notify(
    workspace: WorkspaceOption = Path("workspace"),
    to: Annotated[str, typer.Option(help=f"{' or '.join(KINDS)}. It asks for the address.")] = "webhook",
    block: Annotated[
        str, typer.Option(help="A notification block made in Prefect's UI, as TYPE/NAME, in place of --to.")
    ] = "",
    off: Annotated[bool, typer.Option("--off", help="Stop sending messages.")] = False,
) -> None:
    """Send a message when a run of train-ltx2 completes or fails, and a test message now; needs `ltx2 serve`.

    The address is a secret: it is typed here unseen, or taken from LTX2_NOTIFY_URL, and kept in a block of
    Prefect. --block names a block of any other kind that Prefect has: e-mail, Teams, Discord, PagerDuty, …
    """
    server = find_server(workspace)
    if server is None:
        message = f"no server runs for {workspace.resolve()}; start `ltx2 serve` first"
        raise refuse(ServerError(message), status=FAILED)
    if to not in KINDS:
        raise refuse(
            ValueError(f"--to is {to!r}; give {' or '.join(KINDS)}, or a block by --block TYPE/NAME")
        )
    os.environ |= {"PREFECT_API_URL": server.url, **client_environment(prefect_home(workspace))}
    # Prefect reads the environment when it is imported.
    from prefect import get_client

    from flows.notifications import (
        NotificationRefused,
        block_for,
        named_block,
        send_trial,
        set_up,
        turn_off,
        use,
    )

    if off:
        console.print(f"off: {', '.join(turn_off()) or 'nothing was on'}", markup=False, highlight=False)
        return
    try:
        if block:
            with get_client(sync_client=True) as client:
                sender, document = named_block(client, block)
            send_trial(sender)
            names = use(document)
        else:
            sender = block_for("slack" if to == "slack" else "webhook", _address(to))
            send_trial(sender)
            names = set_up(sender)
    except NotificationRefused as error:
        raise refuse(error, status=FAILED) from None
    console.print(f"a test message was sent; automations: {', '.join(names)}", markup=False, highlight=False)


def _address(to: str) -> str:
    given = os.environ.get(ADDRESS, "")
    if given:
        return given
    if not sys.stdin.isatty():
        raise refuse(LookupError(f"there is no terminal to ask in; set {ADDRESS} to the address"))
    answer: str = typer.prompt(f"Address of the {to}", hide_input=True)
    return answer.strip()
