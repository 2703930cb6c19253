"""Keeps the children of `ltx2 serve` alive: one that falls is started again, unless it falls too often."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from flows.child_process import describe_exit
from flows.readiness import Service
from flows.server import stop

POLL_S: Final = 0.5
FALLS: Final = 3
WITHIN_S: Final = 600.0
"""How often a child is started again in this time; what falls once more has a fault that no start mends."""


@dataclass
class Supervised:
    """A child, and how to start it again.

    Attributes:
        service: as it runs now.
        start: starts another. None: what this child did cannot be taken up by another.
    """

    service: Service
    start: Callable[[], Service] | None = None
    _fallen_s: list[float] = field(default_factory=list)

    def stop(self, limit_s: float) -> None:
        """End it as it runs now."""
        stop(self.service.process, limit_s)

    def started_again(self, tell: Callable[[str], None]) -> bool:
        """Start a fallen child again; False where that is of no use."""
        now = time.monotonic()
        self._fallen_s = [fell for fell in self._fallen_s if now - fell < WITHIN_S] + [now]
        if self.start is None or len(self._fallen_s) > FALLS:
            return False
        said = describe_exit(self.service.process.returncode)
        tell(f"{self.service.name} {said}, and is started again. See {self.service.log}")
        self.service = self.start()
        return True


def watch(children: Sequence[Supervised], tell: Callable[[str], None]) -> Service:
    """Start children again as they fall, and return the first that cannot be.

    The runs of a fallen worker are lost with it: an automation makes them Crashed, and Retry goes on from
    what they had committed.
    """
    while True:
        for child in children:
            if child.service.process.poll() is not None and not child.started_again(tell):
                return child.service
        time.sleep(POLL_S)
