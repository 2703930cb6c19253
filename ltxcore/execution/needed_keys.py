"""Records in the store what a stage's request needs, so that no sweep deletes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import Stage
from ltxcore.pipeline.base.stamp import stage_directory
from ltxcore.store.index import FOLDERS, Index
from ltxcore.store.lease import writing
from ltxcore.store.records import FORMS
from ltxcore.store.refs import Ref, Refs


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
    ref = Ref(
        workspace=str(ctx.workspace.root),
        directory=ctx.workspace.relative(stage_directory(ctx.workspace, stage, request)),
        needs={part: tuple(sorted(set(keys))) for part, keys in needs.items()},
    )
    with writing(ctx.store, "refs", f"{stage.name} of {ctx.workspace.root}"):
        Refs(ctx.store).publish(ctx.workspace.id, ref)
        for part, keys in ref.needs.items():
            for folder in FOLDERS[part]:
                Index(ctx.store, folder, FORMS[folder]).keep(keys)
