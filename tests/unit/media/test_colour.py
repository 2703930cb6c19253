"""Colours of clips: HDR, wide gamuts, untagged matrices, Dolby Vision, transparency; interlaced frames."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from ltxcore.media.thumbnail import thumbnail
from ltxcore.pipeline.data.keys import frames_shown
from ltxcore.store.snapshot import Geometry, Sample
from tests.unit.media.clips import ffmpeg

COLOURS = ((200, 60, 40), (60, 160, 70), (255, 255, 255))
CELLS = (
    "color=0xC83C28:s=192x64:r=25:d=0.4,drawbox=x=64:w=64:h=64:color=0x3CA046:t=fill,"
    "drawbox=x=128:w=64:h=64:color=white:t=fill,format=gbrp"
)
BT709 = "setparams=color_primaries=bt709:color_trc=bt709:colorspace=gbr:range=full"
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none:crf=12")


def dataset(**video: Any) -> VideoDataset:
    return VideoDataset(
        id="d", dataset_type="video", instance_data_dir="x", resolution=64, resolution_type="pixel",
        caption_strategy="filename", video={"num_frames": 9, **video},
    )  # fmt: skip


def plan(clip: Path, **video: Any) -> Sample:
    return make_sample(dataset(**video), Bounds(clip.parent), clip, "m", probe(clip))


def shown(clip: Path, **video: Any) -> npt.NDArray[np.uint8]:
    sample = plan(clip, **video)
    return decode_frames(clip, sample.frames, sample.geometry)


def cells(frame: npt.NDArray[np.uint8]) -> list[list[int]]:
    """The colours in the middles of three equal cells."""
    height, width, _ = frame.shape
    return [frame[height // 2, width * (2 * cell + 1) // 6].tolist() for cell in range(3)]


def close(found: list[list[int]], within: int) -> bool:
    return bool(np.abs(np.subtract(found, COLOURS)).max() <= within)


def converted(path: Path, transfer: str, primaries: str, matrix: str) -> Path:
    """The cells in another colour space; diffuse white at 203 nits."""
    tagged = ("-color_primaries", primaries, "-color_trc", transfer, "-colorspace", matrix)
    ffmpeg(
        "-f", "lavfi", "-i", CELLS, "-vf",
        f"{BT709},zscale=t=linear:npl=203,format=gbrpf32le,"
        f"zscale=p={primaries}:t={transfer}:m={matrix}:r=tv:npl=203,format=yuv420p10le",
        *X265, *tagged, str(path),
    )  # fmt: skip
    return path


@pytest.mark.parametrize(("transfer", "curve"), [("arib-std-b67", "HLG"), ("smpte2084", "PQ")])
def test_hdr_is_tone_mapped_or_rejected_as_the_dataset_says(
    transfer: str, curve: str, tmp_path: Path
) -> None:
    clip = converted(tmp_path / "hdr.mov", transfer, "bt2020", "bt2020nc")
    assert close(cells(shown(clip)[0]), within=8)
    with Image.open(io.BytesIO(thumbnail(clip))) as small:
        assert close(cells(np.asarray(small.convert("RGB"))), within=12), "reports show what is trained on"
    assert f"is HDR ({curve}, 10 bits): it is tone-mapped to SDR" in plan(clip).notes
    with pytest.raises(MediaError, match=rf"is HDR \({curve}, 10 bits\), and video.hdr is reject"):
        plan(clip, hdr="reject")


def test_a_wide_gamut_becomes_that_of_a_screen(tmp_path: Path) -> None:
    clip = converted(tmp_path / "p3.mov", "bt709", "smpte432", "bt709")
    assert close(cells(shown(clip)[0]), within=6)
    assert "has the colours of P3: they are converted to BT.709" in plan(clip).notes


@pytest.mark.parametrize(
    ("size", "matrix"),
    [("704x576", "bt601"), ("1248x96", "bt601"), ("1280x96", "bt709"), ("96x608", "bt709")],
)
def test_an_untagged_clip_has_the_matrix_that_players_guess(size: str, matrix: str, tmp_path: Path) -> None:
    clip = tmp_path / "untagged.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", f"color=0xC83C28:s={size}:r=25:d=0.4,format=gbrp", "-vf",
        f"scale=out_color_matrix={matrix}:out_range=tv,format=yuv444p,setparams=colorspace=unknown",
        "-c:v", "ffv1", "-colorspace", "unknown", str(clip),
    )  # fmt: skip
    assert probe(clip).video.colours.matrix is None
    assert shown(clip)[0].mean(axis=(0, 1)) == pytest.approx(COLOURS[0], abs=3)


def box(name: bytes, content: bytes) -> bytes:
    return (len(content) + 8).to_bytes(4, "big") + name + content


def with_dolby_vision(clip: Path, profile: int, compatibility: int) -> Path:
    """An MP4 of HEVC with Dolby's configuration box in its sample description; `moov` must come last."""
    data = bytearray(clip.read_bytes())
    record = bytes([1, 0, profile << 1, (5 << 3) | 0b101, compatibility << 4]) + bytes(19)
    added = box(b"dvcC", record)
    at = data.index(b"hvc1", data.index(b"stsd")) - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    data[end:end] = added
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"hvc1"):
        place = data.index(name) - 4
        data[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + len(added)).to_bytes(
            4, "big"
        )
    clip.write_bytes(data)
    return clip


