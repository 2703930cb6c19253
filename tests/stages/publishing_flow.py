"""The beginning and the end of train-ltx2 where a LoRA is published, without the stages between."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from ltxcore.pipeline.base.context import Context
from tasks.hub import check_hub, push_to_hub


@flow(name="publishing")
def publishing(ctx: Context, run: Path) -> None:
    check_hub(ctx)
    push_to_hub(ctx, run)
