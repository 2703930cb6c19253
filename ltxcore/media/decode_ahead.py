"""Decodes clips in parallel ahead of the consumer, and returns them in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

DECODES_AT_ONCE = max(2, min(4, os.cpu_count() or 2))
"""Every decoder has one thread, so a clip costs one core. More clips would only hold frames in memory."""


def decode_ahead(
    items: Iterable[Item], decode: Callable[[Item], Result], at_once: int = DECODES_AT_ONCE
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with its decoded result, in order, while the next ones are decoded.

    At most `at_once` results exist besides the one that was handed out last. What `decode` raises is
    raised here, in its item's turn.
    """
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[tuple[Item, Future[Result]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(decode, item)))
                if len(waiting) > at_once:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
