"""Rejections by reason, for whoever has thousands of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ltxcore.store.snapshot import Rejection

EXAMPLES = 3
"""Files named beside each reason for rejection."""


@dataclass(frozen=True)
class Reason:
    """Files that were rejected for one reason."""

    text: str
    """As the first of them has it."""
    count: int
    examples: tuple[str, ...]


def by_reason(rejections: Iterable[Rejection]) -> list[Reason]:
    """The most frequent first: numbers and what follows a colon differ from file to file."""
    groups: dict[str, list[Rejection]] = {}
    for rejection in rejections:
        general = re.sub(r"\d[\d.,]*", "#", rejection.reason.split(": ")[0].split("; ")[0])
        groups.setdefault(general, []).append(rejection)
    ordered = sorted(groups.values(), key=lambda members: (-len(members), members[0].reason))
    return [
        Reason(members[0].reason, len(members), tuple(member.id for member in members[:EXAMPLES]))
        for members in ordered
    ]
