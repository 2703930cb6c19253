"""`ltx2 push`: the LoRA of a run that is over, to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import (
    STORE_FAULTS,
    JsonOption,
    NoWorkspace,
    WorkspaceOption,
    at_work,
    existing_workspace,
    refuse,
    show_json,
)
from flows.hub_token import token_here
from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.hub_settings import HubSettings
from ltxcore.execution.sweep import UnknownRun
from ltxcore.jobs.publish.finished_run import NEWEST, open_run
from ltxcore.jobs.publish.publication import publish
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.tables import counted
from ltxcore.publishing.errors import HubError
from ltxcore.publishing.token import require_token

console = Console(highlight=False, soft_wrap=True)
NOT_UPLOADED = 1


def push(
    run: Annotated[
        str, typer.Argument(help="The name of a run. Default: the newest that is finished.")
    ] = NEWEST,
    workspace: WorkspaceOption = Path("workspace"),
    hub_model_id: Annotated[
        str | None, typer.Option(help="`owner/name` or `name`. Default: the run's recipe.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public if this command creates it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload the LoRA of a finished run, its samples and a model card. Files that the hub has are not sent
    again."""
    changes: dict[str, object] = {"push_to_hub": True}
    if public:
        changes["hub_private"] = False
    try:
        ctx, folder = open_run(existing_workspace(workspace), run)
        changes["hub_model_id"] = hub_model_id or _asked_repository(ctx, folder)
        settings: HubSettings = parse(
            HubSettings, {**ctx.recipe.hub.model_dump(), **changes}, f"run {folder.name}"
        )
        token = require_token(token_here(workspace))
    except (ConfigError, HubError, NoWorkspace, UnknownRun, ValueError, *STORE_FAULTS) as error:
        raise refuse(error) from None
    try:
        # No sweep takes it away meanwhile.
        with ctx.workspace.going_on(folder), at_work(f"sending what the hub lacks of run {folder.name}"):
            pushed = publish(ctx, folder, settings, token)
    except (HubError, ModelError, OSError, *STORE_FAULTS) as error:
        raise refuse(error, status=NOT_UPLOADED) from None
    if as_json:
        show_json(pushed.model_dump(mode="json"))
        return
    sent = f"{counted(pushed.files, 'file')} sent" if pushed.files else "the hub has all of it already"
    console.print(f"{pushed.repo}: {sent}, of run {folder.name}\n{pushed.url}", markup=False)


def _asked_repository(ctx: Context, folder: Path) -> str:
    """The repository that a run's recipe names.

    Raises:
        ConfigError: it names none.
    """
    asked = ctx.recipe.hub.hub_model_id
    if asked is None:
        advice = (
            "say where to: `ltx2 push --hub-model-id my-name/my-lora`, or my-lora for a repository of the "
            "token's owner; the recipe of this run has no hub_model_id"
        )
        raise ConfigError(f"run {folder.name}", [Problem("", advice)])
    return asked
