"""How the transformer of a training is placed on this machine: from the recipe, the snapshot and headers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ltxcore.config.batch_size import AUTO, BatchSize, clips_of
from ltxcore.config.conditioning_settings import (
    FirstFrame,
    Keyframes,
    Mask,
    Prefix,
    SpatialCrop,
    Suffix,
    VideoConditioning,
)
from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.value_types import type_bytes
from ltxcore.memory.plan import GIB, machine_bytes
from ltxcore.memory.planner.cards import Card, card_like
from ltxcore.memory.planner.sizes import Shapes, TransformerSizes
from ltxcore.memory.planner.training_planner import Budget, Planner, Workload
from ltxcore.models.shapes import full_shapes
from ltxcore.models.teacher import width_of
from ltxcore.models.versions import VERSIONS
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.class_captions import captions_of
from ltxcore.pipeline.data.keyframes import keyframe_tokens
from ltxcore.pipeline.data.tokens import reference_sound_tokens, reference_tokens, video_tokens
from ltxcore.store.snapshot import Sample
from ltxcore.training.targets import default_targets

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
        """This machine: a card of `device_bytes`, the recipe's host memory and the workspace's free disk."""
        ram = ctx.recipe.memory.ram_gib or machine_bytes() * HOST_SHARE / GIB
        card = card_like(device_name, device_bytes / GIB, ram)
        root = next(folder for folder in (ctx.workspace.root, *ctx.workspace.root.parents) if folder.exists())
        disk = int(shutil.disk_usage(root).free * DISK_SHARE)
        return cls(card, replace(Budget.of(card), disk_bytes=disk))


def planner_of(ctx: Context, card: Card) -> Planner:
    """The planner for a context's model."""
    return planner_for(
        ctx.source.shapes("transformer"),
        ctx.source.shapes("connectors"),
        ctx.source.config("transformer"),
        card,
        value_bytes=type_bytes(ctx.recipe.training.mixed_precision),
    )


def released_planner(version: str, card: Card, value_bytes: int) -> Planner:
    """The planner for a version at its released size, as `2.0`."""
    shapes = full_shapes(version)
    config = VERSIONS[version].transformer
    return planner_for(shapes["transformer"], shapes["connectors"], config, card, value_bytes)


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

    Of a preset's classes, attentions and feed-forwards are distinguished; any other class may contain both.
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
        if isinstance(condition, FirstFrame) or (isinstance(condition, Keyframes) and min(condition.at) <= 0):
            found += 1
        elif isinstance(condition, Prefix):
            found += GEOMETRY.latent_frames(condition.frames[1])
        elif isinstance(condition, Suffix):
            found += condition.frames[1] // GEOMETRY.temporal_factor
    return found


def workload_of(ctx: Context) -> Workload:
    """A step on the bucket whose batch has the most tokens."""
    recipe = ctx.recipe
    largest = largest_sample(
        ctx.snapshot.samples, recipe.training.train_batch_size, recipe.given.video.keyframes
    )
    return workload_on(ctx, largest)


def largest_sample(samples: Sequence[Sample], size: BatchSize, keyframes: Keyframes | None) -> Sample:
    """A sample of the bucket whose batch has the most tokens."""
    return max(samples, key=lambda s: (video_tokens(s, keyframes) * clips_of(size, s.bucket), s.id))


def workload_on(ctx: Context, sample: Sample) -> Workload:
    """A step on the bucket of a sample."""
    samples, training = ctx.snapshot.samples, ctx.recipe.training
    width, height = sample.geometry.target
    # The empty caption of the caption dropout is one more.
    captions = 1 + len(captions_of(ctx.recipe, samples))
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
        beside_sound_tokens=reference_sound_tokens(sample),
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
        reference_tokens: of references, given beside the bucket's own; those of keyframes follow from the
            recipe.
    """
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
        beside_tokens=reference_tokens + keyframe_tokens(recipe.given.video.keyframes, frames, width, height),
        checkpointing=training.gradient_checkpointing,
        value_bytes=type_bytes(training.mixed_precision),
        teacher_width=width_of(recipe.crepa) if recipe.crepa.crepa_enabled else 0,
    )
