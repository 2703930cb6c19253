"""A limit for a whole call to the outside.

The time-outs of HTTP libraries are for each read: a server that sends a byte a second holds a call for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

CALL_LIMIT_S: Final = 10.0
"""For a question and a short answer. Moving a file takes `transfer_limit` on top."""
SLOWEST_BYTES_S: Final = 64 * 1024
"""A connection below this moves no file that is worth waiting for."""


class DeadlineError(TimeoutError):
    """A call to the outside took too long. It may still go on in its thread; what it brings is dropped."""


class Caller:
    """Makes calls with a deadline, one after the other.

    After one that was given up, and that still hangs, the next fails at once instead of hanging beside it.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def within(self, limit_s: float, what: str, call: Callable[[], Result]) -> Result:
        """The result of a call, or its exception, if it ends in time.

        It runs in a daemon thread of its own, which nobody waits for once the time is up.

        Raises:
            DeadlineError: it did not end within `limit_s`, or one before it has not ended yet.
        """
        if self._thread is not None and self._thread.is_alive():
            raise DeadlineError(f"{what} was not tried: {self._thread.name} has not ended yet")
        outcome: dict[str, Any] = {}

        def work() -> None:
            try:
                outcome["value"] = call()
            except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
                outcome["error"] = error

        thread = self._thread = threading.Thread(target=work, name=what, daemon=True)
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            raise DeadlineError(f"{what} took longer than {limit_s:g} s")
        if "error" in outcome:
            raise outcome["error"]
        result: Result = outcome["value"]
        return result


def within(limit_s: float, what: str, call: Callable[[], Result]) -> Result:
    """One call with a deadline; see `Caller.within`."""
    return Caller().within(limit_s, what, call)


def transfer_limit(size_bytes: int) -> float:
    """Seconds that the transfer of a file may take."""
    return size_bytes / SLOWEST_BYTES_S
