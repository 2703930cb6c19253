"""What the result of judge-lora depends on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ltxcore.judging.champions import Champion
from ltxcore.judging.frozen_clips import FrozenClip
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import STOPPED_AFTER, Stamp
from ltxcore.pipeline.data.keys import TextSpace
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.stages.judge_lora.challenger import challenger_of, judged_clips, opponent_of, promotion_of
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.latents import LatentStore


def request(ctx: Context) -> dict[str, Any]:
    """Both LoRAs, the clips as they are judged, and the gate.

    Once the LoRA is the champion, it is still the one before it that it was compared with: what is judged
    stays judged.
    """
    settings = promotion_of(ctx.recipe)
    training = challenger_of(ctx).training
    champion = opponent_of(ctx, training.fingerprint, training.request["transformer"])
    return {
        "training": training.fingerprint,
        # The same training may go on later, and have another LoRA then.
        **({} if training.stopped_after is None else {STOPPED_AFTER: training.stopped_after}),
        "promotion": settings.fingerprint_data(),
        "sigmas": list(ctx.recipe.evaluation.eval_sigmas),
        "seed": ctx.recipe.evaluation.eval_seed,
        "champion": None if champion is None else _named(champion),
        # Lists, which "changed: champion, clips" names without their content.
        "clips": [
            [
                clip.media_id,
                fingerprint(clip.sample.model_dump(mode="json"))[:16],
                "new" if clip.since == training.fingerprint else "known",
            ]
            for clip in judged_clips(ctx, training.fingerprint)
        ],
    }


def _named(champion: Champion) -> list[Any]:
    record = champion.record
    return [record.version, record.training, fingerprint(record.files)]


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return keys_of(ctx, judged_clips(ctx, challenger_of(ctx).training.fingerprint))


def keys_of(ctx: Context, clips: Iterable[FrozenClip]) -> dict[str, list[str]]:
    """Part of the store -> the keys of clips as they are judged."""
    clips = list(clips)
    spaces, text = spaces_of(ctx, LatentStore(ctx.store)), TextSpace.of(ctx.source, ctx.recipe)
    return {
        "latents": [key for clip in clips for key in spaces.keys(clip.sample)],
        "text": [text.key(clip.caption).value for clip in clips],
    }


def present(ctx: Context, stamp: Stamp) -> bool:
    """Always true: the stamp's files are the whole result, and they were checked already."""
    return True
