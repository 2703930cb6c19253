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

    def render(self, source: str) -> str:
        where = source if self.line is None else f"{source}:{self.line}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` holds one line for each thing to mend."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(p.render(source) for p in self.problems))


MOST_NAMES: Final = 60
"""Of a list in an error: every key of a section, and not every clip of ten thousand."""


def nearest(word: str, known: Iterable[str], listed: Iterable[str] | None = None) -> str:
    """A suggestion for a misspelt word, or what is known (of that, `listed`) when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    names = names if listed is None else sorted(listed)
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return "known here: " + ", ".join(names[:MOST_NAMES]) + more
