"""The memory plans of the stages that load models, for a context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ltxcore.config.batch_size import clips_of
from ltxcore.config.crepa_settings import PATCH
from ltxcore.memory.alignment import alignment_bytes, projector_values
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.device import device_budget_bytes, device_name
from ltxcore.memory.fallback import Exhausted
from ltxcore.memory.plan import (
    ADAPTER_BYTES_PER_PARAMETER,
    GIB,
    MemoryPlan,
    OverBudget,
    adapter_bytes,
    host_budget_bytes,
    largest_layer_bytes,
    layer_count,
    teacher_activations_bytes,
    text_activations_bytes,
    training_activations_bytes,
)
from ltxcore.memory.planner import AVERAGE_BYTES
from ltxcore.memory.weight_changes import WeightChanges
from ltxcore.models.teacher import width_of
from ltxcore.models.vae_ways import WAYS, VaeWay, asked_way
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES, LATENTS, RENDER, TEXT, TRAIN, Stage, asked_stages
from ltxcore.stages.placing import forced_arrangement
from ltxcore.stages.rendering_plan import plan_rendering_on_device
from ltxcore.stages.reports import Row, video_tokens
from ltxcore.stages.training_plan import Machine, adapted, largest_sample, plan_on_device, sizes_of
from ltxcore.stages.vae_room import VaeRoom
from ltxcore.stages.validation_clips import plan_of_clips
from ltxcore.validation.plan import plan_rendering

BF16_BYTES, FP32_BYTES = 2, 4
LAYER_BY_LAYER, GROUP_OFFLOAD = "layer_by_layer", "group_offload"
PLACED = (TRAIN, RENDER)
"""The stages that run the transformer, whose weights the planner places."""
# Tokens of captions that pass Gemma together where it is read layer by layer.
LAYERED_TOKENS = 32_768


def plan_stage(ctx: Context, stage: Stage, device: str = "cpu") -> MemoryPlan:
    """What a stage needs beside the interpreter: weights, and the work space of its largest item.

    Raises:
        OverBudget, StrategyUnavailable: of the stages that run the transformer on a device: no plan fits, or
            the recipe asks for one that cannot be.
    """
    ctx = settled_for(ctx, stage)
    if (machine := machine_for(ctx, stage, device)) is not None:
        planned = plan_placed(ctx, stage, machine)
        if planned is None:
            raise RuntimeError(f"{stage.name} has no first plan")
        return planned
    if stage is TRAIN:
        return _plan_training(ctx)
    if stage is TEXT and ctx.recipe.model.text_encoder_loading == LAYER_BY_LAYER:
        return _plan_layers(ctx, device)
    if stage is TEXT and ctx.recipe.model.text_encoder_loading == GROUP_OFFLOAD:
        return _plan_groups(ctx, device)
    if stage is LATENTS:
        return _plan_encoding(ctx, device)
    value_bytes = BF16_BYTES
    work = {TEXT.name: _text_bytes, FRAMES.name: _teacher_bytes, RENDER.name: _decoding_bytes}[stage.name]
    plan = _plan(ctx, stage, device, _weights(ctx, stage, value_bytes), 0, work(ctx, value_bytes))
    if stage is RENDER:
        arrangement = forced_arrangement(ctx)
        return replace(plan, strategy=arrangement.strategy, arrangement=arrangement)
    return plan


def machine_for(ctx: Context, stage: Stage, device: str) -> Machine | None:
    """What a stage that runs the transformer plans with; None for others, and where there is no device."""
    if stage not in PLACED:
        return None
    budget = device_budget_bytes(device, ctx.recipe.memory.vram_gib)
    return None if budget is None else Machine.of(ctx, budget, device_name())


def settled_for(ctx: Context, stage: Stage) -> Context:
    """The context as a stage needs it: the others know nothing of the transformer, nor of batches."""
    return ctx.settled if stage in PLACED else ctx


def plan_placed(
    ctx: Context, stage: Stage, machine: Machine, failed: Sequence[Exhausted] = (), last: bool = False
) -> MemoryPlan | None:
    """The plan of a stage that runs the transformer on a device, after those that failed; None: none is left.

    Raises:
        OverBudget, StrategyUnavailable: see `plan_on_device` and `plan_rendering_on_device`.
    """
    plan = plan_on_device if stage is TRAIN else plan_rendering_on_device
    return plan(ctx, machine, failed, last)


def vae_room(ctx: Context, device: str) -> VaeRoom:
    """What encode-latents may take beside both VAEs' weights."""
    value_bytes = FP32_BYTES if ctx.recipe.encode.vae_dtype == "fp32" else BF16_BYTES
    empty = _plan(ctx, LATENTS, device, _weights(ctx, LATENTS, value_bytes), 0, 0)
    channels = ctx.source.config("vae")["block_out_channels"][0]
    return VaeRoom(empty.budget_bytes - empty.total_bytes, channels, value_bytes)


