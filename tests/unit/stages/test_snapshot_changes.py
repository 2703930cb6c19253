"""What is told of the difference between two snapshots."""

from __future__ import annotations

from typing import Any

from ltxcore.jobs.report.snapshot_changes import compare_snapshots
from ltxcore.store.snapshot import FrameSelection, Geometry, Rejection, Sample, Snapshot, SoundSelection

GEOMETRY = Geometry(source=(64, 64), resize=(64, 64), crop_xy=(0, 0), target=(64, 64))
SOUND = SoundSelection(start_s=0, duration_s=0.36, channels=2, layout="stereo")


def sample(name: str, content: str = "", **more: Any) -> Sample:
    values: dict[str, Any] = {
        "id": f"clips/{name}",
        "dataset": "clips",
        "path": name,
        "media_id": content or f"content of {name}",
        "captions": ("a caption",),
        "frames": FrameSelection(indices=tuple(range(9)), fps=25, start_s=0),
        "geometry": GEOMETRY,
        "audio": SOUND,
        "source_fps": 25,
        "source_duration_s": 0.36,
    }
    return Sample.model_validate(values | more)


def snapshot(samples: list[Sample], rejected: dict[str, str] | None = None) -> Snapshot:
    reasons = [
        Rejection(id=f"clips/{name}", dataset="clips", path=name, reason=reason)
        for name, reason in (rejected or {}).items()
    ]
    return Snapshot(
        roots={"clips": "/data"},
        samples=tuple(samples),
        rejections=tuple(reasons),
        wants_audio=True,
        fps=(25.0,),
    )


def test_every_kind_of_change_is_reported_once() -> None:
    longer = FrameSelection(indices=tuple(range(17)), fps=25, start_s=0)
    before = snapshot(
        [sample("same"), sample("gone"), sample("old-name"), sample("content"), sample("words"),
         sample("length"), sample("silent"), sample("spoilt"), sample("often")],
        {"mended": "is empty (zero bytes)", "still-bad": "has no caption"},
    )  # fmt: skip
    after = snapshot(
        [sample("same"), sample("new"), sample("new-name", "content of old-name"),
         sample("content", "other bytes"), sample("words", captions=("another",)),
         sample("length", frames=longer), sample("silent", audio=None), sample("mended"),
         sample("often", visits=3)],
        {"spoilt": "has no caption", "still-bad": "has no caption"},
    )  # fmt: skip
    found = compare_snapshots(before, after)
    assert {
        change.clip.removeprefix("clips/"): (change.what, *change.details) for change in found.changes
    } == {
        "gone": ("removed", "64x64@9"),
        "new": ("added", "64x64@9"),
        "new-name": ("renamed", "was clips/old-name"),
        "content": ("changed", "other content"),
        "words": ("changed", "other caption"),
        "length": ("changed", "bucket 64x64@9 -> 64x64@17", "other frames: 9 -> 17"),
        "silent": ("changed", "has no sound now"),
        "spoilt": ("now rejected", "has no caption"),
        "mended": ("now taken", "was rejected: is empty (zero bytes)"),
        "often": ("changed", "visits 1 x 1 -> 3 x 1"),
    }
    assert found.unchanged == 2
    assert found.buckets == (("64x64@17", 0, 1), ("64x64@9", 9, 8))
    assert (found.count("added"), found.count("changed")) == (1, 5)
    assert len(found.rows()) == 10


def test_equal_snapshots_have_no_changes_and_captions_are_counted() -> None:
    one = snapshot([sample("a", captions=("x", "y", "z"))])
    assert compare_snapshots(one, one).changes == ()
    two = snapshot([sample("a", captions=("x", "Y", "z"))])
    assert compare_snapshots(one, two).changes[0].details == ("1 of 3 captions changed",)
    three = snapshot([sample("a", captions=("x",))])
    assert compare_snapshots(one, three).changes[0].details == ("captions: 3 -> 1",)
