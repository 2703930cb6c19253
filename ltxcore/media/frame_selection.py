"""The complete selection of each file: frames, sound and captions."""

from __future__ import annotations

from math import floor
from pathlib import Path
from typing import Any, NamedTuple

from ltxcore.config.dataset_blocks import AudioSettings, VideoSettings
from ltxcore.config.dataset_kinds import ImageDataset, Media, VideoDataset
from ltxcore.config.geometry import GEOMETRY
from ltxcore.media.caption_variants import caption_variants
from ltxcore.media.captions import read_captions
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.discover import sample_id
from ltxcore.media.errors import MediaError
from ltxcore.media.fitting import fit_clip, fit_picture
from ltxcore.media.pictures import PictureProbe
from ltxcore.media.probe import MediaProbe, VideoStream
from ltxcore.media.sound_files import SoundProbe
from ltxcore.media.streams import AudioStream
from ltxcore.store.fingerprint import SEED_BITS, derive_seed
from ltxcore.store.snapshot import FrameSelection, Geometry, Sample, SoundFile, SoundSelection

LATENT_S = 0.04
"""Seconds of one audio latent: sound that is shorter is none, and padding of less than half is not masked."""
STILL_FPS = 25.0
"""The frame rate of pictures, and of the zeros that stand beside sound without pictures."""
ZEROS_EDGE = 64
"""Width and height of those zeros (the seed's audio-only training)."""
OWN_LENGTH_STEPS = 100
"""Sound shorter than the interval keeps its length, floored to hundredths of a second."""


class LinkedSound(NamedTuple):
    """A file of an audio dataset that has the name of a clip."""

    file: SoundFile
    probe: SoundProbe
    settings: AudioSettings


def make_sample(
    dataset: VideoDataset,
    bounds: Bounds,
    path: Path,
    media_id: str,
    probe: MediaProbe,
    linked: LinkedSound | None = None,
) -> Sample:
    """Everything that later stages need to know about one clip.

    Args:
        media_id: sha256 of the file.
        linked: the sound that another dataset holds for it.

    Raises:
        MediaError: the clip cannot be used in this dataset, and why.
    """
    shown = picture_notes(dataset.video, probe.video)
    cut, frames = fit_clip(dataset, probe, media_id)
    audio, audio_notes = _sound_of_clip(dataset, probe, frames, linked)
    return Sample(
        **_identity(dataset, bounds, path, media_id, (*probe.notes, *shown, *audio_notes)),
        frames=frames,
        geometry=cut,
        audio=audio,
        source_fps=probe.video.fps,
        source_duration_s=probe.video.duration_s,
    )


def picture_notes(settings: VideoSettings, video: VideoStream) -> tuple[str, ...]:
    """Notes on what is done to the pictures of a clip.

    Raises:
        MediaError: it is HDR, and the dataset takes none.
    """
    notes = []
    if (curve := video.colours.hdr) is not None:
        depth = f"HDR ({curve}, {video.bit_depth} bits)"
        if settings.hdr == "reject":
            raise MediaError(f"is {depth}, and video.hdr is reject; tone_map takes it")
        notes.append(f"is {depth}: it is tone-mapped to SDR")
    if video.interlaced or video.field_order is not None:
        done = "kept as they are stored" if settings.deinterlace == "off" else "made whole pictures (bwdif)"
        hidden = "" if video.interlaced else ", though its frames do not say so"
        notes.append(f"is interlaced{hidden}: its fields are {done}")
    if video.seen_through:
        notes.append("has transparent parts: they are shown on white")
    return tuple(notes)


def select_picture(
    dataset: ImageDataset, bounds: Bounds, path: Path, media_id: str, probe: PictureProbe
) -> Sample:
    """A picture as a clip of one frame without sound.

    Raises:
        MediaError: the picture cannot be used in this dataset, and why.
    """
    return Sample(
        **_identity(dataset, bounds, path, media_id, probe.notes),
        kind="image",
        frames=FrameSelection(indices=(0,), fps=STILL_FPS, start_s=0.0),
        geometry=fit_picture(dataset, probe.width, probe.height, media_id),
        audio=None,
        source_fps=STILL_FPS,
        source_duration_s=1 / STILL_FPS,
    )


def select_sound(
    dataset: Media, settings: AudioSettings, bounds: Bounds, path: Path, media_id: str, probe: SoundProbe
) -> Sample:
    """Sound that is trained on alone, with zeros of 64x64 in place of pictures.

    Its length is a multiple of `duration_interval`, or its own where that is less. `truncation_mode` says
    which part is kept; a random one is drawn from the file's content.

    Raises:
        MediaError: the sound cannot be used in this dataset, and why.
    """
    check_duration(settings, probe.duration_s)
    length_s = sound_length_s(probe.duration_s, settings.duration_interval)
    start_s = probe.audio.start_s + _skipped_s(settings, probe.duration_s - length_s, media_id)
    count = GEOMETRY.legal_frames(floor(length_s * STILL_FPS + 1e-6))
    edges = (ZEROS_EDGE, ZEROS_EDGE)
    return Sample(
        **_identity(dataset, bounds, path, media_id, probe.notes),
        kind="audio",
        frames=FrameSelection(indices=(0,) * count, fps=STILL_FPS, start_s=0.0),
        geometry=Geometry(source=edges, resize=edges, crop_xy=(0, 0), target=edges),
        audio=SoundSelection(
            start_s=start_s,
            duration_s=length_s,
            channels=probe.audio.channels,
            layout=probe.audio.layout,
            tracks=probe.audio.tracks,
        ),
        source_fps=STILL_FPS,
        source_duration_s=probe.duration_s,
    )


