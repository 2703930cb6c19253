"""Files of a dataset are opened carefully: plain, inside it, up to a size."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ltxcore.media import ffmpeg_process
from ltxcore.media.dataset_files import Bounds, check_inside, open_inside, read_inside
from ltxcore.media.discover import entries
from ltxcore.media.errors import MediaError
from ltxcore.media.probe import probe
from tests.unit.media.clips import ffmpeg, numbered_clip

SECRET = "hf_" + "x" * 34


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "data" / "deep").mkdir(parents=True)
    return tmp_path / "data"


def test_links_are_followed_inside_and_outside_only_where_asked(root: Path) -> None:
    (root / "deep" / "real").write_text("inside")
    (root / "near").symlink_to("deep/real")
    (root / "again").symlink_to("near")
    for name in ("deep/real", "near", "again"):
        assert read_inside(root / name, Bounds(root), 10) == b"inside"
    (root / "far").symlink_to("../secret")
    (root / "folder").symlink_to("..")
    (root / "absolute").symlink_to(root.parent / "secret")
    for name in ("far", "folder/secret", "absolute"):
        with pytest.raises(
            MediaError, match=r"is a link out of the datasets' directories.*follow_links: true"
        ):
            read_inside(root / name, Bounds(root), 100)
        assert read_inside(root / name, Bounds(root, follow_links=True), 100) == SECRET.encode()


def test_links_may_lead_into_the_other_datasets_of_the_job(root: Path) -> None:
    (root / "one.txt").symlink_to("../captions/one.txt")
    (root / "shared").symlink_to("../captions")
    (root / "secret.txt").symlink_to("../captions/secret.txt")
    captions = root.parent / "captions"
    captions.mkdir()
    (captions / "one.txt").write_text("a fox")
    (captions / "secret.txt").symlink_to("../secret")
    bounds = Bounds(root, others=(captions,))
    assert read_inside(root / "one.txt", bounds, 10) == b"a fox"
    inside = {entry.path.relative_to(root).as_posix() for entry in entries(bounds) if not entry.trouble}
    assert inside == {"one.txt", "secret.txt", "shared/one.txt", "shared/secret.txt"}
    for name in ("secret.txt", "shared/secret.txt"):
        with pytest.raises(MediaError, match="is a link out of the datasets' directories"):
            read_inside(root / name, bounds, 100)
    with pytest.raises(MediaError, match="is a link out of the datasets' directories"):
        read_inside(root / "one.txt", Bounds(root), 10)


def test_a_root_behind_a_link_is_a_root(root: Path) -> None:
    (root / "a").write_text("a")
    (root.parent / "door").symlink_to(root)
    assert read_inside(root.parent / "door" / "a", Bounds(root.parent / "door"), 9) == b"a"


def test_a_link_that_is_put_in_the_way_meanwhile_is_not_followed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "deep" / "a").write_text("mine")
    whole = Path.resolve

    def swapped(path: Path, strict: bool = False) -> Path:
        found = whole(path, strict)
        if strict:
            (root / "deep" / "a").unlink()
            (root / "deep" / "a").symlink_to(root.parent / "secret")
        return found

    monkeypatch.setattr(Path, "resolve", swapped)
    with (
        pytest.raises(MediaError, match="symbolic links"),
        open_inside(root / "deep" / "a", Bounds(root)) as f,
    ):
        assert SECRET.encode() not in f.read()


def test_pipes_sockets_devices_and_directories_are_named_at_once(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        for name in ("pipe", "socket", "zero"):
            with pytest.raises(MediaError, match="is not a regular file"):
                read_inside(root / name, Bounds(root, follow_links=True), 10)
    with pytest.raises(MediaError, match="is a directory"):
        check_inside(root / "deep", Bounds(root))
    with pytest.raises(FileNotFoundError):
        read_inside(root / "none", Bounds(root), 10)


def test_the_limit_is_said_with_its_key(root: Path) -> None:
    (root / "long").write_bytes(b"x" * 11)
    with pytest.raises(MediaError, match=r"11 bytes, and 10 are the most that is read.*raise `limit`"):
        read_inside(root / "long", Bounds(root), 10, "limit")


HOSTILE = """
import resource, sys
from pathlib import Path
from ltxcore.config.dataset_kinds import ImageDataset
from ltxcore.media.captions import read_captions
from ltxcore.media.dataset_files import Bounds, check_inside
from ltxcore.media.decode import decode_frames
from ltxcore.media.errors import MediaError
from ltxcore.media.pictures import probe_picture
from ltxcore.media.probe import probe
from ltxcore.media.sound_files import probe_sound
from ltxcore.media.thumbnail import thumbnail
root = Path(sys.argv[1])
dataset = ImageDataset(id="d", dataset_type="image", instance_data_dir="x")
looks = {
    "huge.png": lambda path: read_captions(dataset, path, Bounds(root)),
    "lines.png": lambda path: read_captions(dataset, path, Bounds(root)),
    "pipe.png": lambda path: read_captions(dataset, path, Bounds(root)),
    "socket.png": lambda path: read_captions(dataset, path, Bounds(root)),
    "zero": lambda path: check_inside(path, Bounds(root, follow_links=True)),
    "bomb.png": probe_picture, "bomb.webp": probe_picture,
    "bomb.mkv": probe, "bomb.gif": probe, "small-header.avi": probe,
    "cover.mp4": lambda path: (probe(path), thumbnail(path)),
    "cover.mkv": probe, "cover-like-film.mov": probe, "cover.mp3": probe_sound,
}
for name in sys.argv[2:]:
    try:
        looks[name](root / name)
        print("taken")
    except MediaError as error:
        print(error)
