"""Sound files, and containers of which only the sound is wanted."""

from __future__ import annotations

from pathlib import Path

from ltxcore.config.base import Strict
from ltxcore.media.channel_layout import stereo_weights
from ltxcore.media.errors import MediaError
from ltxcore.media.heard_tracks import heard_instead
from ltxcore.media.loudness import measure_loudness
from ltxcore.media.streams import AudioStream, check_file, ffprobe_streams
from ltxcore.media.tracks import choose_sounds
from ltxcore.media.wanted import Wanted


class SoundProbe(Strict):
    """What later stages may ask about a file's sound without opening it again."""

    container: str
    audio: AudioStream
    duration_s: float
    """Decoded length: headers of MP3 and others only estimate it."""
    loudness_lufs: float | None
    """Integrated loudness (EBU R128); None when silent."""
    silence_share: float
    notes: tuple[str, ...]


def probe_sound(path: Path, wanted: Wanted = Wanted()) -> SoundProbe:  # noqa: B008 - it is frozen
    """Read the sound track that a player plays and decode it once, for its length and its loudness.

    Raises:
        MediaError: it has no sound that decodes; the reason says what it is instead.
    """
    check_file(path)
    report = ffprobe_streams(path, "a sound")
    sounds = choose_sounds(report, wanted.audio_track)
    stream, notes = sounds.first, sounds.notes
    if stream is None:
        pictures = any(s.get("codec_type") == "video" for s in report.streams)
        raise MediaError("has pictures but no sound" if pictures else "has no sound")
    stereo_weights(stream.layout, stream.channels)
    loudness = measure_loudness(path, stream)
    heard = heard_instead(path, report, wanted.audio_track, stream, loudness)
    if heard is not None:
        stream, loudness, notes = heard.stream, heard.loudness, (heard.note,)
    silent = () if loudness.lufs is not None else ("its sound is silent throughout",)
    return SoundProbe(
        container=report.container,
        audio=stream,
        duration_s=loudness.duration_s,
        loudness_lufs=loudness.lufs,
        silence_share=loudness.silence_share,
        notes=(*notes, *silent),
    )
