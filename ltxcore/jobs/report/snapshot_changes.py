"""What differs between two snapshots: files that came, went, were renamed, or changed in some respect."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

from ltxcore.pipeline.data.tables import Row
from ltxcore.store.snapshot import Sample, Snapshot

What = Literal["added", "removed", "renamed", "changed", "now taken", "now rejected"]


@dataclass(frozen=True)
class Change:
    """One file that is not as it was."""

    clip: str
    what: What
    details: tuple[str, ...]


@dataclass(frozen=True)
class SnapshotChanges:
    """All changes from one snapshot to another."""

    before: str
    after: str
    changes: tuple[Change, ...]
    unchanged: int
    buckets: tuple[tuple[str, int, int], ...]
    """Bucket, samples before, samples after; only those whose count differs."""

    def count(self, what: What) -> int:
        """How many changes are of one kind."""
        return sum(change.what == what for change in self.changes)

    def rows(self) -> list[Row]:
        """One row for each change."""
        return [
            {"clip": change.clip, "change": change.what, "details": "; ".join(change.details)}
            for change in self.changes
        ]

    def bucket_rows(self) -> list[Row]:
        """One row for each bucket whose count differs."""
        return [
            {"bucket": name, "clips before": before, "clips after": after}
            for name, before, after in self.buckets
        ]

    def counts(self) -> str:
        """How many files changed in which way; empty where none did."""
        counted = {what: self.count(what) for what in get_args(What)}
        return ", ".join(f"{number} {what}" for what, number in counted.items() if number)


def compare_snapshots(before: Snapshot, after: Snapshot) -> SnapshotChanges:
    """What a person would say has changed, clip by clip."""
    old, new = {s.id: s for s in before.samples}, {s.id: s for s in after.samples}
    old_reasons, new_reasons = ({r.id: r.reason for r in s.rejections} for s in (before, after))
    renamed = _renamed(old, new, old_reasons, new_reasons)
    gone = set(renamed.values())
    changes = []
    unchanged = 0
    for clip in sorted(old.keys() | new.keys() | old_reasons.keys() | new_reasons.keys()):
        if clip in gone:
            continue
        change = _change(clip, old, new, old_reasons, new_reasons, renamed.get(clip))
        if change is None:
            unchanged += 1
        else:
            changes.append(change)
    return SnapshotChanges(before.id, after.id, tuple(changes), unchanged, _bucket_changes(before, after))


def _renamed(
    old: dict[str, Sample], new: dict[str, Sample], old_reasons: dict[str, str], new_reasons: dict[str, str]
) -> dict[str, str]:
    """New id -> old id, for contents that lie under another name now."""
    missing = {s.media_id: s.id for s in old.values() if s.id not in new and s.id not in new_reasons}
    pairs = {}
    for sample in sorted(new.values(), key=lambda s: s.id):
        if sample.id not in old and sample.id not in old_reasons and sample.media_id in missing:
            pairs[sample.id] = missing.pop(sample.media_id)
    return pairs


def _change(
    clip: str,
    old: dict[str, Sample],
    new: dict[str, Sample],
    old_reasons: dict[str, str],
    new_reasons: dict[str, str],
    renamed_from: str | None,
) -> Change | None:
    if renamed_from is not None:
        return Change(clip, "renamed", (f"was {renamed_from}", *_details(old[renamed_from], new[clip])))
    if clip in new and clip in old:
        details = _details(old[clip], new[clip])
        return Change(clip, "changed", details) if details else None
    if clip in new:
        if clip in old_reasons:
            return Change(clip, "now taken", (f"was rejected: {old_reasons[clip]}",))
        return Change(clip, "added", (new[clip].bucket,))
    if clip in new_reasons:
        if clip in old:
            return Change(clip, "now rejected", (new_reasons[clip],))
        if clip not in old_reasons:
            return Change(clip, "added", (f"rejected: {new_reasons[clip]}",))
        same = old_reasons[clip] == new_reasons[clip]
        return None if same else Change(clip, "changed", (f"rejected: {new_reasons[clip]}",))
    return Change(clip, "removed", (old[clip].bucket if clip in old else "was rejected",))


def _details(before: Sample, after: Sample) -> tuple[str, ...]:
    details = []
    if before.media_id != after.media_id:
        details.append("other content")
    if before.captions != after.captions:
        details.append(_caption_change(before.captions, after.captions))
    if before.bucket != after.bucket:
        details.append(f"bucket {before.bucket} -> {after.bucket}")
    if before.frames != after.frames and before.media_id == after.media_id:
        details.append(f"other frames: {before.frames.count} -> {after.frames.count}")
    if before.geometry != after.geometry and before.bucket == after.bucket:
        details.append("cut elsewhere")
    if (before.audio is None) != (after.audio is None):
        details.append("has sound now" if after.audio else "has no sound now")
    elif before.audio != after.audio and before.media_id == after.media_id:
        details.append("other stretch of sound")
    if (before.visits, before.probability) != (after.visits, after.probability):
        details.append(
            f"visits {before.visits} x {before.probability:g} -> {after.visits} x {after.probability:g}"
        )
    return tuple(details)


def _caption_change(before: tuple[str, ...], after: tuple[str, ...]) -> str:
    if len(before) != len(after):
        return f"captions: {len(before)} -> {len(after)}"
    number = sum(a != b for a, b in zip(before, after, strict=True))
    return "other caption" if len(after) == 1 else f"{number} of {len(after)} captions changed"


def _bucket_changes(before: Snapshot, after: Snapshot) -> tuple[tuple[str, int, int], ...]:
    old, new = (Counter(sample.bucket for sample in snapshot.samples) for snapshot in (before, after))
    return tuple((b, old[b], new[b]) for b in sorted(old.keys() | new.keys()) if old[b] != new[b])
