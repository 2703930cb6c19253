"""The memory plans of the stages that load models, for a context."""

from __future__ import annotations

from dataclasses import replace

from ltxcore.memory.device import device_budget_bytes, device_name
from ltxcore.memory.plan import (
    GIB,
    MemoryPlan,
    adapter_bytes,
    host_budget_bytes,
    text_activations_bytes,
    training_activations_bytes,
    vae_activations_bytes,
)
from ltxcore.stages.context import Context
from ltxcore.stages.contract import LATENTS, RENDER, STAGES, TEXT, TRAIN, Stage
from ltxcore.stages.reports import Row, video_tokens
from ltxcore.stages.training_plan import choose_for_device, forced_arrangement
from ltxcore.validation.plan import plan_rendering

BF16_BYTES, FP32_BYTES = 2, 4


def plan_stage(ctx: Context, stage: Stage, device: str = "cpu") -> MemoryPlan:
    """What a stage needs beside the interpreter: weights, and the work space of its largest item."""
    if stage is TRAIN:
        return plan_training(ctx, device)
    value_bytes = BF16_BYTES
    if stage is LATENTS and ctx.recipe.encode.vae_dtype == "fp32":
        value_bytes = FP32_BYTES
    work = {LATENTS.name: _encoding_bytes, TEXT.name: _text_bytes, RENDER.name: _decoding_bytes}[stage.name]
    return _plan(ctx, stage, device, _weights(ctx, stage, value_bytes), 0, work(ctx, value_bytes))


def _encoding_bytes(ctx: Context, value_bytes: int) -> int:
    channels = ctx.source.config("vae")["block_out_channels"][0]
    return max(
        vae_activations_bytes(
            frames=sample.frames.count,
            width=sample.geometry.target[0],
            height=sample.geometry.target[1],
            channels=channels,
            value_bytes=value_bytes,
        )
        for sample in ctx.snapshot.samples
    )


def _decoding_bytes(ctx: Context, value_bytes: int) -> int:
    plan = plan_rendering(ctx.recipe.validation)
    return vae_activations_bytes(
        frames=plan.num_frames,
        width=plan.width,
        height=plan.height,
        channels=ctx.source.config("vae")["decoder_block_out_channels"][0],
        value_bytes=value_bytes,
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
    activations = training_activations_bytes(
        tokens=max(video_tokens(sample) for sample in ctx.snapshot.samples),
        width=width,
        blocks=config["num_layers"],
        checkpointing=settings.gradient_checkpointing,
        batch=settings.train_batch_size,
    )
    suffixes = ctx.recipe.lora.lora_targets or ("to_q", "to_k", "to_v", "to_out.0")
    adapter = adapter_bytes(ctx.source.shapes("transformer"), tuple(suffixes), ctx.recipe.lora.lora_rank)
    plan = _plan(ctx, TRAIN, device, _weights(ctx, TRAIN, value_bytes), adapter, activations)
    return replace(plan, strategy=forced_arrangement(ctx).strategy)


def plan_rows(ctx: Context, measured: dict[str, int] | None = None, device: str = "cpu") -> list[Row]:
    """One row for each stage that loads models, with the measured peak where there is one."""
    rows = []
    for stage in STAGES:
        if not stage.models:
            continue
        plan = plan_stage(ctx, stage, device)
        rows.append(
            {
                "stage": stage.name,
                "strategy": plan.strategy,
                "weights GiB": round(plan.weights_bytes / GIB, 3),
                "adapter GiB": round(plan.adapter_bytes / GIB, 3),
                "work space GiB": round(plan.activations_bytes / GIB, 3),
                "predicted GiB": round(plan.total_bytes / GIB, 2),
                "budget GiB": round(plan.budget_bytes / GIB, 1),
                "measured GiB": round((measured or {}).get(stage.name, 0) / GIB, 2) or "",
            }
        )
    return rows


def _weights(ctx: Context, stage: Stage, value_bytes: int) -> int:
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
