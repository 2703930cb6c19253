"""What people ask of a training while it goes on, as the loop sees it. Where they ask, the stage knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Wishes:
    """What is asked for after a step."""

    save: bool = False
    """Write a checkpoint."""
    sample: bool = False
    """Leave the LoRA for rendering."""
    stop: bool = False
    """Let this step be the last one, as if the recipe asked for no more."""


NOTHING = Wishes()


class Control(Protocol):
    """Takes wishes. In several processes the first one reads them, and all of them follow."""

    def read(self, step: int, total: int, trained: bool) -> Wishes:
        """What is asked for after `step` of `total`; on record from here on. In the first process only.

        Args:
            step: the steps that are done.
            total: the steps that there are.
            trained: whether the step was done just now; else the training continues from it.
        """

    def follow(self, step: int, wishes: Wishes) -> None:
        """Know what was read after a step, in every process."""

    def saved(self, step: int) -> None:
        """A checkpoint of `step` is written, as was asked. In the first process only."""


class Undisturbed:
    """Nobody asks for anything."""

    def read(self, step: int, total: int, trained: bool) -> Wishes:
        """Nothing."""
        return NOTHING

    def follow(self, step: int, wishes: Wishes) -> None:
        """Nothing follows."""

    def saved(self, step: int) -> None:
        """Nobody asked."""
