"""Loads the next item while the current one is computed."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Loads items `first` … `last - 1` in one background thread, one ahead of the reader.

    A context manager: leaving it drops what was not taken and ends the thread. An error in `load` is
    raised by the `take` of that item.
    """

    def __init__(self, load: Callable[[int], T], first: int, last: int) -> None:
        self._load, self._next, self._last = load, first, last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self._ahead: Future[T] | None = None
        self.waited_s = 0.0
        """Seconds that all `take` calls together stood waiting for data."""

    def __enter__(self) -> Prefetcher[T]:
        self._start_next()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def take(self) -> T:
        """The next item.

        Raises:
            IndexError: all items were taken.
            Exception: whatever `load` raised for this item.
        """
        if self._ahead is None:
            raise IndexError(f"all items before {self._last} were taken")
        started = time.monotonic()
        item = self._ahead.result()
        self.waited_s += time.monotonic() - started
        self._start_next()
        return item

    def _start_next(self) -> None:
        if self._next >= self._last:
            self._ahead = None
            return
        self._ahead = self._pool.submit(self._load, self._next)
        self._next += 1
