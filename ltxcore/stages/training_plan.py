"""How the transformer of a training is placed on this machine: from the recipe, the snapshot and headers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from ltxcore.config.batch_size import AUTO, BatchSize, clips_of
from ltxcore.config.conditioning_settings import (
    TEMPORAL_FACTOR,
    FirstFrame,
    Mask,
    Prefix,
    SpatialCrop,
    Suffix,
    VideoConditioning,
)
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.cards import Card, card_like
from ltxcore.memory.fallback import Exhausted, next_plan
from ltxcore.memory.plan import GIB, MemoryPlan
from ltxcore.memory.planner import Budget, NothingFits, Planner, TrainingPlan, Workload
from ltxcore.memory.remedies import choose_or_advise
from ltxcore.memory.sharing import shared_plan
from ltxcore.memory.sizes import Shapes, TransformerSizes
from ltxcore.models.teacher import width_of
from ltxcore.stages.context import Context
from ltxcore.stages.contract import TRAIN
from ltxcore.stages.placing import arrangement_of, forced_by
from ltxcore.stages.reports import reference_tokens, video_tokens
from ltxcore.store.snapshot import Sample

# What the system and other programs keep of host memory where the recipe names no budget.
HOST_SHARE = 0.9
# What the connectors' outputs may take of what is free on the workspace's disk.
DISK_SHARE = 0.5
CLASSES = {
    "Attention": ("to_q", "to_k", "to_v", "to_out.0", "to_gate_logits"),
    "FeedForward": ("net.0.proj", "net.2"),
}
"""The linears inside of modules of a class."""
# The feature extractor: its output is stored, so training never loads it to the device.
_EXTRACTOR = "text_proj_in"


@dataclass(frozen=True)
class Machine:
    """The device that a stage plans for: what it may have of it, and how fast it is."""

    card: Card
    budget: Budget

    @classmethod
    def of(cls, ctx: Context, device_bytes: int, device_name: str) -> Machine:
        ram = ctx.recipe.memory.ram_gib or psutil.virtual_memory().total * HOST_SHARE / GIB
        card = card_like(device_name, device_bytes / GIB, ram)
        root = next(folder for folder in (ctx.workspace.root, *ctx.workspace.root.parents) if folder.exists())
        disk = int(shutil.disk_usage(root).free * DISK_SHARE)
        return cls(card, replace(Budget.of(card), disk_bytes=disk))


def plan_on_device(
    ctx: Context, machine: Machine, failed: Sequence[Exhausted] = (), last: bool = False
) -> MemoryPlan | None:
    """The fastest plan that keeps within the budget; after plans that failed, the next smaller one.

    None where every plan takes as much as one that has failed.

    Args:
        failed: what ran out of memory before.
        last: there is no try after this one.

    Raises:
        NothingFits: none does; says what would.
        StrategyUnavailable: the recipe asks for what this model or machine cannot do.
    """
    planner, work = planner_of(ctx, machine.card), workload_of(ctx)
    if ctx.recipe.processes.shared_out:
        return None if failed else _plan_shared(ctx, planner, work, machine)
    precision = ctx.recipe.model.base_model_precision
    forced = forced_by(ctx.recipe.memory, planner.sizes.blocks, precision, device="cuda")
    if not failed:
        plan = choose_or_advise(planner, work, machine.budget, precision, forced)
        return _memory_plan(plan, arrangement_of(plan, planner.sizes.blocks, forced), machine)
    # Recomputing activations gives the same adapter: for want of memory the recipe's `false` gives way.
    work = replace(work, checkpointing=True)
    plans = planner.variants(work, machine.budget, precision, forced)
    found = next_plan(plans, machine.budget, failed, last)
    if found is None:
        return None
    return _memory_plan(found, arrangement_of(found, planner.sizes.blocks, forced), machine)


def _plan_shared(ctx: Context, planner: Planner, work: Workload, machine: Machine) -> MemoryPlan:
    """The one plan of processes that share the transformer out.

    Raises:
        NothingFits: it does not.
    """
    plan = shared_plan(planner, work, ctx.recipe.processes.count)
    if not plan.fits(machine.budget):
        raise NothingFits(plan, work, machine.budget, "; more processes would share it further")
    return _memory_plan(plan, Arrangement("sharded"), machine)


def _memory_plan(plan: TrainingPlan, arrangement: Arrangement, machine: Machine) -> MemoryPlan:
    return MemoryPlan(
        stage=TRAIN.name,
        weights_bytes=plan.weights_bytes,
        adapter_bytes=plan.adapter_bytes,
        activations_bytes=plan.device_bytes - plan.weights_bytes - plan.adapter_bytes,
        on_device=True,
        budget_bytes=machine.budget.device_bytes,
        strategy=plan.told,
        arrangement=arrangement,
        host_bytes=plan.host_bytes,
    )


def planner_of(ctx: Context, card: Card) -> Planner:
    """The planner for a context's model."""
    return planner_for(
        ctx.source.shapes("transformer"),
        ctx.source.shapes("connectors"),
        ctx.source.config("transformer"),
        card,
        value_bytes=2 if ctx.recipe.training.mixed_precision == "bf16" else 4,
    )


