"""Which files of a store are there and not cut short, as a copy or a power cut may leave them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from ltxcore.store.blobs import Blobs

logger = logging.getLogger(__name__)

_logged: set[tuple[str, str]] = set()
"""Store and name of what is in the log of this process already."""


def present(blobs: Blobs, names: Collection[str], is_cut: Callable[[str, int], bool]) -> set[str]:
    """Those of the names that are there whole, judged by their sizes or ends; content is judged on reading.

    Args:
        is_cut: whether the file of a name, which has so many bytes and is not empty, lacks its end.
    """
    sizes = blobs.sizes(names)
    broken = {name for name, size in sizes.items() if size == 0 or is_cut(name, size)}
    if news := sorted(name for name in broken if (blobs.url, name) not in _logged):
        _logged.update((blobs.url, name) for name in news)
        more = f" and {len(news) - 1} more" if len(news) > 1 else ""
        logger.warning("%s%s in %s: empty or cut short; made again", news[0], more, blobs.url)
    return sizes.keys() - broken
