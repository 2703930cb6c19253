"""Records in the store what a stage's request needs, so that no sweep deletes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.stamp import stage_directory
from ltxcore.store.needed import keep_needed
from ltxcore.store.refs import Refs


def ensure_needs(
    ctx: Context,
    stage: Stage,
    request: dict[str, Any],
    needs: Callable[[Context], Mapping[str, Sequence[str]]],
) -> None:
    """Record what a request needs, if that is not on record: the workspace or its store may have changed."""
    directory = ctx.workspace.relative(stage_directory(ctx.workspace, stage, request))
    if not Refs(ctx.store).has(ctx.workspace.id, directory):
        publish_needs(ctx, stage, request, needs(ctx))


def publish_needs(
    ctx: Context, stage: Stage, request: dict[str, Any], needs: Mapping[str, Sequence[str]]
) -> None:
    """Record in the store which keys a request needs."""
    if not needs:
        return
    directory = ctx.workspace.relative(stage_directory(ctx.workspace, stage, request))
    keep_needed(ctx.workspace, directory, needs, stage.name)
