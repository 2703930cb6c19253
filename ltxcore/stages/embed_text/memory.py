"""What embed-text needs of memory: Gemma whole, in groups of layers, or one layer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltxcore.config.recipe import Recipe
from ltxcore.config.value_types import FP32_BYTES, type_bytes
from ltxcore.config.weight_precisions import NO_CHANGE
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.plan import MemoryPlan, largest_layer_bytes, layer_count, text_activations_bytes
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TEXT
from ltxcore.pipeline.plan.stage_plan import Changes, component_bytes, stage_plan

LAYER_BY_LAYER, GROUP_OFFLOAD = "layer_by_layer", "group_offload"
# Tokens of captions that pass Gemma together where it is read layer by layer.
LAYERED_TOKENS = 32_768


def steps(recipe: Recipe) -> Sequence[Changes]:
    """Gemma one layer at a time, unless the recipe says how it is loaded.

    A quantised one is resident: its layers are quantised as they are read, which once for every batch would
    take too long.
    """
    asked = recipe.model
    whole = (asked.text_encoder_loading, asked.text_encoder_1_precision) == ("auto", NO_CHANGE)
    if not whole or recipe.memory.ramtorch_text_encoder:
        return ()
    return ({"model": {"text_encoder_loading": LAYER_BY_LAYER}},)


def _require_device(recipe: Recipe, device: str) -> None:
    """See that there is a device for what the recipe keeps out of its memory."""
    if recipe.memory.ramtorch_text_encoder and device != "cuda":
        raise StrategyUnavailable(
            "ramtorch_text_encoder keeps Gemma out of a CUDA device's memory, and this machine has no such "
            "device; leave it out, or write model.text_encoder_loading: layer_by_layer"
        )


def weights_bytes(ctx: Context) -> int:
    """Gemma, and the feature extractor among the connectors."""
    return component_bytes(ctx, ("text_encoder", "connectors"), _value_bytes(ctx))


def plan(ctx: Context, device: str) -> MemoryPlan:
    """By how the recipe has Gemma loaded.

    Raises:
        StrategyUnavailable: the recipe keeps it out of a device's memory, and there is no such device; says
            what to write instead.
    """
    _require_device(ctx.recipe, device)
    if ctx.recipe.model.text_encoder_loading == LAYER_BY_LAYER:
        return _plan_layers(ctx, device)
    if ctx.recipe.model.text_encoder_loading == GROUP_OFFLOAD:
        return _plan_groups(ctx, device)
    return stage_plan(ctx, TEXT, device, weights=weights_bytes(ctx), activations=_activations_bytes(ctx))


def _value_bytes(ctx: Context) -> int:
    return type_bytes(ctx.recipe.model.text_encoder_dtype)


def _activations_bytes(ctx: Context) -> int:
    connectors = ctx.source.config("connectors")
    return text_activations_bytes(
        tokens=ctx.source.text_max_tokens,
        width=connectors["caption_channels"],
        states=connectors["text_proj_in_factor"],
        captions=1,
        value_bytes=_value_bytes(ctx),
    )


def _plan_layers(ctx: Context, device: str) -> MemoryPlan:
    """Two layers of Gemma, the projection by layers, and the states and sums of one pass of captions."""
    config = ctx.source.config("connectors")
    channels, states = config["caption_channels"], config["text_proj_in_factor"]
    outputs = channels
    if config.get("per_modality_projections"):
        outputs = config["video_hidden_dim"] + config["audio_hidden_dim"]
    value_bytes = _value_bytes(ctx)
    # On a device the projection waits in host memory, and one layer's part of it is there in float32.
    projection = FP32_BYTES * outputs * channels
    if device != "cuda":
        projection += value_bytes * outputs * channels * states
    pass_bytes = LAYERED_TOKENS * (value_bytes * channels + FP32_BYTES * outputs)
    layers = 2 * largest_layer_bytes(ctx.source.shapes("text_encoder"), value_bytes)
    work = pass_bytes + _activations_bytes(ctx) // states
    found = stage_plan(ctx, TEXT, device, weights=layers + projection, activations=work)
    return replace(found, strategy="layer by layer")


def _plan_groups(ctx: Context, device: str) -> MemoryPlan:
    """On a device two groups of Gemma's layers, and what is outside them; on the host all of it."""
    shapes, memory = ctx.source.shapes("text_encoder"), ctx.recipe.memory
    weights = weights_bytes(ctx)
    if device == "cuda":
        layer = largest_layer_bytes(shapes, _value_bytes(ctx))
        weights -= layer * max(0, layer_count(shapes) - 2 * memory.group_offload_blocks_per_group)
    found = stage_plan(ctx, TEXT, device, weights=weights, activations=_activations_bytes(ctx))
    return replace(found, strategy="group offload")
