"""What a person wants, before any file of theirs has been read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import Field, field_validator, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.errors import nearest
from ltxcore.config.recipe_document import PRESETS, presets

BY_REFERENCE: Final = frozenset({"canny-control", "depth-control", "pose-control", "detail"})
"""Goals that need a second video beside each clip."""
OF_MOTION: Final = "motion"
OF_SOUND: Final = "sound"
"""The goal whose data are sounds."""


def names_of(kind: str) -> list[str]:
    """The presets of a kind: `cards` or `goals`."""
    return [name for name, file in presets().items() if file.parent == PRESETS / kind]


class Wishes(Strict):
    """The answers to the questions of `ltx2 init`."""

    clips: Path
    """The folder of clips, or of sounds."""
    goal: str
    card: str
    hours: float | None = Field(None, gt=0)
    """How long the training may take. None: as long as the goal's preset says."""
    trigger: str = ""
    """The words that call what is trained; empty: none, captions are taken as they are."""
    references: Path | None = None
    """The folder of reference videos, for IC-LoRA."""

    @field_validator("goal", "card")
    @classmethod
    def _known(cls, name: str, info: object) -> str:
        kind = f"{getattr(info, 'field_name', '')}s"
        known = names_of(kind)
        if name not in known:
            raise ValueError(f"is {name!r}; {nearest(name, known)}")
        return name

    @model_validator(mode="after")
    def _folders_are_there(self) -> Wishes:
        for folder in filter(None, (self.clips, self.references)):
            if not folder.is_dir():
                raise ValueError(f"there is no folder {folder}")
        if self.goal in BY_REFERENCE and self.references is None:
            raise ValueError(
                f"the goal {self.goal} needs a reference video for each clip, of the same name, in a folder "
                "of their own: --references FOLDER"
            )
        if self.references is not None and self.goal not in BY_REFERENCE:
            raise ValueError(f"references belong to {', '.join(sorted(BY_REFERENCE))}; {self.goal} has none")
        return self
