"""split-audio: the sound that belongs to each sample's frames, as 16 kHz stereo waveforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ltxcore.media.errors import MediaError, Undecided
from ltxcore.media.ffmpeg_process import processes_at_once
from ltxcore.pipeline.base.batches import in_batches
from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.stamp import Outcome
from ltxcore.pipeline.base.work import Assignment, Result, Work
from ltxcore.pipeline.data.content_guard import ContentGuard
from ltxcore.pipeline.data.keys import waveform_key
from ltxcore.stages.split_audio.request import all_keys, to_do
from ltxcore.store.snapshot import Sample, SoundSelection
from ltxcore.store.waveforms import Waveform, WaveformStore

DECODES_AT_ONCE = processes_at_once()
BATCH_CLIPS = 64


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
        plan = _audio(sample)
        held = sample if plan.sound is None else plan.sound

        def decoded(path: Path) -> Waveform:
            waveform: Waveform = decode_audio(path, plan).numpy()
            return waveform

        return guard.read(held.dataset, held.path, held.media_id, decoded)

    guard = ContentGuard(ctx)
    waveforms: dict[str, Waveform] = {}
    errors: dict[str, str] = {}
    undecided: dict[str, Undecided] = {}
    keys = [waveform_key(sample.media_id, _audio(sample)) for sample in samples]
    with ThreadPoolExecutor(DECODES_AT_ONCE) as pool:
        for sample, key, result in zip(samples, keys, pool.map(decode, samples), strict=True):
            if isinstance(result, Undecided):
                undecided[sample.id] = result
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


def _audio(sample: Sample) -> SoundSelection:
    if sample.audio is None:
        raise ValueError(f"{sample.id} has no sound to split")
    return sample.audio


class SplitAudio(Work[Sequence[Sample]]):
    """The waveforms of a snapshot that are missing."""

    counted, doing = "clips", "cutting sound at the frames"
    loading, unit = "", "split-batch"

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self._store = WaveformStore(self.ctx.store)
        self._waiting = to_do(self.ctx, self._store)

    def total(self) -> int:
        return len(self._waiting)

    def units(self) -> Iterator[Sequence[Sample]]:
        return in_batches(self._waiting, BATCH_CLIPS)

    def do(self, unit: Sequence[Sample]) -> None:
        split_batch(self.ctx, self._store, unit, self.asked.progress.advance)

    def outcome(self) -> Result:
        keys, done = set(all_keys(self.ctx)), len(self._waiting)
        samples = self.ctx.snapshot.samples
        sounding = [s for s in samples if s.audio is not None and not s.audio.is_silence]
        counts = {
            "clips": len(keys),
            "done": done,
            "hits": len(keys) - done,
            "quarantined": sum(self._store.error(key) is not None for key in keys),
            "samples_with_sound": len(sounding),
            "samples_padded": sum(s.audio is not None and s.audio.heard_s is not None for s in sounding),
            "samples_as_silent": sum(s.audio is not None and s.audio.is_silence for s in samples),
            "clips_without_sound": sum(s.audio is None and s.kind == "video" for s in samples),
        }
        seconds = round(sum(s.audio.duration_s for s in sounding if s.audio), 2)
        return Result(Outcome(counts=counts, facts={"seconds_of_sound": seconds}))


WORK = SplitAudio
