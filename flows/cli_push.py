"""`ltx2 push`: the LoRA of a run that is over, to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli_options import STORE_FAULTS, WorkspaceOption, refuse
from flows.hub_token import token_here
from ltxcore.config.base import parse
from ltxcore.config.errors import ConfigError
from ltxcore.config.hub_settings import HubSettings
from ltxcore.models.errors import ModelError
from ltxcore.publishing.errors import HubError
from ltxcore.publishing.token import require_token
from ltxcore.stages.finished_run import NEWEST, open_run
from ltxcore.stages.publication import publish
from ltxcore.stages.sweep import UnknownRun
from ltxcore.store.locks import in_use
from ltxcore.store.workspace import Workspace

console = Console(highlight=False, soft_wrap=True)
NOT_UPLOADED = 1


def push(
    run: Annotated[str, typer.Argument(help="The name of a run. Default: the newest.")] = NEWEST,
    workspace: WorkspaceOption = Path("workspace"),
    hub_model_id: Annotated[
        str | None, typer.Option(help="`owner/name` or `name`. Default: what the run's recipe says.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make the repository public if it is made now.")
    ] = False,
) -> None:
    """Upload the LoRA of a finished run, its samples and a model card; what the hub has is not sent again."""
    changes: dict[str, object] = {"push_to_hub": True}
    if hub_model_id is not None:
        changes["hub_model_id"] = hub_model_id
    if public:
        changes["hub_private"] = False
    try:
        ctx, folder = open_run(Workspace(workspace), run)
        settings: HubSettings = parse(
            HubSettings, {**ctx.recipe.hub.model_dump(), **changes}, f"run {folder.name}"
        )
        token = require_token(token_here(workspace))
    except (ConfigError, HubError, UnknownRun, ValueError, *STORE_FAULTS) as error:
        raise refuse(error) from None
    try:
        # No sweep takes it away meanwhile.
        with in_use(ctx.workspace.run_lock(folder)):
            pushed = publish(ctx, folder, settings, token)
    except (HubError, ModelError, *STORE_FAULTS) as error:
        raise refuse(error, status=NOT_UPLOADED) from None
    told = f"{pushed.files} files sent" if pushed.files else "the hub has all of it already"
    console.print(f"{pushed.repo}: {told}\n{pushed.url}", markup=False)
