"""The sample clips: complete, the same every time, cheap when they are there, mended when half made."""

from __future__ import annotations

import shutil
from pathlib import Path

from ltxcore.media.probe import read_streams
from ltxcore.media.sample_list import BAD_FILES, CAPTIONS, CLIPS
from ltxcore.media.samples import MARKER, make_samples
from ltxcore.store.fingerprint import hash_file


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hash_file(path) for path in files}


def test_a_half_made_directory_is_made_whole_with_the_same_bytes(sample_clips: Path, tmp_path: Path) -> None:
    (tmp_path / "twin.mp4").write_bytes(b"half")
    made = make_samples(tmp_path)
    assert contents(tmp_path) == contents(sample_clips)
    assert set(contents(tmp_path)) == {*(c.name for c in CLIPS), *BAD_FILES, *CAPTIONS, MARKER}
    assert len(made) == len(CLIPS) + len(BAD_FILES)


def test_a_complete_directory_keeps_what_was_edited_and_gets_what_is_missing(
    sample_clips: Path, tmp_path: Path
) -> None:
    shutil.copytree(sample_clips, tmp_path, dirs_exist_ok=True)
    whole = contents(tmp_path)
    (tmp_path / "blue-box-up.txt").write_text("my own words")
    (tmp_path / "twin.mov").unlink()
    make_samples(tmp_path)
    assert {name for name, key in contents(tmp_path).items() if whole[name] != key} == {"blue-box-up.txt"}


def test_the_clips_are_as_varied_as_they_say(sample_clips: Path) -> None:
    for clip in CLIPS:
        found = read_streams(sample_clips / clip.name)
        shown = clip.size[::-1] if clip.turned else clip.size
        assert (found.video.width, found.video.height) == shown, clip.name
        assert found.video.frame_count == clip.frames, clip.name
        assert (0 if found.audio is None else found.audio.channels) == clip.channels, clip.name
        assert (len({step for step, _ in found.video.steps}) > 2) == (clip.jitter_s > 0), clip.name
        assert found.notes == ()
