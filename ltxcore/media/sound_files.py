"""Sound files, and containers of which only the sound is wanted."""

from __future__ import annotations

from pathlib import Path

from ltxcore.config.base import Strict
from ltxcore.media.errors import MediaError
from ltxcore.media.loudness import measure_loudness
from ltxcore.media.speakers import stereo_weights
from ltxcore.media.streams import AudioStream, check_file, ffprobe_streams, first_sound


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


def probe_sound(path: Path) -> SoundProbe:
    """Read the first sound track of a file and decode it once, for its length and its loudness.

    Raises:
        MediaError: it has no sound that decodes; the reason says what it is instead.
    """
    check_file(path)
    report = ffprobe_streams(path, "a sound")
    stream = first_sound(report)
    if stream is None:
        pictures = any(s.get("codec_type") == "video" for s in report.streams)
        raise MediaError("has pictures but no sound" if pictures else "has no sound")
    stereo_weights(stream.layout, stream.channels)
    loudness = measure_loudness(path, stream)
    silent = () if loudness.lufs is not None else ("its sound is silent throughout",)
    return SoundProbe(
        container=report.container,
        audio=stream,
        duration_s=loudness.duration_s,
        loudness_lufs=loudness.lufs,
        silence_share=loudness.silence_share,
        notes=silent,
    )