def _plan_encoding(ctx: Context, device: str) -> MemoryPlan:
    """Each size of clip in the fastest way that fits, from the recipe's own on."""
    settings, room = ctx.recipe.encode, vae_room(ctx, device)
    first, clips = asked_way(settings), 1 if settings.vae_enable_slicing else settings.vae_batch_size
    work, ways = 0, {first}
    pictures = [sample for sample in ctx.snapshot.samples if sample.kind != "audio"]
    for size in {(sample.frames.count, *sample.geometry.target) for sample in pictures}:
        way = room.way_for(first, size)
        ways.add(way)
        work = max(work, room.clips_for(way, size, clips) * room.work_bytes(way, size))
    plan = _plan(ctx, LATENTS, device, _weights(ctx, LATENTS, room.value_bytes), 0, work)
    smallest = max(ways, key=lambda way: WAYS.index(way) if way in WAYS else 0)
    return plan if smallest == VaeWay() else replace(plan, strategy=smallest.name)


def _decoding_bytes(ctx: Context, value_bytes: int) -> int:
    plan = plan_of_clips(ctx, plan_rendering(ctx.recipe.validation))
    size = plan.num_frames, plan.width, plan.height
    channels = ctx.source.config("vae")["decoder_block_out_channels"][0]
    # Pieces along time are for the encoder, which looks back alone.
    way = VaeWay(None, asked_way(ctx.recipe.encode).tiles)
    return VaeRoom(0, channels, value_bytes).work_bytes(way, size)


def _text_bytes(ctx: Context, value_bytes: int) -> int:
    connectors = ctx.source.config("connectors")
    return text_activations_bytes(
        tokens=ctx.source.text_max_tokens,
        width=connectors["caption_channels"],
        states=connectors["text_proj_in_factor"],
        captions=1,
        value_bytes=value_bytes,
    )


