"""What the result of split-audio depends on."""

from __future__ import annotations

from typing import Any, NamedTuple

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import AUDIO
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.pipeline.data.keys import Key, waveform_key
from ltxcore.store.snapshot import Sample, SoundSelection
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
    return [cut.key.value for cut in _cuts(ctx)]


class Cut(NamedTuple):
    """A sound of a sample: its own, or the one that is given beside it."""

    sample: Sample
    sound: SoundSelection

    @property
    def key(self) -> Key:
        """The key of its waveform."""
        return waveform_key(self.sample.media_id, self.sound)


def to_do(ctx: Context, store: WaveformStore) -> list[Cut]:
    """One sound for each waveform that is missing, in a fixed order."""
    wanted = {cut.key.value: cut for cut in _cuts(ctx)}
    return [wanted[key] for key in store.missing(wanted)]


def _cuts(ctx: Context) -> list[Cut]:
    return [Cut(sample, sound) for sample in ctx.snapshot.samples for sound in sample.sounds]
