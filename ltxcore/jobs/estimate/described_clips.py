"""Clips that somebody describes by their size, for planning without any file."""

from __future__ import annotations

from typing import Final

from ltxcore.store.snapshot import FrameSelection, Geometry, Sample, Snapshot, SoundSelection

FPS: Final = 25.0
CAPTION: Final = "a caption of usual length, of some sixty words, as a captioning model writes it. " * 5


def described_clips(width: int, height: int, frames: int, count: int, audio: bool) -> Snapshot:
    """A snapshot of alike clips with different captions, of one dataset that lies nowhere."""
    sound = SoundSelection(start_s=0.0, duration_s=frames / FPS, channels=2, layout="stereo")
    samples = [
        Sample(
            id=f"described/{number}",
            dataset="described",
            kind="image" if frames == 1 else "video",
            path=str(number),
            media_id=f"{number:064x}",
            captions=(f"{number} {CAPTION}",),
            frames=FrameSelection(indices=tuple(range(frames)), fps=FPS, start_s=0.0),
            geometry=Geometry(
                source=(width, height), resize=(width, height), crop_xy=(0, 0), target=(width, height)
            ),
            audio=sound if audio and frames > 1 else None,
            source_fps=FPS,
            source_duration_s=frames / FPS,
        )
        for number in range(count)
    ]
    return Snapshot(
        roots={"described": "."}, samples=tuple(samples), rejections=(), wants_audio=audio, fps=(FPS,)
    )
