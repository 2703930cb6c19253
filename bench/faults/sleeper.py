"""A writer that is suspended in the middle of a commit, and wakes up when others have gone on without it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping

from bench.faults.injector import Stopped
from bench.faults.keeper import put
from ltxcore.pipeline.data.keys import Key
from ltxcore.store.blobs import Blobs
from ltxcore.store.index import Overtaken

PATIENCE_S = 60.0


class Sleeper:
    """Puts samples without a writer's lock, which it has lost, and stops before its first index segment."""

    def __init__(self, part: str, blobs: Blobs, keys: Mapping[str, Key]) -> None:
        self.keys = keys
        self.overtaken = False
        self._asleep, self._wake = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        mine, create = copy.copy(blobs), blobs.create

        def sleepy(name: str, data: bytes) -> None:
            if "/index/" in name and not self._wake.is_set():
                self._asleep.set()
                self._wake.wait(PATIENCE_S)
            create(name, data)

        mine.create = sleepy  # type: ignore[method-assign, assignment]
        self._thread = threading.Thread(target=self._put, args=(part, mine), daemon=True)
        self._thread.start()
        self._asleep.wait(PATIENCE_S)

    def _put(self, part: str, blobs: Blobs) -> None:
        try:
            put(part, blobs, self.keys)
        except (Overtaken, OSError, Stopped):
            # The fault of who wakes it hits it as well.
            self.overtaken = True
        except BaseException as error:  # noqa: BLE001 - it is raised by who wakes it
            self._error = error
        finally:
            self._asleep.set()

    def wake(self) -> None:
        """Let it go on to its end.

        Raises:
            BaseException: what it ended with, but for `Overtaken`.
        """
        self._wake.set()
        self._thread.join(PATIENCE_S)
        if self._error is not None:
            raise self._error
