"""Every stage's work. Apart from their requests, so that a process that only asks imports none of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ltxcore.pipeline.base.contract import AUDIO, FRAMES, LATENTS, PROBE, RENDER, TEXT, TRAIN
from ltxcore.pipeline.base.work import Work
from ltxcore.stages.embed_frames.work import EmbedFrames
from ltxcore.stages.embed_text.work import EmbedText
from ltxcore.stages.encode_latents.work import EncodeLatents
from ltxcore.stages.probe_media.work import ProbeMedia
from ltxcore.stages.render_validation.work import RenderValidation
from ltxcore.stages.split_audio.work import SplitAudio
from ltxcore.stages.train_lora.work import TrainLora

WORKS: Mapping[str, type[Work[Any]]] = {
    PROBE.name: ProbeMedia,
    AUDIO.name: SplitAudio,
    LATENTS.name: EncodeLatents,
    TEXT.name: EmbedText,
    FRAMES.name: EmbedFrames,
    TRAIN.name: TrainLora,
    RENDER.name: RenderValidation,
}
