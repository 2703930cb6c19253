"""What the result of render-validation depends on."""

from __future__ import annotations

from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.data.prompts import validation_prompts
from ltxcore.stages.embed_text.request import needs as embed_text_needs
from ltxcore.stages.embed_text.request import space_request
from ltxcore.stages.encode_latents.request import needs as encode_latents_needs
from ltxcore.stages.render_validation.prompt_pictures import keyframe_request
from ltxcore.stages.render_validation.rendered_lora import training_key
from ltxcore.stages.render_validation.runs import adapter_request
from ltxcore.stages.render_validation.standalone_models import standalone_request


def request(ctx: Context) -> dict[str, Any]:
    """The training, the prompts and their text space, and what decodes."""
    return {
        "training": training_key(ctx),
        **({"step": ctx.step} if ctx.step else {}),
        "prompts": validation_prompts(ctx.recipe, ctx.snapshot),
        "validation": rendering_settings(ctx),
        **adapter_request(ctx),
        **standalone_request(ctx),
        **keyframe_request(ctx),
        **space_request(ctx),
        **{name: ctx.source.fingerprint(name) for name in ("vae", "audio_vae", "vocoder")},
    }


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    latents = encode_latents_needs(ctx) if ctx.recipe.validation.validation_using_datasets else {}
    return embed_text_needs(ctx) | latents


def present(ctx: Context, stamp: Stamp) -> bool:
    """Always true: the stamp's files are the whole result, and they were checked already."""
    return True


def rendering_settings(ctx: Context) -> dict[str, Any]:
    """The settings a rendering depends on; the validation interval is not one."""
    settings = ctx.recipe.validation.fingerprint_data()
    return {key: value for key, value in settings.items() if key != "validation_step_interval"}
