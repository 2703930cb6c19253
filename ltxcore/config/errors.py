"""What a person reads when a configuration is wrong: what was found, where, and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Problem:
    """One fault in a configuration file."""

    key: str
    message: str
    line: int | None = None
    owner: str = ""
    """The id of the dataset that the key belongs to, where keys begin with its number."""

    def render(self, source: str) -> str:
        """The problem in one line: `file:line: owner: key: message`, without the parts that are not known."""
        where = source if self.line is None else f"{source}:{self.line}"
        return ": ".join(part for part in (where, self.owner, self.key, self.message) if part)


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` has one entry for each fault."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(p.render(source) for p in self.problems))


MOST_NAMES: Final = 16
"""As many are listed in whole where nothing is near."""
NEAREST: Final = 3
NEAR: Final = 0.6
TELLING: Final = 3
"""A name that holds a word of so many letters is near it: people shorten the names of clips."""
IN_PARTS: Final = 0.5
"""How much whole words in common count beside the letters: `caption_strategy` is near `caption_…`."""


def nearest(word: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """The three names nearest to a misspelt word; where none is near, what is known (of that, `listed`).

    If many names are known and none is near, only their number is given.
    """
    names = sorted(known)
    close = [name for name in _ranked(word, names) if _similarity(word, name) >= NEAR][:NEAREST]
    if close:
        return f"did you mean {_either(close)}?"
    names = names if listed is None else sorted(listed)
    if len(names) <= MOST_NAMES:
        return "known here: " + ", ".join(names)
    return f"none of the {len(names)} known is near it"


def _ranked(word: str, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (-_similarity(word, name), name))


def _similarity(word: str, name: str) -> float:
    """Similarity from 0 to 1, by common letters and common words."""
    letters = difflib.SequenceMatcher(None, word.lower(), name.lower()).ratio()
    ours, theirs = set(word.lower().split("_")), set(name.lower().split("_"))
    words = len(ours & theirs) / max(len(ours), len(theirs))
    held = len(word) >= TELLING and word.lower() in name.lower()
    return max(letters, IN_PARTS * letters + (1 - IN_PARTS) * words, NEAR if held else 0.0)


def _either(names: Sequence[str]) -> str:
    marked = [f"`{name}`" for name in names]
    return marked[0] if len(marked) == 1 else f"{', '.join(marked[:-1])} or {marked[-1]}"
