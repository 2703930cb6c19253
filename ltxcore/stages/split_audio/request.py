"""What the result of split-audio depends on."""

from __future__ import annotations

from typing import Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import AUDIO
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.data.keys import waveform_key
from ltxcore.store.snapshot import Sample
from ltxcore.store.waveforms import WaveformStore


def request(ctx: Context) -> dict[str, Any]:
    """All that the waveforms depend on, as plain JSON."""
    return {"data": ctx.require_snapshot(AUDIO).data_id}


def present(ctx: Context, stamp: Stamp) -> bool:
    """Whether the store still has every waveform."""
    return not WaveformStore(ctx.store).missing(all_keys(ctx))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"audio": all_keys(ctx)}


def all_keys(ctx: Context) -> list[str]:
    """The keys of all samples' waveforms."""
    return [waveform_key(s.media_id, s.audio).value for s in ctx.snapshot.samples if s.audio]


def to_do(ctx: Context, store: WaveformStore) -> list[Sample]:
    """One sample for each waveform that is missing, in a fixed order."""
    wanted = {waveform_key(s.media_id, s.audio).value: s for s in ctx.snapshot.samples if s.audio}
    return [wanted[key] for key in store.missing(wanted)]
