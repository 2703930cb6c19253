"""AVI with reordered H.264: its frames in the order in which a player shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media import streams
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from tests.unit.media.clips import numbers
from tests.unit.media.odd_streams import write

REORDERED = {
    "three": ("-bf", "3", "-b_strategy", "0", "-g", "12"),
    "pyramid": ("-bf", "5", "-g", "24"),
    "open": ("-bf", "3", "-x264-params", "open-gop=1:keyint=12:min-keyint=12:scenecut=0"),
}
DATASET = VideoDataset(
    id="d", dataset_type="video", instance_data_dir="x", resolution=64, caption_strategy="filename",
    video={"num_frames": 49},
)  # fmt: skip


def clip_of(folder: Path, kind: str) -> Path:
    return write(folder / "clip.avi", 0, 50, "-c:v", "libx264", "-crf", "1", *REORDERED[kind], size="64x64")


@pytest.mark.parametrize("kind", REORDERED)
def test_frames_come_in_the_order_in_which_they_are_shown(kind: str, tmp_path: Path) -> None:
    clip = clip_of(tmp_path, kind)
    found = probe(clip)
    assert found.video.frame_count == 50
    assert found.video.duration_s == pytest.approx(2.0)
    sample = make_sample(DATASET, Bounds(tmp_path), clip, "m", found)
    assert numbers(decode_frames(clip, sample.frames, sample.geometry)) == list(range(49))


def test_a_large_one_is_decoded_in_its_beginning_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "DECODED_WHOLE_BYTES", 0)
    monkeypatch.setattr(streams, "MOST_PIXELS_DECODED", 0)
    monkeypatch.setattr(streams, "FEWEST_PACKETS_DECODED", 20)
    clip = clip_of(tmp_path, "three")
    sample = make_sample(DATASET, Bounds(tmp_path), clip, "m", probe(clip))
    assert numbers(decode_frames(clip, sample.frames, sample.geometry)) == list(range(49))


def test_one_that_is_damaged_is_rejected_since_its_frames_are_not_distinguishable(tmp_path: Path) -> None:
    clip = clip_of(tmp_path, "three")
    data = bytearray(clip.read_bytes())
    chunk = [found.start() for found in re.finditer(b"00dc", data)][20] + 8
    size = int.from_bytes(data[chunk - 4 : chunk], "little")
    data[chunk + 5 : chunk + size] = b"\xa5" * (size - 5)
    clip.write_bytes(data)
    with pytest.raises(MediaError, match=r"is an AVI with h264 .* of which some do not decode"):
        probe(clip)