def test_dolby_vision_that_only_dolby_can_read_is_rejected_by_name(tmp_path: Path) -> None:
    plain = tmp_path / "plain.mp4"
    ffmpeg("-f", "lavfi", "-i", CELLS, *X265, "-pix_fmt", "yuv420p10le", "-tag:v", "hvc1", str(plain))
    five, eight = tmp_path / "five.mp4", tmp_path / "eight.mp4"
    for clip in (five, eight):
        clip.write_bytes(plain.read_bytes())
    with pytest.raises(MediaError, match=r"is Dolby Vision of profile 5, .* export it as HDR10, HLG or SDR"):
        probe(with_dolby_vision(five, 5, 0))
    assert probe(with_dolby_vision(eight, 8, 1)).video.frame_count == 10


SEEN_THROUGH = {
    "vp9.webm": ("-c:v", "libvpx-vp9", "-pix_fmt", "yuva420p", "-b:v", "2M", "-deadline", "realtime"),
    "vp8.webm": (
        "-c:v", "libvpx", "-pix_fmt", "yuva420p", "-auto-alt-ref", "0", "-b:v", "2M", "-deadline", "realtime",
    ),
    "prores.mov": ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le"),
    "animation.mov": ("-c:v", "qtrle", "-pix_fmt", "argb"),
    "animation.gif": ("-vf", "split[a][b];[a]palettegen[p];[b][p]paletteuse"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN_THROUGH)
def test_what_can_be_seen_through_stands_on_white(name: str, tmp_path: Path) -> None:
    clip = tmp_path / name
    # Red all over, of which the right third is not there.
    source = "color=red:s=96x64:r=25:d=0.4,format=rgba,geq=r=255:g=0:b=0:a='if(lt(X,64),255,0)'"
    ffmpeg("-f", "lavfi", "-i", source, *SEEN_THROUGH[name], str(clip))
    left, middle, right = cells(shown(clip)[0])
    assert left == pytest.approx([255, 0, 0], abs=12)
    assert middle == pytest.approx([255, 0, 0], abs=12)
    assert right == pytest.approx([255, 255, 255], abs=6)
    assert "has transparent parts: they are shown on white" in plan(clip).notes


def test_hdr_with_transparency_is_both_mapped_and_put_on_white(tmp_path: Path) -> None:
    clip = tmp_path / "both.mov"
    ffmpeg(
        "-f", "lavfi", "-i", CELLS, "-f", "lavfi", "-i",
        "color=white:s=192x64:r=25:d=0.4,format=gray,geq=lum='if(lt(X,128),255,0)'", "-filter_complex",
        f"[0]{BT709},zscale=t=linear:npl=203,format=gbrpf32le,"
        "zscale=p=bt2020:t=arib-std-b67:m=bt2020nc:r=tv:npl=203,format=yuv444p10le[c];"
        "[1]format=gray10le[a];[c][a]alphamerge", "-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt",
        "yuva444p10le", "-color_primaries", "bt2020", "-color_trc", "arib-std-b67", "-colorspace", "bt2020nc",
        str(clip),
    )  # fmt: skip
    assert close(cells(shown(clip)[0]), within=8)
    assert len([note for note in plan(clip).notes if "tone-mapped" in note or "on white" in note]) == 2


def test_half_transparent_red_is_half_white(tmp_path: Path) -> None:
    clip = tmp_path / "half.mov"
    source = "color=red:s=96x64:r=25:d=0.4,format=rgba,geq=r=255:g=0:b=0:a=128"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "qtrle", "-pix_fmt", "argb", str(clip))
    assert shown(clip)[0].mean(axis=(0, 1)) == pytest.approx([255, 127, 127], abs=2)


