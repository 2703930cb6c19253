"""What nobody should feed to a training and somebody will: each file ends as a sample or with a reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ltxcore import Job
from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.config.datasets import load_datasets
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.discover import content_as_read
from ltxcore.media.errors import MediaError
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe
from ltxcore.pipeline.base.context import context_here
from ltxcore.stages.probe_media import media_files
from ltxcore.stages.probe_media.bounds import bounds_of
from ltxcore.stages.probe_media.media_files import MediaFile, _each_by_its_content
from ltxcore.store.snapshot import Snapshot
from ltxcore.store.workspace import Workspace
from tests.stages.conftest import snapshot_of
from tests.unit.media.clips import ffmpeg, numbered_clip, numbers
from tests.unit.media.files import picture, tone

ROOT = Path(__file__).parents[2]
MIB = 2**20
MEASURED = """
import os, resource, sys
from pathlib import Path
from ltxcore.config.dataset_kinds import VideoDataset
from ltxcore.media.dataset_files import Bounds
from ltxcore.media.decode import decode_frames
from ltxcore.media.frame_selection import make_sample
from ltxcore.media.probe import probe

path = Path(sys.argv[1])
dataset = VideoDataset(
    id="d", dataset_type="video", instance_data_dir="x", resolution=64, resolution_type="pixel",
    caption_strategy="filename", video={"num_frames": 9},
)
sample = make_sample(dataset, Bounds(path.parent), path, "m", probe(path))
frames = decode_frames(path, sample.frames, sample.geometry)
assert frames.shape == (9, *sample.geometry.target[::-1], 3)
# Not getrusage for the process itself: what it says was inherited from the one that forked it.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
own = int(status["VmHWM"].split()[0])
print(1024 * own, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, sum(os.times()[:4]))
"""


def dataset(**more: object) -> VideoDataset:
    given = {"resolution": 64, "resolution_type": "pixel", "video": {"num_frames": 9}, **more}
    identity = {"id": "d", "dataset_type": "video", "instance_data_dir": "x"}
    return VideoDataset.model_validate({**identity, "caption_strategy": "filename", **given})


def measured(clip: Path) -> tuple[float, float, float]:
    """Peak bytes of Python and of ffmpeg, and processor seconds, to probe a clip and decode nine frames."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(clip)], check=True, capture_output=True, text=True, cwd=ROOT
    )
    own, ffmpegs, seconds = map(float, done.stdout.split())
    return own, ffmpegs, seconds


