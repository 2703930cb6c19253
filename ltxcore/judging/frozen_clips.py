"""Held-out clips, frozen as they were on the first night: content, frames and caption.

A caption that is edited later, or other frames, would make the same LoRA another one. So a clip is judged
ever after as it was first held out, and `gc` keeps what that needs of the store.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ltxcore.config.base import Strict
from ltxcore.store.blobs import read_model, write_json
from ltxcore.store.snapshot import Sample

FOLDER: Final = "held-out"


class FrozenClip(Strict):
    """A held-out clip in the state in which it is judged."""

    sample: Sample
    """With its one caption."""
    since: str
    """Fingerprint of the training that was the first to hold it out."""

    @property
    def media_id(self) -> str:
        """sha256 of its file, by which it is known again."""
        return self.sample.media_id

    @property
    def caption(self) -> str:
        """The caption that it is judged with."""
        return self.sample.captions[0]


def freeze(sample: Sample, training: str) -> FrozenClip:
    """A clip as it is now, with the caption that evaluations use."""
    return FrozenClip(
        sample=sample.model_copy(update={"captions": sample.captions[:1], "caption_weights": ()}),
        since=training,
    )


class FrozenClips:
    """The record of a model's frozen clips: a file each, which is written once."""

    def __init__(self, directory: Path) -> None:
        """Of `directory`, the model's."""
        self.directory = directory / FOLDER

    def find(self, media_id: str) -> FrozenClip | None:
        """A clip by its content; None where it was never held out.

        Raises:
            DamagedFile: its record is not what was written.
        """
        file = self._file(media_id)
        return read_model(file, FrozenClip) if file.exists() else None

    def keep(self, clips: Iterable[FrozenClip]) -> None:
        """Write down those that are not on record."""
        for clip in clips:
            if not self._file(clip.media_id).exists():
                write_json(self._file(clip.media_id), clip.model_dump(mode="json"))

    def all(self) -> list[FrozenClip]:
        """Every clip on record.

        Raises:
            DamagedFile: a record is not what was written.
        """
        return [read_model(file, FrozenClip) for file in sorted(self.directory.glob("*.json"))]

    def _file(self, media_id: str) -> Path:
        return self.directory / f"{media_id}.json"
