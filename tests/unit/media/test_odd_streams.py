"""What plain ffmpeg decodes is trained on: the right frames, and a note on those that do not decode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media import streams
from ltxcore.media.audio import decode_audio
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from ltxcore.store.snapshot import Sample
from tests.unit.media import odd_streams as odd
from tests.unit.media.clips import numbers
from tests.unit.media.files import media_tool

DATASET = VideoDataset(
    id="d", dataset_type="video", instance_data_dir="x", resolution=64, caption_strategy="filename",
    video={"num_frames": 17},
)  # fmt: skip


def take(clip: Path) -> tuple[Sample, list[int]]:
    """The sample of a clip and the numbers of its frames; its sound decodes, too."""
    sample = make_sample(DATASET, Bounds(clip.parent), clip, "m", probe(clip))
    shown = numbers(decode_frames(clip, sample.frames, sample.geometry))
    if sample.audio is not None:
        decode_audio(clip, sample.audio)
    return sample, shown


def noted(sample: Sample, words: str) -> bool:
    return any(words in note for note in sample.notes)


@pytest.mark.parametrize(("container", "first"), [("mkv", 12), ("ts", 24), ("mp4", 19), ("mov", 19)])
@pytest.mark.parametrize("codec", [odd.OPEN_H264, odd.OPEN_HEVC], ids=["h264", "hevc"])
def test_a_cut_at_an_open_group_begins_with_its_first_whole_frame(
    codec: tuple[str, ...], container: str, first: int, tmp_path: Path
) -> None:
    """MP4 and MOV say by an edit list where they begin, so nothing is missing there."""
    sample, shown = take(odd.cut_open_group(tmp_path / f"cut.{container}", codec))
    assert shown == list(range(first, first + 17))
    missing = noted(sample, "before its first whole one cannot be decoded: left out")
    assert missing == (container in ("mkv", "ts"))


@pytest.mark.parametrize(
    "codec",
    [odd.OPEN_H264, odd.OPEN_HEVC, ("-c:v", "mpeg2video", "-q:v", "1", "-g", "12", "-bf", "2")],
    ids=["h264", "hevc", "mpeg2"],
)
def test_a_stream_that_begins_within_a_group_begins_with_its_first_whole_frame(
    codec: tuple[str, ...], tmp_path: Path
) -> None:
    _, shown = take(odd.begun_within_group(tmp_path / "late.ts", codec))
    assert shown == list(range(shown[0], shown[0] + 17))
    assert shown[0] > 0


def test_transport_streams_joined_byte_by_byte_are_one_clip(tmp_path: Path) -> None:
    options = (*odd.NO_B, "-c:a", "aac", *odd.FROM_ZERO, "-f", "mpegts")
    tone = "'0.3*sin(2*PI*440*t)':s=48000"
    first = odd.write(tmp_path / "1.ts", 0, 10, *options, sound=tone)
    second = odd.write(tmp_path / "2.ts", 10, 40, *options, "-output_ts_offset", "0.4", sound=tone)
    sample, shown = take(odd.joined(tmp_path / "joined.ts", first, second))
    assert shown == list(range(17))
    assert sample.source_duration_s == pytest.approx(2.0, abs=0.03)


def test_where_the_clock_starts_anew_the_frames_before_are_used(tmp_path: Path) -> None:
    options = (*odd.NO_B, "-c:a", "aac", *odd.FROM_ZERO, "-f", "mpegts")
    low, high = (f"'0.3*sin(2*PI*{hertz}*t)':s=48000" for hertz in (440, 3000))
    first = odd.write(tmp_path / "1.ts", 0, 30, *options, sound=low)
    second = odd.write(tmp_path / "2.ts", 10, 40, *options, sound=high)
    clip = odd.joined(tmp_path / "anew.ts", first, second)
    sample, shown = take(clip)
    assert shown == list(range(17))
    assert probe(clip).video.frame_count == 30
    assert noted(sample, "its clock jumps by -1.16 s after 30 frames: those before are used")
    assert sample.audio is not None
    spectrum = decode_audio(clip, sample.audio)[0, :10000].double()
    loud = torch.fft.rfft(spectrum).abs()
    assert int(loud.argmax()) * 16000 / 10000 == pytest.approx(440, abs=3)


def test_of_pictures_that_change_their_size_the_longest_part_is_used(tmp_path: Path) -> None:
    options = (*odd.NO_B, *odd.FROM_ZERO, "-f", "mpegts")
    first = odd.write(tmp_path / "1.ts", 0, 10, *options)
    second = odd.write(tmp_path / "2.ts", 10, 30, *options, "-output_ts_offset", "0.4", size="192x96")
    sample, shown = take(odd.joined(tmp_path / "seam.ts", first, second))
    assert shown == list(range(10, 27))
    assert sample.geometry.source == (192, 96)
    assert noted(sample, "its pictures change their size: the 30 frames of 192x96 are used")


SURROUND = "|".join(["0.5*sin(2*PI*440*t)"] * 6)


@pytest.mark.parametrize(
    ("sound", "options"),
    [
        (f"'{SURROUND}':s=48000:c=5.1", ()),
        ("'0.5*sin(2*PI*440*t)':s=48000:c=mono", ()),
        ("'0.5*sin(2*PI*440*t)|0.5*sin(2*PI*440*t)':s=32000:c=stereo", ()),
    ],
    ids=["5.1", "mono", "rate"],
)
def test_sound_that_changes_its_channels_or_rate_at_a_seam_goes_on(
    sound: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    muxed = (*odd.NO_B, "-c:a", "aac", "-b:a", "192k", *odd.FROM_ZERO, "-f", "mpegts")
    stereo = "'0.5*sin(2*PI*440*t)|0.5*sin(2*PI*440*t)':s=48000:c=stereo"
    first = odd.write(tmp_path / "1.ts", 0, 10, *muxed, sound=stereo)
    second = odd.write(tmp_path / "2.ts", 10, 40, *muxed, "-output_ts_offset", "0.4", sound=sound)
    clip = odd.joined(tmp_path / "seam.ts", first, second)
    sample, shown = take(clip)
    assert shown == list(range(17))
    assert sample.audio is not None
    waveform = decode_audio(clip, sample.audio)
    for stretch in (slice(1600, 4800), slice(8000, 10400)):
        level = waveform[:, stretch].pow(2).mean(dim=1).sqrt()
        assert level.tolist() == pytest.approx([0.5 / 2**0.5] * 2, rel=0.1)


@pytest.mark.parametrize("change", ["cut-sei", "unknown-nal"])
def test_odd_units_beside_the_pictures_cost_nothing(change: str, tmp_path: Path) -> None:
    sample, shown = take(odd.rewritten(tmp_path / "odd.mp4", change))
    assert shown == list(range(17))
    assert sample.notes == ("has no sound",)


def test_damage_costs_a_clip_only_where_its_frames_are_wanted(tmp_path: Path) -> None:
    clip = odd.write(tmp_path / "holed.mp4", 0, 50, *odd.NO_B, "-g", "10")
    data = bytearray(clip.read_bytes())
    places = media_tool(
        "ffprobe", "-v", "error", "-show_entries", "packet=pos,size", "-of", "csv=p=0", str(clip)
    ).split()
    size, at = map(int, places[30].split(","))
    data[at + 8 : at + size] = b"\xff" * (size - 8)
    clip.write_bytes(data)
    _, shown = take(clip)
    assert shown == list(range(17))
    longer = DATASET.model_copy(update={"video": DATASET.video.model_copy(update={"num_frames": 41})})
    found = probe(clip)
    assert "10 of its frames are damaged" in found.notes
    with pytest.raises(
        MediaError, match=r"does not decode: 10 of the 41 frames needed are damaged; ffmpeg says: \S"
    ):
        make_sample(longer, Bounds(clip.parent), clip, "m", found)


def test_a_stream_of_which_nothing_decodes_is_refused_at_once(tmp_path: Path) -> None:
    clip = odd.write(tmp_path / "nothing.mkv", 0, 10, *odd.NO_B, "-g", "250")
    data = bytearray(clip.read_bytes())
    at = data.index(b"\x65\x88") if b"\x65\x88" in data else len(data) // 2
    data[at : at + 2000] = bytes(2000)
    clip.write_bytes(data)
    with pytest.raises(MediaError, match="decode"):
        take(clip)


def test_of_a_large_file_the_beginning_is_decoded_and_the_rest_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = odd.cut_open_group(tmp_path / "cut.mkv", odd.OPEN_HEVC)
    whole = probe(clip)
    monkeypatch.setattr(streams, "DECODED_WHOLE_BYTES", 0)
    assert probe(clip) == whole
    monkeypatch.setattr(streams, "MOST_PIXELS_DECODED", 0)
    monkeypatch.setattr(streams, "FEWEST_PACKETS_DECODED", 36)
    assert probe(clip).video.timestamps() == whole.video.timestamps()
    _, shown = take(clip)
    assert shown == list(range(12, 29))


def test_a_seam_in_the_decoded_beginning_of_a_large_file_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*odd.NO_B, *odd.FROM_ZERO, "-f", "mpegts")
    first = odd.write(tmp_path / "1.ts", 0, 30, *options)
    second = odd.write(tmp_path / "2.ts", 30, 40, *options, "-output_ts_offset", "1.2", size="192x96")
    clip = odd.joined(tmp_path / "seam.ts", first, second)
    monkeypatch.setattr(streams, "DECODED_WHOLE_BYTES", 0)
    monkeypatch.setattr(streams, "MOST_PIXELS_DECODED", 0)
    monkeypatch.setattr(streams, "FEWEST_PACKETS_DECODED", 70 - 2)
    found = probe(clip).video
    assert (found.frame_count, found.stored) == (30, (128, 96))