def _teacher_bytes(ctx: Context, value_bytes: int) -> int:
    settings = ctx.recipe.crepa
    return teacher_activations_bytes(
        tokens=(settings.crepa_encoder_image_size // PATCH) ** 2 + 1,
        width=width_of(settings),
        frames=settings.crepa_encoder_batch_size,
        value_bytes=value_bytes,
    )


def _plan_layers(ctx: Context, device: str) -> MemoryPlan:
    """Two layers of Gemma, the projection by layers, and the states and sums of one pass of captions."""
    config = ctx.source.config("connectors")
    channels, states = config["caption_channels"], config["text_proj_in_factor"]
    outputs = channels
    if config.get("per_modality_projections"):
        outputs = config["video_hidden_dim"] + config["audio_hidden_dim"]
    # On a device the projection waits in host memory, and one layer's part of it is there in float32.
    projection = FP32_BYTES * outputs * channels
    if device != "cuda":
        projection += BF16_BYTES * outputs * channels * states
    pass_bytes = LAYERED_TOKENS * (BF16_BYTES * channels + FP32_BYTES * outputs)
    layers = 2 * largest_layer_bytes(ctx.source.shapes("text_encoder"), BF16_BYTES)
    work = pass_bytes + _text_bytes(ctx, BF16_BYTES) // states
    return replace(_plan(ctx, TEXT, device, layers + projection, 0, work), strategy="layer by layer")


def _plan_groups(ctx: Context, device: str) -> MemoryPlan:
    """On a device two groups of Gemma's layers, and what is outside them; on the host all of it."""
    shapes, memory = ctx.source.shapes("text_encoder"), ctx.recipe.memory
    whole = _weights(ctx, TEXT, BF16_BYTES)
    weights = whole
    if device == "cuda":
        layer = largest_layer_bytes(shapes, BF16_BYTES)
        count = layer_count(shapes)
        weights = whole - layer * max(0, count - 2 * memory.group_offload_blocks_per_group)
    return replace(
        _plan(ctx, TEXT, device, weights, 0, _text_bytes(ctx, BF16_BYTES)), strategy="group offload"
    )


def _plan_training(ctx: Context) -> MemoryPlan:
    """In host memory: weights, adapter with its optimizer, and the activations of the largest bucket."""
    settings = ctx.recipe.training
    value_bytes = BF16_BYTES if settings.mixed_precision == "bf16" else FP32_BYTES
    config = ctx.source.config("transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    largest = largest_sample(ctx.snapshot.samples, settings.train_batch_size)
    tokens, batch = video_tokens(largest), clips_of(settings.train_batch_size, largest.bucket)
    activations = training_activations_bytes(
        tokens=tokens,
        width=width,
        blocks=config["num_layers"],
        checkpointing=settings.gradient_checkpointing,
        batch=batch,
    )
    suffixes = adapted(ctx.recipe.lora, ("to_q", "to_k", "to_v", "to_out.0"))
    adapter = adapter_bytes(ctx.source.shapes("transformer"), suffixes, ctx.recipe.lora.rank_by_size)
    if settings.use_ema:
        adapter += adapter * AVERAGE_BYTES // ADAPTER_BYTES_PER_PARAMETER
    if ctx.recipe.lora.lycoris is not None:
        sizes = sizes_of(ctx.source.shapes("transformer"), config)
        changes = WeightChanges.of(ctx.recipe.lora.lycoris, suffixes, value_bytes)
        activations += changes.step_bytes(sizes, sizes.blocks if settings.gradient_checkpointing else 0)
    if ctx.recipe.crepa.crepa_enabled:
        widths = {"width": width, "teacher_width": width_of(ctx.recipe.crepa)}
        adapter += ADAPTER_BYTES_PER_PARAMETER * projector_values(**widths)
        activations += alignment_bytes(tokens=tokens, batch=batch, **widths)
    arrangement = forced_arrangement(ctx)
    weights = _weights(ctx, TRAIN, value_bytes)
    if arrangement.connectors == "precomputed":
        # They are gone when the transformer is loaded.
        weights -= ctx.source.resident_bytes("connectors", value_bytes)
    plan = _plan(ctx, TRAIN, "cpu", weights, adapter, activations)
    return replace(plan, strategy=arrangement.strategy, arrangement=arrangement)


def plan_rows(ctx: Context, measured: dict[str, int] | None = None, device: str = "cpu") -> list[Row]:
    """One row for each stage that loads models, with the measured peak where there is one."""
    rows = []
    for stage in asked_stages(ctx.recipe):
        if not stage.models:
            continue
        try:
            rows.append(plan_row(plan_stage(ctx, stage, device), (measured or {}).get(stage.name, 0)))
        except (OverBudget, StrategyUnavailable) as error:
            # Said by the stage itself when its turn comes; here it is a line of a table.
            rows.append({"stage": stage.name, "strategy": str(error).splitlines()[0]})
    return rows


def plan_row(plan: MemoryPlan, measured_bytes: int = 0) -> Row:
    """A plan, and the peak that was measured beside it; 0 where none was yet."""
    return {
        "stage": plan.stage,
        "strategy": plan.strategy,
        "weights GiB": round(plan.weights_bytes / GIB, 3),
        "adapter GiB": round(plan.adapter_bytes / GIB, 3),
        "work space GiB": round(plan.activations_bytes / GIB, 3),
        "predicted GiB": round(plan.total_bytes / GIB, 2),
        "budget GiB": round(plan.budget_bytes / GIB, 1),
        "measured GiB": round(measured_bytes / GIB, 2) or "",
    }


def host_limit_bytes(ctx: Context, stage: Stage) -> int:
    """What a stage may hold of host memory: the recipe's budget, or its own beside the weights it loads."""
    weights = _weights(settled_for(ctx, stage), stage, BF16_BYTES) if stage.models else 0
    processes = ctx.recipe.processes.count if stage is TRAIN else 1
    return host_budget_bytes(ctx.recipe.memory.ram_gib, processes * (weights + int(stage.ram_gib * GIB)))


def _weights(ctx: Context, stage: Stage, value_bytes: int) -> int:
    if stage is FRAMES:
        return ctx.teacher.resident_bytes(value_bytes)
    parts = {"text_projection": "connectors"}
    components = {parts.get(name, name) for name in stage.models if name != "tokenizer"}
    if stage is LATENTS:
        components = _encoders(ctx)
    return sum(ctx.source.resident_bytes(component, value_bytes) for component in components)


def _encoders(ctx: Context) -> set[str]:
    """The VAEs that encoding loads: of pictures and of sound, where the data has any."""
    samples = ctx.snapshot.samples
    needed = {"vae": any(s.kind != "audio" for s in samples), "audio_vae": any(s.audio for s in samples)}
    return {name for name, is_needed in needed.items() if is_needed}


def _plan(
    ctx: Context, stage: Stage, device: str, weights: int, adapter: int, activations: int
) -> MemoryPlan:
    budget = device_budget_bytes(device, ctx.recipe.memory.vram_gib)
    granted = host_budget_bytes(ctx.recipe.memory.ram_gib, weights + int(stage.ram_gib * GIB))
    return MemoryPlan(
        stage=stage.name,
        weights_bytes=weights,
        adapter_bytes=adapter,
        activations_bytes=activations,
        on_device=budget is not None,
        budget_bytes=granted if budget is None else budget,
    )
