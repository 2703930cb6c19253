"""The code of each stage: here what its result depends on, in `works` its work. A stage is a line in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import AUDIO, FRAMES, LATENTS, PROBE, RENDER, TEXT, TRAIN, Stage
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.base.work import Work
from ltxcore.stages.embed_frames import request as embed_frames
from ltxcore.stages.embed_text import request as embed_text
from ltxcore.stages.encode_latents import request as encode_latents
from ltxcore.stages.probe_media import request as probe_media
from ltxcore.stages.render_validation import request as render_validation
from ltxcore.stages.split_audio import request as split_audio
from ltxcore.stages.train_lora import request as train_lora


class Request(Protocol):
    """What a stage's result depends on: a module `request.py`, which never loads torch."""

    def request(self, ctx: Context) -> dict[str, Any]:
        """All that the result depends on, as plain JSON."""

    def present(self, ctx: Context, stamp: Stamp) -> bool:
        """Whether what the stamp stands for is in place, beside the files that the stamp names."""

    def needs(self, ctx: Context) -> Mapping[str, list[str]]:
        """The keys of the store that this request stands on, by part of the store."""


REQUESTS: Mapping[str, Request] = {
    PROBE.name: probe_media,
    AUDIO.name: split_audio,
    LATENTS.name: encode_latents,
    TEXT.name: embed_text,
    FRAMES.name: embed_frames,
    TRAIN.name: train_lora,
    RENDER.name: render_validation,
}


@dataclass(frozen=True)
class StageCode:
    """A stage with its code."""

    stage: Stage
    request: Request
    load_work: Callable[[], type[Work[Any]]]
    """Imports the work: not before there is something to do."""


def code_of(stage: Stage) -> StageCode:
    """The code of one of the project's stages."""

    def load_work() -> type[Work[Any]]:
        from ltxcore.execution.works import WORKS

        return WORKS[stage.name]

    return StageCode(stage, REQUESTS[stage.name], load_work)