def look(folder: Path) -> Snapshot:
    """What probe-media makes of the folder's `clips`."""
    text = "- {id: text, dataset_type: text_embeds}"
    (folder / "datasets.yaml").write_text(
        "- {id: clips, dataset_type: video, instance_data_dir: clips, resolution: 64, "
        f"resolution_type: pixel, video: {{num_frames: 9}}, audio: {{auto_split: false}}}}\n{text}\n"
    )
    return snapshot_of(context_here(Workspace(folder / "workspace"), datasets_file=folder / "datasets.yaml"))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with one good clip."""
    folder = tmp_path / "clips"
    folder.mkdir()
    numbered_clip(folder / "good.mp4", 12)
    (folder / "good.txt").write_text("a good clip")
    return folder


def reasons(snapshot: Snapshot) -> dict[str, str]:
    assert [s.path for s in snapshot.samples] == ["good.mp4"]
    return {r.path: r.reason for r in snapshot.rejections}


def test_frames_of_8k_are_read_in_bounded_memory(tmp_path: Path) -> None:
    clip = tmp_path / "big.mp4"
    ffmpeg(
        "-f", "lavfi", "-i", "color=gray:s=7680x4320:r=25:d=0.36", "-c:v", "libx264", "-preset", "ultrafast",
        str(clip),
    )  # fmt: skip
    own, ffmpegs, _ = measured(clip)
    assert own < 150 * MIB
    assert ffmpegs < 700 * MIB


def test_three_hours_are_read_in_bounded_memory_and_time(tmp_path: Path) -> None:
    clip = tmp_path / "long.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=s=32x32:r=1:d=10800", "-c:v", "mpeg4", str(clip))
    own, ffmpegs, seconds = measured(clip)
    assert own < 150 * MIB
    assert ffmpegs < 200 * MIB
    assert seconds < 30


@pytest.mark.parametrize("size", ["67x45", "33x129", "641x479"])
def test_odd_sizes_become_legal_ones(size: str, tmp_path: Path) -> None:
    clip = tmp_path / "odd.mkv"
    ffmpeg("-f", "lavfi", "-i", f"testsrc=s={size}:r=25:d=0.4", "-c:v", "ffv1", str(clip))
    sample = make_sample(dataset(), Bounds(tmp_path), clip, "m", probe(clip))
    assert f"{sample.geometry.source[0]}x{sample.geometry.source[1]}" == size
    width, height = sample.geometry.target
    assert (width % 32, height % 32) == (0, 0)
    assert decode_frames(clip, sample.frames, sample.geometry).shape == (9, height, width, 3)


def test_a_tenth_of_a_second_is_too_short_or_one_frame(tmp_path: Path) -> None:
    clip = numbered_clip(tmp_path / "blink.mp4", 3, rate="30")
    with pytest.raises(MediaError, match="is too short: it has 2 frames at 25 fps, and num_frames is 9"):
        make_sample(dataset(), Bounds(tmp_path), clip, "m", probe(clip))
    short = dataset(video={"num_frames": 9, "min_frames": 1})
    assert make_sample(short, Bounds(tmp_path), clip, "m", probe(clip)).frames.indices == (0,)


BROKEN = {
    "back.mkv": "if(eq(N\\,10)\\,PTS-400\\,PTS)",
    "twice.mkv": "if(eq(N\\,10)\\,PTS-40\\,PTS)",
    "leap.mkv": "if(gt(N\\,10)\\,PTS+5000\\,PTS)",
    "below-zero.mkv": "PTS-2000",
    "one.mkv": "1000",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_timestamps_give_a_true_plan_or_a_reason(name: str, tmp_path: Path) -> None:
    whole = numbered_clip(tmp_path / "whole.mkv", 30, codec=("-c:v", "ffv1"))
    clip = tmp_path / name
    times_of = f"setts=pts={BROKEN[name]}:dts={BROKEN[name]}"
    ffmpeg("-i", str(whole), "-c", "copy", "-bsf:v", times_of, str(clip))
    try:
        found = probe(clip)
        sample = make_sample(dataset(), Bounds(tmp_path), clip, "m", found)
        frames = decode_frames(clip, sample.frames, sample.geometry)
    except MediaError as error:
        reason = str(error)
        assert re.match("is |has |does |its ", reason), reason
        return
    times = found.video.timestamps()
    assert times == sorted(set(times))
    shown = numbers(frames)
    assert len(shown) == 9
    assert shown == sorted(shown), "frames are shown in the order of their times"


def test_a_link_to_itself_a_directory_and_a_dead_link_have_their_reasons(clips: Path) -> None:
    (clips / "loop.mp4").symlink_to("loop.mp4")
    (clips / "dead.mp4").symlink_to("nowhere.mp4")
    (clips / "clip.mp4").mkdir()
    (clips / "round").symlink_to(clips)
    found = reasons(look(clips.parent))
    assert found == {
        "dead.mp4": "is a link to a file that is not there",
        "loop.mp4": "cannot be read: Too many levels of symbolic links",
    }


CLOSED = """
import sys
from pathlib import Path
from tests.stages.test_bad_input import look
print({r.path: r.reason for r in look(Path(sys.argv[1])).rejections})
"""


# Root may read everything, unless these are taken from it.
NO_PRIVILEGE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.mark.skipif(
    bool(NO_PRIVILEGE)
    and subprocess.run([*NO_PRIVILEGE, "true"], check=False, capture_output=True).returncode != 0,
    reason="root, and it cannot give up its privileges here",
)
def test_a_file_that_may_not_be_read_is_rejected_until_it_may(clips: Path) -> None:
    (clips / "closed.txt").write_text("closed")
    (clips / "closed.mp4").write_bytes((clips / "good.mp4").read_bytes())
    (clips / "closed.mp4").chmod(0)

    def rejections() -> str:
        done = subprocess.run(
            [*NO_PRIVILEGE, sys.executable, "-c", CLOSED, str(clips.parent)],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert rejections() == "{'closed.mp4': 'cannot be read: Permission denied'}"
    (clips / "closed.mp4").chmod(0o644)
    assert rejections() == "{}"


def test_captions_of_every_sort(clips: Path) -> None:
    for name in ("endless", "windows", "latin", "empty"):
        (clips / f"{name}.mp4").write_bytes((clips / "good.mp4").read_bytes() + name.encode())
    (clips / "endless.txt").write_text("word " * 10_000)
    (clips / "windows.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    (clips / "latin.txt").write_bytes("Füchse".encode("latin-1"))
    (clips / "empty.txt").write_text("\n \n")
    (clips / "nobody.txt").write_text("a caption without a clip")
    snapshot = look(clips.parent)
    captions = {s.path: s.captions for s in snapshot.samples}
    assert len(captions["endless.mp4"][0]) == 49_999
    assert captions["windows.mp4"] == ("one", "two")
    assert {r.path: r.reason for r in snapshot.rejections} == {
        "latin.mp4": "its caption latin.txt is not UTF-8 (byte 1); save the text as UTF-8",
        "empty.mp4": "its caption empty.txt is empty",
        "nobody.txt": "is a caption, but no file of its name is beside it",
    }


def test_every_media_file_of_the_directory_has_its_verdict(clips: Path) -> None:
    ffmpeg("-i", str(clips / "good.mp4"), "-c", "copy", str(clips / "stream.ts"))
    (clips / "stream.txt").write_text("a stream of packets")
    (clips / "deep").mkdir()
    for name in ("photo.jpg", ".hidden.png", "deep/scan.tif"):
        picture(clips / name)
    tone(clips / "voice.wav", 0.2)
    (clips / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with Image.new("RGB", (16, 16)) as scan:
        scan.save(clips / "scan.tga")
    old = (clips / "scan.tga").read_bytes()
    (clips / "old.tga").write_bytes(old[: old.index(b"TRUEVISION")] if b"TRUEVISION" in old else old)
    (clips / "notes.json").write_text("{}")
    (clips / "photo.txt").write_text("a caption of the picture")
    os.mkfifo(clips / "pipe.mp4")
    snapshot = look(clips.parent)
    assert [s.path for s in snapshot.samples] == ["good.mp4", "stream.ts"]
    image = "is a picture, and `clips` is a dataset of dataset_type video; to train on it as well, add one of"
    assert {r.path: r.reason for r in snapshot.rejections} == {
        "deep/scan.tif": f"{image} dataset_type image with this directory",
        "notes.json": "is text; it is not read",
        "phone.heic": "is a HEIC picture; convert it to PNG or JPEG",
        "old.tga": "is a TGA picture; convert it to PNG or JPEG",
        "scan.tga": "is a TGA picture; convert it to PNG or JPEG",
        "photo.jpg": f"{image} dataset_type image with this directory",
        "pipe.mp4": "is not a regular file",
        "voice.wav": "is a sound, and `clips` is a dataset of dataset_type video; to train on it as well, "
        "add one of dataset_type audio with this directory",
    }


def test_names_of_every_sort_are_clips(clips: Path) -> None:
    odd = ["with space.mp4", 'it\'s "so".mp4', "two\nlines.mp4", "🦊.mp4", "-dash.mp4", "100%d.mp4"]
    content = (clips / "good.mp4").read_bytes()
    for number, name in enumerate(odd):
        (clips / name).write_bytes(content + bytes([number]))
        (clips / name).with_suffix(".txt").write_text("a caption")
    (clips / os.fsdecode(b"\xff.mp4")).write_bytes(content)
    snapshot = look(clips.parent)
    assert {s.path for s in snapshot.samples} == {*odd, "good.mp4"}
    assert [(r.id, r.reason) for r in snapshot.rejections] == [
        ("clips/\\xff.mp4", "has a name that is not UTF-8; rename it")
    ]
    # What is asked of the stage, and its summary, hold the name too.
    job = Job(clips.parent / "workspace", clips.parent / "datasets.yaml")
    assert job.run("probe-media").outcome.counts["rejected"] == 1
    assert "xff.mp4" in job.report().read_text()


def test_what_is_no_clip_has_its_reason_in_the_snapshot(clips: Path) -> None:
    content = (clips / "good.mp4").read_bytes()
    (clips / "zero.mp4").touch()
    (clips / "text.mp4").write_text("words, words\n" * 20)
    (clips / "half.mp4").write_bytes(content[: len(content) // 2])
    (clips / "header.mp4").write_bytes(content[: content.index(b"mdat") + 4])
    ffmpeg(
        "-f", "lavfi", "-i", "color=s=16x16:r=25:d=1,format=yuv444p,crop=1:1", "-c:v", "ffv1",
        str(clips / "dot.mkv"),
    )  # fmt: skip
    found = reasons(look(clips.parent))
    expected = {
        "dot.mkv": "1x1 pixels",
        "half.mp4": "cut short",
        "header.mp4": "cut short",
        "text.mp4": "seems to be text",
        "zero.mp4": "zero bytes",
    }
    assert found.keys() == expected.keys()
    assert {name: found[name] for name, part in expected.items() if part not in found[name]} == {}


def test_what_two_datasets_take_is_not_looked_into_behind_a_link(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clips.parent / "secret").write_bytes(b"GIF89a")
    (clips / "shared.mp4").symlink_to(clips.parent / "secret")
    looked: list[Path] = []
    real = content_as_read
    monkeypatch.setattr(media_files, "content_as_read", lambda path: looked.append(path) or real(path))
    file = clips.parent / "two.yaml"
    sets = (
        "- {id: video, dataset_type: video, instance_data_dir: clips}\n"
        "- {id: audio, dataset_type: audio, instance_data_dir: clips, audio: {audio_only: true}}\n"
    )
    file.write_text(f"{sets}- {{id: text, dataset_type: text_embeds}}\n")
    datasets = load_datasets(file)
    found = _each_by_its_content(
        [
            MediaFile(dataset, bounds_of(datasets, dataset), clips / name)
            for dataset in datasets.files
            for name in ("good.mp4", "shared.mp4")
        ]
    )
    assert looked == [clips / "good.mp4"]
    assert [file.path.name for file in found].count("shared.mp4") == 2
