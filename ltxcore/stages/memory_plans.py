"""The memory plans of the stages that load models, for a context."""

from __future__ import annotations

from dataclasses import replace

from ltxcore.config.crepa_settings import PATCH
from ltxcore.memory.alignment import alignment_bytes, projector_values
from ltxcore.memory.device import device_budget_bytes, device_name
from ltxcore.memory.plan import (
    ADAPTER_BYTES_PER_PARAMETER,
    GIB,
    MemoryPlan,
    adapter_bytes,
    host_budget_bytes,
    largest_layer_bytes,
    teacher_activations_bytes,
    text_activations_bytes,
    training_activations_bytes,
    vae_activations_bytes,
)
from ltxcore.models.teacher import width_of
from ltxcore.models.vae_ways import VaeWay, asked_way
from ltxcore.stages.context import Context
from ltxcore.stages.contract import FRAMES, LATENTS, RENDER, TEXT, TRAIN, Stage, asked_stages
from ltxcore.stages.reports import Row, video_tokens
from ltxcore.stages.training_plan import choose_for_device, forced_arrangement
from ltxcore.validation.plan import plan_rendering

BF16_BYTES, FP32_BYTES = 2, 4
LAYER_BY_LAYER = "layer_by_layer"
# Tokens of captions that pass Gemma together where it is read layer by layer.
LAYERED_TOKENS = 32_768


def plan_stage(ctx: Context, stage: Stage, device: str = "cpu") -> MemoryPlan:
    """What a stage needs beside the interpreter: weights, and the work space of its largest item."""
    if stage is TRAIN:
        return plan_training(ctx, device)
    if stage is TEXT and ctx.recipe.model.text_encoder_loading == LAYER_BY_LAYER:
        return _plan_layers(ctx, device)
    value_bytes = BF16_BYTES
    if stage is LATENTS and ctx.recipe.encode.vae_dtype == "fp32":
        value_bytes = FP32_BYTES
    work = {
        LATENTS.name: _encoding_bytes,
        TEXT.name: _text_bytes,
        FRAMES.name: _teacher_bytes,
        RENDER.name: _decoding_bytes,
    }[stage.name]
    plan = _plan(ctx, stage, device, _weights(ctx, stage, value_bytes), 0, work(ctx, value_bytes))
    way = asked_way(ctx.recipe.encode)
    return replace(plan, strategy=way.name) if stage is LATENTS and way != VaeWay() else plan


def _encoding_bytes(ctx: Context, value_bytes: int) -> int:
    settings, channels = ctx.recipe.encode, ctx.source.config("vae")["block_out_channels"][0]
    way = asked_way(settings)
    clips = 1 if settings.vae_enable_slicing else settings.vae_batch_size
    sizes = {(sample.frames.count, *sample.geometry.target) for sample in ctx.snapshot.samples}
    return clips * max((_vae_bytes(way, size, channels, value_bytes) for size in sizes), default=0)


def _decoding_bytes(ctx: Context, value_bytes: int) -> int:
    plan = plan_rendering(ctx.recipe.validation)
    size = plan.num_frames, plan.width, plan.height
    channels = ctx.source.config("vae")["decoder_block_out_channels"][0]
    # Pieces along time are for the encoder, which looks back alone.
    return _vae_bytes(VaeWay(None, asked_way(ctx.recipe.encode).tiles), size, channels, value_bytes)


def _vae_bytes(way: VaeWay, size: tuple[int, int, int], channels: int, value_bytes: int) -> int:
    frames, width, height = way.at_once(*size)
    return vae_activations_bytes(
        frames=frames, width=width, height=height, channels=channels, value_bytes=value_bytes
    )


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


def plan_training(ctx: Context, device: str = "cpu") -> MemoryPlan:
    """Weights, adapter with its optimizer, and the activations of the largest bucket.

    Raises:
        NothingFits, StrategyUnavailable: on a device, see `choose_for_device`.
    """
    budget = device_budget_bytes(device, ctx.recipe.memory.vram_gib)
    if budget is not None:
        return choose_for_device(ctx, budget, device_name()).as_memory_plan()
    settings = ctx.recipe.training
    value_bytes = BF16_BYTES if settings.mixed_precision == "bf16" else FP32_BYTES
    config = ctx.source.config("transformer")
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = max(video_tokens(sample) for sample in ctx.snapshot.samples)
    activations = training_activations_bytes(
        tokens=tokens,
        width=width,
        blocks=config["num_layers"],
        checkpointing=settings.gradient_checkpointing,
        batch=settings.train_batch_size,
    )
    suffixes = ctx.recipe.lora.lora_targets or ("to_q", "to_k", "to_v", "to_out.0")
    adapter = adapter_bytes(ctx.source.shapes("transformer"), tuple(suffixes), ctx.recipe.lora.lora_rank)
    if ctx.recipe.crepa.crepa_enabled:
        widths = {"width": width, "teacher_width": width_of(ctx.recipe.crepa)}
        adapter += ADAPTER_BYTES_PER_PARAMETER * projector_values(**widths)
        activations += alignment_bytes(tokens=tokens, batch=settings.train_batch_size, **widths)
    plan = _plan(ctx, TRAIN, device, _weights(ctx, TRAIN, value_bytes), adapter, activations)
    return replace(plan, strategy=forced_arrangement(ctx).strategy)


def plan_rows(ctx: Context, measured: dict[str, int] | None = None, device: str = "cpu") -> list[Row]:
    """One row for each stage that loads models, with the measured peak where there is one."""
    plans = [plan_stage(ctx, stage, device) for stage in asked_stages(ctx.recipe) if stage.models]
    return [plan_row(plan, (measured or {}).get(plan.stage, 0)) for plan in plans]


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
    weights = _weights(ctx, stage, BF16_BYTES) if stage.models else 0
    processes = ctx.recipe.processes.count if stage is TRAIN else 1
    return host_budget_bytes(ctx.recipe.memory.ram_gib, processes * (weights + int(stage.ram_gib * GIB)))


def _weights(ctx: Context, stage: Stage, value_bytes: int) -> int:
    if stage is FRAMES:
        return ctx.teacher.resident_bytes(value_bytes)
    parts = {"text_projection": "connectors"}
    components = {parts.get(name, name) for name in stage.models if name != "tokenizer"}
    return sum(ctx.source.resident_bytes(component, value_bytes) for component in components)


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
