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
from ltxcore.stages.split_audio.request import Cut, all_keys, to_do
from ltxcore.store.waveforms import Waveform, WaveformStore

DECODES_AT_ONCE = processes_at_once()
BATCH_CLIPS = 64


def split_batch(ctx: Context, store: WaveformStore, cuts: Sequence[Cut], on_clip: Callable[[], None]) -> None:
    """Decode a batch of sounds and commit them; what cannot be decoded is quarantined.

    Needs the caller to hold the writer's lock `audio`.

    Raises:
        ClipsUndecided: ffmpeg was stopped at some clips; the others are committed.
    """
    from ltxcore.media.audio import decode_audio

    def decode(cut: Cut) -> Waveform | MediaError:
        held = cut.sample if cut.sound.sound is None else cut.sound.sound

        def decoded(path: Path) -> Waveform:
            waveform: Waveform = decode_audio(path, cut.sound).numpy()
            return waveform

        return guard.read(held.dataset, held.path, held.media_id, decoded)

    guard = ContentGuard(ctx)
    waveforms: dict[str, Waveform] = {}
    errors: dict[str, str] = {}
    undecided: dict[str, Undecided] = {}
    keys = [cut.key for cut in cuts]
    with ThreadPoolExecutor(DECODES_AT_ONCE) as pool:
        for cut, key, result in zip(cuts, keys, pool.map(decode, cuts), strict=True):
            if isinstance(result, Undecided):
                undecided[cut.sample.id] = result
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


class SplitAudio(Work[Sequence[Cut]]):
    """The waveforms of a snapshot that are missing."""

    counted, doing = "clips", "cutting sound at the frames"
    loading, unit = "", "split-batch"

    def __init__(self, asked: Assignment) -> None:
        super().__init__(asked)
        self._store = WaveformStore(self.ctx.store)
        self._waiting = to_do(self.ctx, self._store)

    def total(self) -> int:
        return len(self._waiting)

    def units(self) -> Iterator[Sequence[Cut]]:
        return in_batches(self._waiting, BATCH_CLIPS)

    def do(self, unit: Sequence[Cut]) -> None:
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
