"""What the result of train-lora depends on."""

from __future__ import annotations

from typing import Any

from ltxcore.config.preservation_settings import PreservationSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.scheduled_sampling_settings import ScheduledSamplingSettings
from ltxcore.config.tread_settings import TreadSettings
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import FRAMES, TRAIN
from ltxcore.pipeline.base.stamp import Stamp, stage_directory
from ltxcore.pipeline.data.held_out import held_out
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.stages.embed_frames.request import needs as embed_frames_needs
from ltxcore.stages.embed_frames.request import quarantined as embed_frames_quarantined
from ltxcore.stages.embed_frames.request import request as embed_frames_request
from ltxcore.stages.embed_text.request import needs as embed_text_needs
from ltxcore.stages.embed_text.request import space_request
from ltxcore.stages.encode_latents.request import needs as encode_latents_needs
from ltxcore.stages.encode_latents.request import quarantined as encode_latents_quarantined
from ltxcore.stages.encode_latents.request import request as encode_latents_request
from ltxcore.stages.train_lora.control import decisions
from ltxcore.stages.train_lora.first_lora import first_lora_request
from ltxcore.store.latents import LatentStore

# These say how often a training is saved, where it begins and what it refuses, not what it computes.
NOT_IN_REQUEST = {
    "checkpoint_step_interval",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "allow_small_buckets",
}


def request(ctx: Context) -> dict[str, Any]:
    """Data, latent and text spaces, weights, and the parts of the recipe that change a number."""
    ctx = settle(ctx)
    latents, text = encode_latents_request(ctx), space_request(ctx)
    training = ctx.recipe.training.fingerprint_data()
    if not any(sample.loss_mask for sample in ctx.snapshot.samples):
        del training["loss_mask_probability"]
    return {
        **latents,
        **text,
        "quarantined": sorted(encode_latents_quarantined(ctx, LatentStore(ctx.store))),
        "transformer": ctx.source.fingerprint("transformer"),
        "connectors": ctx.source.fingerprint("connectors"),
        "lora": ctx.recipe.lora.fingerprint_data(),
        **first_lora_request(ctx),
        "conditioning": ctx.recipe.conditioning.fingerprint_data(),
        "training": {key: value for key, value in training.items() if key not in NOT_IN_REQUEST}
        # The same batches make a step whether processes compute them beside or after one another.
        | {"gradient_accumulation_steps": ctx.recipe.batches_a_step},
        "trigger": trigger(ctx),
        **techniques(ctx.recipe),
        **crepa_request(ctx),
        **evaluation_request(ctx),
    }


def trigger(ctx: Context) -> str:
    """The trigger words: the recipe's, or else the datasets' instance prompts."""
    if ctx.recipe.lora.trigger is not None:
        return ctx.recipe.lora.trigger
    own = {sample.trigger for sample in ctx.snapshot.samples if not sample.regularisation}
    return ", ".join(sorted(own - {""}))


def techniques(recipe: Recipe) -> dict[str, Any]:
    """The sections of techniques that are in use."""
    parts: dict[str, TreadSettings | ScheduledSamplingSettings | PreservationSettings]
    parts = {
        "tread": recipe.tread,
        "scheduled_sampling": recipe.scheduled_sampling,
        "preservation": recipe.preservation,
    }
    return {name: settings.fingerprint_data() for name, settings in parts.items() if settings.enabled}


def crepa_request(ctx: Context) -> dict[str, Any]:
    """CREPA's part: the teacher's features and how they enter the loss; nothing where it is off."""
    if not ctx.recipe.crepa.crepa_enabled:
        return {}
    unseen = embed_frames_quarantined(ctx, LatentStore(ctx.store))
    features = {**embed_frames_request(ctx), "version": FRAMES.version, "quarantined": sorted(unseen)}
    return {"crepa": {**ctx.recipe.crepa.loss_data(), **features}}


def evaluation_request(ctx: Context) -> dict[str, Any]:
    """The held-out clips and the evaluation settings; empty if nothing is held out."""
    settings = ctx.recipe.evaluation
    if not settings.holds_out:
        return {}
    chosen = sorted(held_out(settings, ctx.snapshot))
    return {"evaluation": settings.fingerprint_data(), "held_out": chosen}


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    found = encode_latents_needs(ctx) | embed_text_needs(ctx)
    if ctx.recipe.crepa.crepa_enabled:
        found["latents"] = found["latents"] + embed_frames_needs(ctx)["latents"]
    return found


def present(ctx: Context, stamp: Stamp) -> bool:
    """Whether the training still ends where it ended: one that was stopped and kept may go on since."""
    stopped = stamp.stopped_after
    return stopped is None or decisions(stage_directory(ctx.workspace, TRAIN, stamp.request)).last == stopped
