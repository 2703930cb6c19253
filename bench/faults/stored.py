"""Samples of each kind that a store holds, made from their numbers, and the store as the product reads it."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from functools import partial
from math import inf
from typing import Any

import numpy as np

from ltxcore.store.blobs import Blobs
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.latents import Encoded, LatentStore
from ltxcore.store.lease import writing
from ltxcore.store.sweep import sweep_part
from ltxcore.store.texts import Embedded, TextStore
from ltxcore.store.verify import verify
from ltxcore.store.waveforms import WaveformStore

State = dict[str, str]
"""What is committed: a name -> the hash of its content."""

SHAPE = (2, 3)
SAMPLES = 8
LEASE_S = 0.1
"""After a kill the next writer waits as long for an object store's lease."""
ARRAY = "latents/video/space/2x3"


class Torn(AssertionError):
    """A thing is committed and is not whole."""


def digest(*parts: Any) -> str:
    """A hash of bytes, arrays and plain values."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


def bits(number: int) -> np.ndarray:
    """The latents, or the features of a caption, of a number."""
    return np.full(SHAPE, number + 1, np.uint16)


def _writing(blobs: Blobs, part: str) -> AbstractContextManager[None]:
    return writing(blobs, part, "faults", lease_s=LEASE_S)


def put_latents(blobs: Blobs, count: int) -> None:
    """Latents 0 to `count`, as their one writer."""
    with _writing(blobs, "latents"):
        make_latents(LatentStore(blobs), count)


def make_latents(store: LatentStore, count: int) -> int:
    """Put what is missing of the latents 0 to `count`, in batches of two; returns how many that was."""
    missing = set(store.missing([f"latent-{n}" for n in range(count)]))
    waiting = [n for n in range(count) if f"latent-{n}" in missing]
    for start in range(0, len(waiting), 2):
        batch = waiting[start : start + 2]
        store.reserve(ARRAY, SHAPE, len(waiting) - start)
        inputs = {"kind": "video", "media": "m"}
        store.put(ARRAY, [Encoded(f"latent-{n}", bits(n), inputs) for n in batch])
    return len(waiting)


def put_waveforms(blobs: Blobs, count: int) -> None:
    """Sounds 0 to `count`."""
    with _writing(blobs, "audio"):
        store = WaveformStore(blobs)
        missing = store.missing([f"sound-{n}" for n in range(count)])
        waves = {key: np.full((2, 4), int(key[-1]), np.float32) for key in missing}
        store.put(waves, {key: {"kind": "waveform", "media": "m"} for key in missing})


def put_texts(blobs: Blobs, count: int) -> None:
    """Captions 0 to `count`, two to a file."""
    with _writing(blobs, "text"):
        store = TextStore(blobs)
        missing = store.missing([f"text-{n}" for n in range(count)])
        for start in range(0, len(missing), 2):
            batch = missing[start : start + 2]
            store.put([Embedded(k, k, bits(int(k[-1])), None, inputs={"kind": "text"}) for k in batch])


def store_state(blobs: Blobs) -> State:
    """Every committed sample of a store."""
    found = verify(blobs)
    if found.broken:
        raise Torn(f"half visible or lost: {found.broken}")
    latents, sounds, texts = LatentStore(blobs), WaveformStore(blobs), TextStore(blobs)
    state = {key: digest(latents.read(key)) for key, _ in latents.index.items()}
    state |= {key: digest(sounds.read(key)) for key, _ in sounds.index.items()}
    return state | {key: digest(texts.read(key).video) for key, _ in texts.index.items()}


def fill(blobs: Blobs) -> None:
    """All of each kind."""
    for put in (put_latents, put_waveforms, put_texts):
        put(blobs, SAMPLES)


def _still_needed(part: str, name: str) -> dict[str, set[str]]:
    return {part: {f"{name}-1", f"{name}-4"}}


def tidy(blobs: Blobs) -> None:
    """Sweep two thirds of a store away and compact what is left."""
    for part, name in (("latents", "latent"), ("audio", "sound"), ("text", "text")):
        with _writing(blobs, part), _writing(blobs, "refs"):
            sweep_part(blobs, part, partial(_still_needed, part, name), inf)
            compact(blobs, part, Compacted())
