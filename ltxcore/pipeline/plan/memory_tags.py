"""Predicted beside measured memory, as tags of the training's MLflow run."""

from __future__ import annotations

from ltxcore.memory.measure import measure_peaks
from ltxcore.memory.plan import GIB, MemoryPlan
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import FRAMES, LATENTS, TEXT
from ltxcore.pipeline.base.stamp import Stamp, newest_stamp


def memory_tags(ctx: Context, plan: MemoryPlan) -> dict[str, str]:
    """Of the stage at work by `plan`, with this process's peak so far, and of the stages before it."""
    peaks = measure_peaks()
    tags = _tags(plan.stage, plan.facts(), peaks.vram_bytes if plan.on_device else peaks.rss_bytes)
    for stage in (LATENTS, TEXT, *([FRAMES] if ctx.recipe.crepa.crepa_enabled else [])):
        stamp = newest_stamp(ctx.workspace, stage)
        if stamp is not None and "memory" in stamp.outcome.facts:
            tags |= _tags(stage.name, stamp.outcome.facts["memory"], _measured(stamp))
    return tags


def _measured(stamp: Stamp) -> int:
    on_device = stamp.outcome.facts["memory"]["on_device"]
    return stamp.peak_vram_bytes if on_device else stamp.peak_rss_bytes


def _tags(stage: str, facts: dict[str, object], measured_bytes: int) -> dict[str, str]:
    predicted, budget = (int(str(facts[name])) for name in ("predicted_bytes", "budget_bytes"))
    return {
        f"memory.{stage}.strategy": str(facts["strategy"]),
        f"memory.{stage}.predicted_gib": f"{predicted / GIB:.2f}",
        f"memory.{stage}.measured_gib": f"{measured_bytes / GIB:.2f}",
        f"memory.{stage}.budget_gib": f"{budget / GIB:.2f}",
    }