def planner_for(
    transformer: Shapes, connectors: Shapes, config: Mapping[str, Any], card: Card, value_bytes: int
) -> Planner:
    """A planner for a model's shapes, whether they come from headers or from the versions table."""
    sizes = sizes_of(transformer, config)
    run = [math.prod(shape) for name, shape in connectors.items() if _EXTRACTOR not in name]
    # Each connector's output is as wide as the registers that fill its padding.
    widths = sum(shape[-1] for name, shape in connectors.items() if name.endswith("learnable_registers"))
    return Planner(sizes, sum(run) * value_bytes, card, widths)


def sizes_of(transformer: Shapes, config: Mapping[str, Any]) -> TransformerSizes:
    """A transformer's sizes from its shapes and its configuration."""
    return TransformerSizes(
        transformer,
        width=config["num_attention_heads"] * config["attention_head_dim"],
        audio_width=config["audio_num_attention_heads"] * config["audio_attention_head_dim"],
    )


def adapted(settings: LoraSettings, default: tuple[str, ...]) -> tuple[str, ...]:
    """Suffixes of the linears that a recipe adapts; `default` where it names none.

    Of a preset's classes, those of the attentions and of the feed-forwards are told apart; any other class
    may hold both.
    """
    preset = None if settings.lycoris is None else settings.lycoris.apply_preset
    if settings.lora_targets is not None:
        return settings.lora_targets
    if preset is None or not preset.target_module:
        return default
    every = tuple(suffix for suffixes in CLASSES.values() for suffix in suffixes)
    found = [CLASSES.get(kind.removeprefix("LTX2"), every) for kind in preset.target_module]
    return tuple(dict.fromkeys(suffix for suffixes in found for suffix in suffixes))


def given_frames(video: VideoConditioning) -> int | None:
    """Latent frames that conditions give at most, all at once; None: any token may be given.

    A clip's first latent is one frame of it, each other one eight.
    """
    if video.frozen or any(isinstance(c, SpatialCrop | Mask) for c in video.conditions):
        return None
    found = 0
    for condition in video.conditions:
        if isinstance(condition, FirstFrame):
            found += 1
        elif isinstance(condition, Prefix):
            found += (condition.frames[1] - 1) // TEMPORAL_FACTOR + 1
        elif isinstance(condition, Suffix):
            found += condition.frames[1] // TEMPORAL_FACTOR
    return found


def workload_of(ctx: Context) -> Workload:
    """A step on the bucket whose batch has the most tokens."""
    largest = largest_sample(ctx.snapshot.samples, ctx.recipe.training.train_batch_size)
    return workload_on(ctx, largest)


def largest_sample(samples: Sequence[Sample], size: BatchSize) -> Sample:
    """A sample of the bucket whose batch has the most tokens."""
    return max(samples, key=lambda s: (video_tokens(s) * clips_of(size, s.bucket), s.id))


def workload_on(ctx: Context, sample: Sample) -> Workload:
    """A step on the bucket of a sample."""
    samples, training = ctx.snapshot.samples, ctx.recipe.training
    width, height = sample.geometry.target
    # The empty caption of the caption dropout is one more.
    captions = 1 + len({caption for sample in samples for caption in sample.captions})
    size = training.train_batch_size
    batch = 1 if size == AUTO else clips_of(size, sample.bucket)
    steps = training.max_train_steps * training.gradient_accumulation_steps * batch
    epochs = training.num_train_epochs * sum(sample.visits * sample.probability for sample in samples)
    return replace(
        workload(
            ctx.recipe,
            batch=batch,
            width=width,
            height=height,
            frames=sample.frames.count,
            fps=sample.frames.fps,
            audio=any(sample.audio is not None for sample in samples),
            pictures=any(sample.kind != "audio" for sample in samples),
            text_tokens=ctx.source.text_max_tokens,
            reference_tokens=reference_tokens(sample),
        ),
        captions=captions,
        visits=int(steps or epochs),
    )


def workload(
    recipe: Recipe,
    *,
    batch: int,
    width: int,
    height: int,
    frames: int,
    fps: float,
    audio: bool,
    text_tokens: int,
    pictures: bool = True,
    reference_tokens: int = 0,
) -> Workload:
    """A step of a recipe on one bucket.

    Args:
        audio: whether the data has sound.
        pictures: whether it has anything else.
        reference_tokens: given beside the bucket's own.
    """
    from ltxcore.training.lora import default_targets

    training = recipe.training
    return Workload(
        width,
        height,
        frames,
        batch=batch,
        fps=fps,
        audio=audio,
        text_tokens=text_tokens,
        rank=recipe.lora.rank_by_size,
        targets=adapted(recipe.lora, default_targets(audio, pictures, recipe.given.frozen)),
        lycoris=recipe.lora.lycoris,
        averaged=training.use_ema,
        tread=recipe.tread,
        given_frames=given_frames(recipe.given.video),
        dropout=recipe.lora.lora_dropout > 0,
        per_token_times=recipe.given.per_token,
        reference_tokens=reference_tokens,
        checkpointing=training.gradient_checkpointing,
        value_bytes=2 if training.mixed_precision == "bf16" else 4,
        teacher_width=width_of(recipe.crepa) if recipe.crepa.crepa_enabled else 0,
    )
