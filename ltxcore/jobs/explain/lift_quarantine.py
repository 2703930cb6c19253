"""Lifts the quarantine of clips, so that the next run tries them again."""

from __future__ import annotations

from collections.abc import Mapping

from ltxcore.config.errors import nearest
from ltxcore.jobs.explain.explain import UnknownClip
from ltxcore.pipeline.base.context import Context
from ltxcore.store.latents import LatentStore
from ltxcore.store.lease import writing
from ltxcore.store.locks import OnWait
from ltxcore.store.records import Quarantined
from ltxcore.store.snapshot import Sample
from ltxcore.store.waveforms import WaveformStore


def lift_quarantine(ctx: Context, clip: str | None, on_wait: OnWait | None = None) -> list[str]:
    """Lift the quarantine of contents; returns the names of their clips in the snapshot.

    Args:
        clip: id, path or file name of one clip; None: everything that is quarantined in the store.
        on_wait: called with the store's writer while this waits for it.

    Raises:
        UnknownClip: there is no such clip in the snapshot, with the nearest names.
        UnknownSnapshot: probe-media has not run.
    """
    samples = ctx.snapshot.samples if clip is None else _named(ctx.snapshot.samples, clip)
    owners = {media: sample.id for sample in samples for media in _contents(sample)}
    sounds = {key: str(record.inputs["media"]) for key, record in WaveformStore(ctx.store).index.items()}
    lifted: set[str] = set()
    for part, index in (("audio", WaveformStore(ctx.store).index), ("latents", LatentStore(ctx.store).index)):
        with writing(ctx.store, part, f"retry of {ctx.workspace.root}", on_wait=on_wait):
            index.refresh()
            contents = {
                key: _content(record, sounds)
                for key, record in index.items()
                if isinstance(record, Quarantined)
            }
            going = {key: media for key, media in contents.items() if clip is None or media in owners}
            index.commit(dict.fromkeys(going))
            lifted |= {owners.get(media, f"the content {media[:12]}") for media in going.values()}
    return sorted(lifted)


def _named(samples: tuple[Sample, ...], clip: str) -> list[Sample]:
    found = [s for s in samples if clip in (s.id, s.path) or s.id.endswith(f"/{clip}")]
    if not found:
        raise UnknownClip(
            f"no clip of the newest snapshot is {clip!r}; {nearest(clip, [s.id for s in samples])}"
        )
    return found


def _contents(sample: Sample) -> list[str]:
    """The contents that a sample uses: its own, its sounds', its references' and its masks'."""
    return [
        sample.media_id,
        *(sound.sound.media_id for sound in sample.sounds if sound.sound is not None),
        *(condition.media_id for condition in sample.conditioning_clips),
    ]


def _content(record: Quarantined, sounds: Mapping[str, str]) -> str:
    """The content behind a quarantined key; audio latents name the waveform in between."""
    return str(record.inputs.get("media") or sounds.get(record.inputs.get("waveform", ""), "unknown"))
