"""Leased slots of concurrency limits: the runs of one recorder take the GPU of this machine in turn."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Lease:
    """Slots that a flow run holds."""

    limit: str
    slots: int
    holder: str | None
    until_s: float


class Slots:
    """Limits by name, and who holds their slots."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits: dict[str, dict[str, Any]] = {}
        self._leases: dict[str, Lease] = {}

    def make(self, name: str, limit: int, at: str) -> dict[str, Any]:
        """A new limit, or the one of that name."""
        found = {"id": str(uuid.uuid4()), "created": at, "updated": at, "name": name, "limit": limit}
        return self._limits.setdefault(name, {**found, "active": True, "slot_decay_per_second": 0.0})

    def find(self, name: str) -> dict[str, Any] | None:
        """The limit with its taken slots, None where there is none of that name."""
        self._drop_ended()
        limit = self._limits.get(name)
        return None if limit is None else {**limit, "active_slots": self._taken(name)}

    def take(self, name: str, slots: int, holder: str | None, duration_s: float) -> str | None:
        """The id of a lease, None where too few slots are free.

        Raises:
            KeyError: there is no such limit.
        """
        self._drop_ended()
        if self._taken(name) + slots > self._limits[name]["limit"]:
            return None
        lease = str(uuid.uuid4())
        self._leases[lease] = Lease(name, slots, holder, self._clock() + duration_s)
        return lease

    def renew(self, lease: str, duration_s: float) -> bool:
        """Hold on to a lease; False where it has ended."""
        self._drop_ended()
        if lease in self._leases:
            self._leases[lease].until_s = self._clock() + duration_s
        return lease in self._leases

    def give_back(self, lease: str) -> None:
        """End a lease."""
        self._leases.pop(lease, None)

    def end_of(self, holder: str) -> None:
        """End the leases of a flow run that is over: a killed one gives nothing back itself."""
        for key in [key for key, lease in self._leases.items() if lease.holder == holder]:
            del self._leases[key]

    def _taken(self, name: str) -> int:
        return sum(lease.slots for lease in self._leases.values() if lease.limit == name)

    def _drop_ended(self) -> None:
        now = self._clock()
        for key, lease in list(self._leases.items()):
            if lease.until_s < now:
                del self._leases[key]