def sound_length_s(duration_s: float, interval_s: float) -> float:
    """The length of the bucket that sound falls into: floor(d / interval) · interval, or its own if shorter.

    Raises:
        MediaError: it is shorter than one latent.
    """
    if duration_s >= interval_s:
        return round(floor(duration_s / interval_s + 1e-6) * interval_s, 6)
    if duration_s < LATENT_S:
        raise MediaError(f"is too short: {duration_s:.3f} s of sound, and {LATENT_S:g} s is the least")
    return floor(duration_s * OWN_LENGTH_STEPS + 1e-6) / OWN_LENGTH_STEPS


def check_duration(settings: AudioSettings, duration_s: float) -> None:
    """Check the length of a sound, in seconds, against the dataset's limits.

    Raises:
        MediaError: it is outside min_duration_seconds and max_duration_seconds.
    """
    low, high = settings.min_duration_seconds, settings.max_duration_seconds
    if low is not None and duration_s < low:
        raise MediaError(f"is too short: {duration_s:.2f} s of sound, and min_duration_seconds is {low:g}")
    if high is not None and duration_s > high:
        raise MediaError(f"is too long: {duration_s:.2f} s of sound, and max_duration_seconds is {high:g}")


def _identity(
    dataset: Media, bounds: Bounds, path: Path, media_id: str, notes: tuple[str, ...]
) -> dict[str, Any]:
    """The fields of a sample that come from its file and dataset, for every kind."""
    captions = read_captions(dataset, path, bounds)
    variants = caption_variants(captions.texts, dataset.caption_shuffle, dataset.caption_weights)
    return {
        "id": sample_id(dataset, bounds.root, path),
        "dataset": dataset.id,
        "path": path.relative_to(bounds.root).as_posix(),
        "media_id": media_id,
        "captions": variants.texts,
        "caption_weights": variants.weights,
        "notes": (*notes, *captions.notes),
        "visits": dataset.repeats + 1,
        "probability": dataset.probability,
        "regularisation": dataset.is_regularisation_data,
        "trigger": dataset.trigger,
    }


def _sound_of_clip(
    dataset: VideoDataset, probe: MediaProbe, frames: FrameSelection, linked: LinkedSound | None
) -> tuple[SoundSelection | None, tuple[str, ...]]:
    """The sound under the frames that were chosen, from the first one's start to the last one's end.

    Raises:
        MediaError: its own sound is wanted and cannot be used.
    """
    own = probe.audio
    if linked is not None:
        return _linked_sound(linked, frames), ()
    if not dataset.wants_sound:
        return None, ()
    if dataset.takes_own_sound and probe.sound_fault is not None:
        raise MediaError(f"{probe.sound_fault} (its pictures alone are used with audio.auto_split: false)")
    if not dataset.takes_own_sound:
        plan, note = None, f"has no sound in {', '.join(dataset.linked)}"
    elif own is None:
        plan, note = None, "has no sound"
    else:
        plan, note = _own_sound(dataset.audio, own, frames)
    if plan is None and dataset.audio.allow_zero_audio:
        silence = SoundSelection(
            start_s=frames.start_s, duration_s=frames.duration_s, channels=0, layout="silence"
        )
        return silence, (f"{note}: trained as silent",)
    return plan, (note,) if note else ()


def _own_sound(
    settings: AudioSettings, stream: AudioStream, frames: FrameSelection
) -> tuple[SoundSelection | None, str]:
    length_s = frames.duration_s
    first_s = max(0.0, stream.start_s - frames.start_s)
    last_s = length_s
    if stream.duration_s is not None:
        last_s = min(length_s, stream.start_s + stream.duration_s - frames.start_s)
    if last_s - first_s < min(LATENT_S, length_s) / 2:
        return None, "its sound is elsewhere in time than its frames"
    try:
        check_duration(settings, last_s - first_s)
    except MediaError as error:
        return None, f"trains without its sound, which {error}"
    plan = SoundSelection(
        start_s=frames.start_s,
        duration_s=length_s,
        channels=stream.channels,
        layout=stream.layout,
        tracks=stream.tracks,
        heard_s=_padded(first_s, last_s, length_s),
    )
    return plan, ""


def _linked_sound(linked: LinkedSound, frames: FrameSelection) -> SoundSelection:
    """The part of a linked file under the frames. Its beginning belongs to the first frame."""
    audio, length_s = linked.probe.audio, frames.duration_s
    spare_s = linked.probe.duration_s - length_s
    return SoundSelection(
        start_s=audio.start_s + _skipped_s(linked.settings, spare_s, linked.file.media_id),
        duration_s=length_s,
        channels=audio.channels,
        layout=audio.layout,
        tracks=audio.tracks,
        sound=linked.file,
        heard_s=_padded(0.0, min(length_s, linked.probe.duration_s), length_s),
    )


def _skipped_s(settings: AudioSettings, spare_s: float, media_id: str) -> float:
    """Seconds of a file before the part that is kept, in whole milliseconds."""
    share = {"beginning": 0.0, "end": 1.0}.get(settings.truncation_mode)
    if share is None:
        share = derive_seed(media_id, f"{spare_s:.3f}", "truncation") / 2**SEED_BITS
    return floor(max(0.0, spare_s) * share * 1000 + 1e-6) / 1000


def _padded(first_s: float, last_s: float, length_s: float) -> tuple[float, float] | None:
    """The part that is heard, or None where so little is missing that no latent is padding."""
    if first_s < LATENT_S / 2 and last_s > length_s - LATENT_S / 2:
        return None
    return round(first_s, 6), round(last_s, 6)
