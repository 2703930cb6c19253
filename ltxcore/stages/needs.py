"""Telling the store what a stage's request stands on, so that no sweep takes it away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltxcore.stages.context import Context
from ltxcore.stages.contract import Stage
from ltxcore.stages.stamp import stage_directory
from ltxcore.store.lease import writing
from ltxcore.store.refs import Ref, Refs


def ensure_needs(
    ctx: Context,
    stage: Stage,
    request: dict[str, Any],
    needs: Callable[[Context], Mapping[str, Sequence[str]]],
) -> None:
    """Note what a request needs, where that is not noted: the workspace, or its store, may be another."""
    directory = ctx.workspace.relative(stage_directory(ctx.workspace, stage, request))
    if not Refs(ctx.store).has(ctx.workspace.id, directory):
        publish_needs(ctx, stage, request, needs(ctx))


def publish_needs(
    ctx: Context, stage: Stage, request: dict[str, Any], needs: Mapping[str, Sequence[str]]
) -> None:
    """Note in the store what a request needs of it."""
    if not needs:
        return
    ref = Ref(
        workspace=str(ctx.workspace.root),
        directory=ctx.workspace.relative(stage_directory(ctx.workspace, stage, request)),
        needs={part: tuple(sorted(set(keys))) for part, keys in needs.items()},
    )
    with writing(ctx.store, "refs", f"{stage.name} of {ctx.workspace.root}"):
        Refs(ctx.store).publish(ctx.workspace.id, ref)
