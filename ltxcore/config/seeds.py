"""Seeds as people write them."""

from __future__ import annotations

from typing import Final

OPEN: Final = -1
"""Draw one: a run keeps what was drawn, and its retries and resumed runs have the same."""
