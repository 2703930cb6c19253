"""split-audio: the sound that belongs to each sample's frames, as 16 kHz stereo waveforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.ffmpeg_process import processes_at_once
from ltxcore.stages.context import Context
from ltxcore.stages.contract import AUDIO
from ltxcore.stages.keys import waveform_key
from ltxcore.stages.stamp import Outcome, Stamp
from ltxcore.stages.undecided import ClipsUndecided
from ltxcore.store.snapshot import AudioPlan, Sample
from ltxcore.store.waveforms import Waveform, WaveformStore

DECODES_AT_ONCE = processes_at_once()
BATCH_CLIPS = 64


def request(ctx: Context) -> dict[str, Any]:
    return {"data": ctx.require_snapshot(AUDIO).data_id}


def present(ctx: Context, stamp: Stamp) -> bool:
    return not WaveformStore(ctx.store).missing(all_keys(ctx))


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return {"audio": all_keys(ctx)}


def all_keys(ctx: Context) -> list[str]:
    return [waveform_key(s.media_id, s.audio).value for s in ctx.snapshot.samples if s.audio]


def to_do(ctx: Context, store: WaveformStore) -> list[Sample]:
    """One sample for each waveform that is missing, in a fixed order."""
    wanted = {waveform_key(s.media_id, s.audio).value: s for s in ctx.snapshot.samples if s.audio}
    return [wanted[key] for key in store.missing(wanted)]


def split_batch(
    ctx: Context, store: WaveformStore, samples: Sequence[Sample], on_clip: Callable[[], None]
) -> None:
    """Decode the sound of a batch of clips and commit it; what cannot be decoded is quarantined.

    Needs the caller to hold the writer's lock `audio`.

    Raises:
        ClipsUndecided: ffmpeg was stopped at some clips; the others are committed.
    """
    from ltxcore.media.audio import decode_audio

    def decode(sample: Sample) -> Waveform | MediaError:
        try:
            return decode_audio(ctx.snapshot.sound_file(sample), _audio(sample)).numpy()
        except MediaError as error:
            return error

    waveforms: dict[str, Waveform] = {}
    errors: dict[str, str] = {}
    undecided: dict[str, str] = {}
    keys = [waveform_key(sample.media_id, _audio(sample)) for sample in samples]
    with ThreadPoolExecutor(DECODES_AT_ONCE) as pool:
        for sample, key, result in zip(samples, keys, pool.map(decode, samples), strict=True):
            if isinstance(result, Undecided):
                undecided[sample.id] = str(result)
            elif isinstance(result, MediaError):
                errors[key.value] = f"its sound cannot be decoded: {result}"
            else:
                waveforms[key.value] = result
            on_clip()
    inputs = {key.value: key.inputs for key in keys}
    store.put(waveforms, inputs)
    store.quarantine(errors, inputs)
    if undecided:
        raise ClipsUndecided(undecided)


def _audio(sample: Sample) -> AudioPlan:
    if sample.audio is None:
        raise ValueError(f"{sample.id} has no sound to split")
    return sample.audio


def outcome(ctx: Context, store: WaveformStore, done: int) -> Outcome:
    keys = set(all_keys(ctx))
    samples = ctx.snapshot.samples
    sounding = [s for s in samples if s.audio is not None and not s.audio.is_silence]
    return Outcome(
        counts={
            "clips": len(keys),
            "done": done,
            "hits": len(keys) - done,
            "quarantined": sum(store.error(key) is not None for key in keys),
            "samples_with_sound": len(sounding),
            "samples_padded": sum(s.audio is not None and s.audio.heard_s is not None for s in sounding),
            "samples_as_silent": sum(s.audio is not None and s.audio.is_silence for s in samples),
            "clips_without_sound": sum(s.audio is None and s.kind == "video" for s in samples),
        },
        facts={"seconds_of_sound": round(sum(s.audio.duration_s for s in sounding if s.audio), 2)},
    )
