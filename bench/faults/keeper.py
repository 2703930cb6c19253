"""What pipelines do with a store that two workspaces share: runs of the data stages, on made-up clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.faults.clips import (
    Clip,
    ClipContext,
    SharedWorkspace,
    content_id,
    keys_of,
    latent_of,
    snapshot_of,
    sound_of,
    text_of,
)
from ltxcore.execution.execution import Execution, find_result, note_up_to_date
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, PROBE, TEXT, Stage
from ltxcore.pipeline.base.stamp import Outcome
from ltxcore.pipeline.data.keys import Key
from ltxcore.stages.probe_media.work import snapshot_outcome
from ltxcore.store.blobs import Blobs, write_json
from ltxcore.store.index import IndexDamaged
from ltxcore.store.latents import Encoded, LatentsLost, LatentStore
from ltxcore.store.lease import writing
from ltxcore.store.texts import Embedded, TextLost, TextStore
from ltxcore.store.waveforms import WaveformLost, WaveformStore

PARTS: Mapping[str, Stage] = {"audio": AUDIO, "latents": LATENTS, "text": TEXT}
QUARANTINED = b"quarantined"
State = dict[str, tuple[str, bytes]]
"""Key -> the part of the store that it is in, and its content, or `QUARANTINED`."""


class Harmed(AssertionError):
    """Something is committed and is not whole, or is gone and was needed."""


@dataclass(frozen=True)
class Run:
    """A run of the data stages of a workspace."""

    space: SharedWorkspace
    name: str
    clips: Mapping[str, Clip]
    broken: Collection[int] = ()
    """Contents that cannot be decoded."""

    @property
    def ctx(self) -> Context:
        """A context of the latest snapshot."""
        return ClipContext(self.space)

    def work(self, between: Callable[[], object] = lambda: None) -> None:
        """Do what is missing, stage by stage, and stamp it; `between` happens when a stage's work is done."""
        folder = self.space.run(self.name)
        with self.space.going_on(folder):
            write_json(self.space.runs / "newest.json", {"run": self.name})
            snapshot = snapshot_of(self.clips)
            probed = Execution(PROBE, self.ctx, {"files": snapshot.id}, folder)
            self.space.save_snapshot(snapshot)
            probed.finish(snapshot_outcome(snapshot, len(snapshot.samples)))
            for part, stage in PARTS.items():
                ctx = self.ctx
                request, found = find_result(stage, ctx)
                if found is not None:
                    note_up_to_date(stage, ctx, found, folder)
                    continue
                execution = Execution(stage, ctx, request, folder)
                with writing(ctx.store, part, "histories"):
                    self._put(part, ctx.store, keys_of(ctx)[part])
                between()
                execution.finish(Outcome())

    def _put(self, part: str, blobs: Blobs, keys: Mapping[str, Key]) -> None:
        bad = {content_id(number) for number in self.broken} if part == "audio" else set()
        broken = {value: key for value, key in keys.items() if key.inputs.get("media") in bad}
        put(part, blobs, {value: key for value, key in keys.items() if value not in broken})
        if broken:
            store = WaveformStore(blobs)
            missing = store.missing(broken)
            store.quarantine(
                dict.fromkeys(missing, "does not decode"), {value: broken[value].inputs for value in missing}
            )


def put(part: str, blobs: Blobs, keys: Mapping[str, Key]) -> None:
    """Store what is missing of some keys, in batches of two. The caller may hold the writer's lock."""
    kinds = {"audio": WaveformStore, "latents": LatentStore, "text": TextStore}
    store: WaveformStore | LatentStore | TextStore = kinds[part](blobs)
    missing = store.missing(keys)
    for start in range(0, len(missing), 2):
        batch = missing[start : start + 2]
        if isinstance(store, WaveformStore):
            store.put({key: sound_of(key) for key in batch}, {key: keys[key].inputs for key in batch})
        elif isinstance(store, TextStore):
            rows = [Embedded(key, key, text_of(key), None, inputs=keys[key].inputs) for key in batch]
            store.put(rows)
        else:
            _put_latents(store, batch, keys)


def _put_latents(store: LatentStore, batch: list[str], keys: Mapping[str, Key]) -> None:
    for kind in ("video", "audio"):
        rows = [
            Encoded(key, latent_of(key), keys[key].inputs)
            for key in batch
            if keys[key].inputs["kind"] == kind
        ]
        if rows:
            array = store.array_name(kind, "space", rows[0].bits.shape)
            store.reserve(array, rows[0].bits.shape, len(rows))
            store.put(array, rows)


def state_of(blobs: Blobs) -> State:
    """All that is committed, each read as the product reads it.

    Raises:
        Harmed: one is half there, or is another's.
    """
    try:
        return dict(_contents(blobs))
    except (LatentsLost, TextLost, WaveformLost, IndexDamaged) as error:
        raise Harmed(f"half there: {error}") from error


def _contents(blobs: Blobs) -> Iterator[tuple[str, tuple[str, bytes]]]:
    latents, sounds, texts = LatentStore(blobs), WaveformStore(blobs), TextStore(blobs)
    for key, _ in latents.index.items():
        yield key, ("latents", _same(key, latents.read(key), latent_of(key)))
    for key, _ in sounds.index.items():
        if sounds.error(key) is None:
            yield key, ("audio", _same(key, sounds.read(key), sound_of(key)))
        else:
            yield key, ("audio", QUARANTINED)
    for key, _ in texts.index.items():
        yield key, ("text", _same(key, texts.read(key).video, text_of(key)))


def _same(key: str, found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> bytes:
    if found.dtype != wanted.dtype or not np.array_equal(found, wanted):
        raise Harmed(f"{key} is another's: {found} in place of {wanted}")
    return found.tobytes()
