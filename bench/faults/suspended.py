"""Who works on a store and is suspended just before one of its writes or deletions, while others go on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ltxcore.store.blobs import Blobs

STEPS = ("write", "create", "write_all", "delete")
"""All by which a store is changed."""


class Suspended:
    """A view of a store whose `number`-th change, counted from 1, waits until others have gone on.

    `delete` of several files is suspended before each of them.
    """

    def __init__(self, blobs: Blobs, number: int, meanwhile: Callable[[], object]) -> None:
        self.steps = 0
        self.blobs = copy.copy(blobs)
        self._number, self._meanwhile = number, meanwhile
        for step in STEPS:
            setattr(self.blobs, step, self._counted(step, getattr(blobs, step)))

    @property
    def has_slept(self) -> bool:
        """Whether there was so much to change."""
        return self.steps >= self._number

    def _counted(self, step: str, plain: Callable[..., None]) -> Callable[..., None]:
        def call(what: Any, *rest: Any, **more: Any) -> None:
            for one in [[name] for name in what] if step == "delete" else [what]:
                self.steps += 1
                if self.steps == self._number:
                    self._meanwhile()
                plain(one, *rest, **more)

        return call