# ru_maxrss would count what this process had before the fork.
own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
TOO_LARGE = "13000x13000 pixels, 169 megapixels; max_megapixels is 100"
HOSTILE_FILES = {
    "huge.png": "huge.txt is too large: 300000000 bytes, and 65536 are the most that is read",
    "lines.png": "lines.txt is too large",
    "pipe.png": "pipe.txt is not a regular file",
    "socket.png": "socket.txt is not a regular file",
    "zero": "is not a regular file",
    "bomb.png": TOO_LARGE,
    "bomb.webp": "16000x8000 pixels, 128 megapixels; max_megapixels is 100",
    "bomb.mkv": TOO_LARGE,
    "bomb.gif": TOO_LARGE,
    "small-header.avi": TOO_LARGE,
    "cover.mp4": "taken",
    "cover.mkv": "taken",
    "cover-like-film.mov": "taken",
    "cover.mp3": "taken",
}


def test_what_is_made_to_choke_on_has_a_verdict_in_little_memory(root: Path) -> None:
    """Of all processes together: Python's and the largest of its children, which run one after the other."""
    with (root / "huge.txt").open("wb") as file:
        file.truncate(300_000_000)
    (root / "lines.txt").write_bytes(b"a\n" * 1_000_000)
    os.mkfifo(root / "pipe.txt")
    (root / "zero").symlink_to("/dev/zero")
    write_bombs(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.txt"))
        command = [sys.executable, "-c", HOSTILE, str(root), *HOSTILE_FILES]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    *verdicts, peak_kib = done.stdout.splitlines()
    found = dict(zip(HOSTILE_FILES, verdicts, strict=True))
    assert {name: found[name] for name, part in HOSTILE_FILES.items() if part not in found[name]} == {}
    assert int(peak_kib) < 256 * 1024


def test_a_listing_without_end_is_cut_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = numbered_clip(root / "clip.mkv", 30)
    assert probe(clip).video.frame_count == 30
    monkeypatch.setattr(ffmpeg_process, "MOST_LISTED_BYTES", 1000)
    with pytest.raises(MediaError, match=r"lists more than .* of frames or faults; cut it into clips"):
        probe(clip)


def write_bombs(root: Path) -> None:
    """Pictures that unfold to 169 MB and more: alone, in videos and animations, and as covers."""
    write_bomb(root / "bomb.png", 13_000)
    assert (root / "bomb.png").stat().st_size < 1_000_000
    bomb = str(root / "bomb.png")
    png = ("-i", bomb)
    ffmpeg(*png, "-c:v", "copy", str(root / "bomb.mkv"))
    film, tone = ("-f", "lavfi", "-i", "testsrc2=s=64x64:d=1"), ("-f", "lavfi", "-i", "sine=d=1")
    cover = ("-map", "0", "-map", "1", "-c:v:1", "copy", "-disposition:v:1", "attached_pic")
    ffmpeg(*film, *png, *cover, str(root / "cover.mp4"))
    attached = ("-attach", bomb, "-metadata:s:t", "mimetype=image/png")
    ffmpeg(*film, *attached, str(root / "cover.mkv"))
    ffmpeg(*film, *png, *cover, "-c:v:0", "png", str(root / "cover-like-film.mov"))
    ffmpeg(*tone, *png, "-map", "0", "-map", "1", "-c:v", "copy", str(root / "cover.mp3"))
    small = root / "small.gif"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64:d=0.2", str(small))
    data = bytearray(small.read_bytes())
    data[6:10] = (13_000).to_bytes(2, "little") * 2
    (root / "bomb.gif").write_bytes(data)
    still = root / "small.webp"
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    frames[0].save(still, save_all=True, append_images=frames[1:])
    data = bytearray(still.read_bytes())
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (15_999).to_bytes(3, "little") + (7_999).to_bytes(3, "little")
    (root / "bomb.webp").write_bytes(data)
    ffmpeg(*png, "-c:v", "copy", str(root / "large.avi"))
    data = bytearray((root / "large.avi").read_bytes())
    size = (13_000).to_bytes(4, "little") * 2
    at = data.index(size, data.index(b"strf"))
    data[at : at + 8] = (64).to_bytes(4, "little") * 2
    (root / "small-header.avi").write_bytes(data)


def write_bomb(path: Path, edge: int) -> None:
    """A PNG of one colour."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer, row = zlib.compressobj(1), b"\0" * (1 + edge)
    body = b"".join(packer.compress(row) for _ in range(edge)) + packer.flush()
    header = struct.pack(">IIBBBBB", edge, edge, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
