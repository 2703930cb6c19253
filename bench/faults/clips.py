"""Clips that exist as plans alone; what the store holds of them follows from its keys."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ltxcore.config.arithmetic import resolve_arithmetic
from ltxcore.config.recipe import Recipe
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.keys import Key, TextSpace, waveform_key
from ltxcore.pipeline.data.prompts import all_texts
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.store.blobs import Blobs
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.latents import LatentStore
from ltxcore.store.snapshot import FrameSelection, Geometry, Sample, Snapshot, SoundSelection
from ltxcore.store.workspace import Workspace

LATENT_SHAPE = (2, 3)
SOUND_SHAPE = (2, 4)
TEXT_WIDTH = 2


class SharedWorkspace(Workspace):
    """A workspace whose store is given, so that it may be one in a folder that passes for an object store."""

    def __init__(self, root: Path, blobs: Blobs) -> None:
        super().__init__(root)
        self._blobs = blobs

    @property
    def store(self) -> Blobs:
        return self._blobs


class NamedModel:
    """Of a model the names of its parts, which is what keys are made of."""

    text_max_tokens = 16

    def fingerprint(self, part: str) -> str:
        """The part's name."""
        return f"{part}-of-a-model"

    def encoder_fingerprint(self, part: str) -> str:
        """The part's name."""
        return f"{part}-encoder-of-a-model"


@dataclass(frozen=True)
class ClipContext(Context):
    """A context whose model is a name, with the precisions of a CPU."""

    recipe: Recipe = field(default_factory=lambda: resolve_arithmetic(Recipe(), "cpu")[0])

    @cached_property
    def source(self) -> Any:
        return NamedModel()


@dataclass(frozen=True)
class Clip:
    """What a dataset holds under a name: a content, and its caption."""

    content: int
    caption: int


def content_id(number: int) -> str:
    """The media id of a content."""
    return fingerprint(f"content {number}")


def snapshot_of(clips: Mapping[str, Clip]) -> Snapshot:
    """The snapshot that probe-media would make of a dataset."""
    samples = tuple(_sample(name, clip) for name, clip in sorted(clips.items()))
    return Snapshot(roots={"clips": "/clips"}, samples=samples, rejections=(), wants_audio=True, fps=(25.0,))


def _sample(name: str, clip: Clip) -> Sample:
    return Sample(
        id=f"clips/{name}",
        dataset="clips",
        path=name,
        media_id=content_id(clip.content),
        captions=(f"caption {clip.caption}",),
        frames=FrameSelection(indices=(0,), fps=25.0, start_s=0.0),
        geometry=Geometry(source=(64, 64), resize=(64, 64), crop_xy=(0, 0), target=(64, 64)),
        audio=SoundSelection(start_s=0.0, duration_s=1.0, channels=2, layout="stereo"),
        source_fps=25.0,
        source_duration_s=1.0,
    )


def keys_of(ctx: Context) -> dict[str, dict[str, Key]]:
    """Part of the store -> value of a key -> key, of all that a snapshot needs."""
    spaces, texts = spaces_of(ctx, LatentStore(ctx.store)), TextSpace.of(ctx.source, ctx.recipe)
    found: dict[str, list[Key]] = {"audio": [], "latents": [], "text": []}
    for sample in ctx.snapshot.samples:
        if sample.audio is None:
            raise ValueError(f"{sample.id} has no sound")
        found["audio"].append(waveform_key(sample.media_id, sample.audio))
        found["latents"] += [spaces.video_key(sample), spaces.audio_key(sample, sample.audio)]
    found["text"] += [texts.key(text) for text in all_texts(ctx.recipe, ctx.snapshot)]
    return {part: {key.value: key for key in keys} for part, keys in found.items()}


def latent_of(key: str) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The latents of a key, bf16 bits."""
    return np.frombuffer(_bytes(key), np.uint16)[:6].reshape(LATENT_SHAPE)


def sound_of(key: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The waveform of a key."""
    return np.frombuffer(_bytes(key), np.uint8)[:8].astype(np.float32).reshape(SOUND_SHAPE)


def text_of(key: str) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The features of a caption: one to three tokens."""
    tokens = 1 + _bytes(key)[0] % 3
    return np.frombuffer(_bytes(key), np.uint16)[: tokens * TEXT_WIDTH].reshape(tokens, TEXT_WIDTH)


def _bytes(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