@pytest.mark.parametrize("name", ["animation.gif", "prores.mov", "vp9.webm"])
def test_an_opaque_clip_with_room_for_transparency_has_none(name: str, tmp_path: Path) -> None:
    clip = tmp_path / name
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=0.4,format=rgba", *SEEN_THROUGH[name], str(clip))
    assert not any("transparent" in note for note in plan(clip).notes)
    assert not plan(clip).frames.on_white


WOVEN = {
    "h264.mp4": ("96x64", ("-c:v", "libx264", "-flags", "+ilme+ildct", "-top", "1", "-crf", "1")),
    "mpeg2.mpg": ("96x64", ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", "1")),
    "dv.avi": ("720x576", ("-c:v", "dvvideo", "-pix_fmt", "yuv420p")),
    "prores.mov": ("96x64", ("-c:v", "prores_ks", "-flags", "+ilme+ildct", "-pix_fmt", "yuv422p10le")),
}


def combs(frames: npt.NDArray[np.uint8]) -> float:
    """How much more neighbouring lines differ than lines of one field."""
    grey = frames.mean(axis=-1)
    neighbours = np.abs(grey[:, 1:] - grey[:, :-1]).mean()
    same_field = np.abs(grey[:, 2:] - grey[:, :-2]).mean()
    return float(neighbours - same_field)


@pytest.mark.parametrize("name", WOVEN)
def test_interlaced_frames_are_made_whole_unless_the_dataset_says_otherwise(
    name: str, tmp_path: Path
) -> None:
    size, codec = WOVEN[name]
    clip = tmp_path / name
    bar = f"color=black:s={size}:r=50:d=0.4,geq=lum='if(between(mod(X-8*N,W),0,30),235,16)':cb=128:cr=128"
    woven_source = f"{bar},tinterlace=interleave_top,setfield=tff,format=yuv420p"
    ffmpeg("-f", "lavfi", "-i", woven_source, *codec, "-r", "25", str(clip))
    sample = plan(clip)
    found = probe(clip).video
    edges = (found.width, found.height)
    whole = Geometry(source=edges, resize=edges, crop_xy=(0, 0), target=edges)
    kept = plan(clip, deinterlace="off")
    assert "is interlaced: its fields are made whole pictures (bwdif)" in sample.notes
    assert "is interlaced: its fields are kept as they are stored" in kept.notes
    woven = combs(decode_frames(clip, kept.frames, whole))
    assert woven > 3
    assert combs(decode_frames(clip, sample.frames, whole)) < woven / 8
    assert frames_shown(sample.frames) != frames_shown(kept.frames)


@pytest.mark.parametrize("order", ["top", "bottom"])
def test_frames_that_deny_their_fields_are_made_whole_as_those_that_say_so(
    order: str, tmp_path: Path
) -> None:
    bar = "color=black:s=192x96:r=50:d=1.6,geq=lum='if(between(mod(X-4*N,W),0,30),235,16)':cb=128:cr=128"
    woven = f"{bar},tinterlace=interleave_{order},setfield=prog,format=yuv420p"
    clip = tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", woven, "-c:v", "ffv1", "-r", "25", str(clip))
    sample, kept = plan(clip), plan(clip, deinterlace="off")
    assert sample.frames.deinterlaced == f"{order[0]}ff"
    assert kept.frames.deinterlaced is False
    note = "is interlaced, though its frames do not say so: its fields are made whole pictures (bwdif)"
    assert note in sample.notes
    whole = Geometry(source=(192, 96), resize=(192, 96), crop_xy=(0, 0), target=(192, 96))
    combed = combs(decode_frames(clip, kept.frames, whole))
    assert combed > 3
    assert combs(decode_frames(clip, sample.frames, whole)) < combed / 8
    assert frames_shown(sample.frames) != frames_shown(kept.frames)


def test_deinterlacing_gives_the_same_bits_each_time_whoever_names_the_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = "color=black:s=102x68:r=50:d=1.6,geq=lum='if(between(mod(X-4*N,W),0,30),235,16)':cb=128:cr=128"
    woven = f"{bar},tinterlace=interleave_top,setfield=tff,format=yuv420p"
    silent, saying = tmp_path / "silent.mkv", tmp_path / "saying.mkv"
    # Without -top 1 this encoder says "bottom field first" of every frame, whatever the filters say: its
    # frames are then joined in the wrong order, which is another picture, but the same one each time.
    flagged = ("-c:v", "libx264", "-qp", "0", "-flags", "+ilme+ildct", "-top", "1")
    for clip, codec in ((silent, ("-c:v", "ffv1")), (saying, flagged)):
        ffmpeg("-f", "lavfi", "-i", woven, *codec, "-r", "25", str(clip))
    whole = Geometry(source=(102, 68), resize=(102, 68), crop_xy=(0, 0), target=(102, 68))
    pictures = []
    for clip in (silent, saying):
        frames = plan(clip).frames
        for filling in ("0", "85", "170"):
            # What the C library fills fresh memory with: nothing that is shown may come from there.
            monkeypatch.setenv("MALLOC_PERTURB_", filling)
            pictures.append(decode_frames(clip, frames, whole))
    assert all(np.array_equal(pictures[0], other) for other in pictures[1:])
    stored = plan(saying, deinterlace="off").frames
    assert not np.array_equal(pictures[0], decode_frames(saying, stored, whole))


GREY = "color=black:s=192x96:r=25:d=1.6,geq=cb=128:cr=128:lum="
WHOLE = {
    "up": f"{GREY}'if(between(mod(Y+N+H,H),0,30),235,16)'",
    "sideways": f"{GREY}'if(between(mod(X-8*N,W),0,9),235,16)'",
    "noise": f"{GREY}'random(1)*255'",
    "lines": f"{GREY}'if(mod(Y,2),235,16)'",
    "flicker": f"{GREY}'if(mod(Y,2),235-100*mod(N,2),16)'",
    "patterns": "testsrc2=s=320x240:r=25:d=1.6",
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_frames_are_left_alone(name: str, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mkv"
    ffmpeg("-f", "lavfi", "-i", f"{WHOLE[name]},format=yuv420p", "-c:v", "ffv1", str(clip))
    assert probe(clip).video.field_order is None


def test_progressive_clips_are_left_alone(sample_clips: Path) -> None:
    for name in ("twin.mp4", "blue-box-up.mp4", "orange-disc-silent.mp4"):
        assert plan(sample_clips / name).frames.deinterlaced is False


def test_yaml_reads_off_as_a_truth_value() -> None:
    assert dataset(deinterlace=False).video.deinterlace == "off"
