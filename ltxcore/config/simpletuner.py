"""SimpleTuner's config.json in this project's terms: every key gets a verdict, none is dropped silently.

The rules are data (`simpletuner_training`, `simpletuner_datasets`); here they are applied. What the keys
mean is the seed's documentation; nothing of that programme is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ltxcore.config.base import KeyPath
from ltxcore.config.errors import ConfigError, Problem, nearest

logger = logging.getLogger(__name__)

Verdict = Literal["taken", "renamed", "rounded", "added", "moot", "not yet", "refused"]
BLOCKING: frozenset[Verdict] = frozenset({"refused"})
BLOCKING_IF_STRICT: frozenset[Verdict] = frozenset({"refused", "not yet"})
EMPTY_VALUES = (None, "")


class Unfit(ValueError):
    """A value that a rule cannot convert; the text says what to write instead."""


@dataclass(frozen=True)
class Converted:
    """A value in this project's terms, and what is to be said of the change."""

    value: Any
    note: str = ""
    rounded: bool = False


Converter = Callable[[Any, Path], Converted]
"""Takes the value and the directory of the file that it stands in."""


@dataclass(frozen=True)
class Rule:
    """What becomes of one key."""

    verdict: Literal["taken", "moot", "not yet", "refused"]
    why: str = ""
    to: tuple[str, ...] = ()
    """Where its value goes: dotted paths in the recipe or in the dataset."""
    convert: Converter | None = None
    off: tuple[Any, ...] = ()
    """Values that ask for nothing."""
    needs: str = ""
    """Another key that has to be on, or `key=value`, for this one to mean anything."""
    cases: Mapping[Any, Rule] = field(default_factory=dict)
    """Rules for single values; the rest of this rule is for all others."""

    @property
    def does_something(self) -> bool:
        """Whether some value of the key is taken."""
        return self.verdict == "taken" or any(rule.does_something for rule in self.cases.values())


def take(
    *to: str, why: str = "", convert: Converter | None = None, off: tuple[Any, ...] = (), needs: str = ""
) -> Rule:
    return Rule("taken", why, to, convert, off, needs)


def moot(why: str) -> Rule:
    return Rule("moot", why)


def not_yet(
    without: str,
    *,
    off: tuple[Any, ...] = (),
    needs: str = "",
    cases: Mapping[Any, Rule] | None = None,
) -> Rule:
    """A feature that is not built; `without` says what happens instead."""
    return Rule("not yet", without, off=off, needs=needs, cases=cases or {})


def refuse(why: str, cases: Mapping[Any, Rule] | None = None) -> Rule:
    return Rule("refused", why, cases=cases or {})


@dataclass(frozen=True)
class Line:
    """What is told of one key."""

    key: str
    verdict: Verdict
    told: str
    line: int | None = None

    def render(self) -> str:
        return f"{self.key}: {self.verdict}" + (f": {self.told}" if self.told else "")


@dataclass
class Translation:
    """A file in this project's terms, and a line for each of its keys."""

    source: str
    data: Any
    lines: list[Line] = field(default_factory=list)
    places: dict[KeyPath, int] = field(default_factory=dict)
    """Where in the original each part of `data` stands, for messages."""

    def tell(self, key: str, verdict: Verdict, told: str, line: int | None = None) -> None:
        self.lines.append(Line(key, verdict, told, line))

    def check(self, strict: bool = False) -> None:
        """Refuse what cannot be used.

        Raises:
            ConfigError: a key is refused, or, with `strict`, asks for what is not built yet.
        """
        blocking = BLOCKING_IF_STRICT if strict else BLOCKING
        problems = [
            Problem(line.key, line.told if line.verdict == "refused" else f"not yet: {line.told}", line.line)
            for line in self.lines
            if line.verdict in blocking
        ]
        if problems:
            raise ConfigError(self.source, problems)

    def log(self) -> None:
        """Say once what was not taken as it stands: a warning where the result differs."""
        for line in self.lines:
            if line.verdict == "not yet":
                logger.warning("%s: %s", self.source, line.render())
            elif line.verdict in ("rounded", "added"):
                logger.info("%s: %s", self.source, line.render())
        without_meaning = [line.key for line in self.lines if line.verdict == "moot"]
        if without_meaning:
            logger.info("%s: without meaning here: %s", self.source, ", ".join(without_meaning))


def plain_key(key: str) -> str:
    """`--learning_rate` and `learning_rate` are one key: both are written in config files."""
    return key.removeprefix("--")


def settle(rule: Rule, value: Any, config: Mapping[str, Any]) -> Rule:
    """The rule that holds for this value of a key."""
    if value in EMPTY_VALUES:
        return moot("is empty, so the default holds")
    if isinstance(value, str | int | float) and value in rule.cases:
        return rule.cases[value]
    if any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in rule.off):
        return moot(f"{value!r} asks for nothing")
    key, _, wanted = rule.needs.partition("=")
    if wanted and config.get(key) != wanted:
        return moot(f"`{key}` is not {wanted}")
    if key and not wanted and config.get(key) in (None, "", 0, False):
        return moot(f"`{key}` is not on")
    return rule


def apply(
    translation: Translation,
    rule: Rule,
    key: str,
    value: Any,
    config: Mapping[str, Any],
    base: Path,
    line: int | None,
) -> dict[str, Any]:
    """Tell what becomes of a key, and return what it sets: dotted path -> value."""
    rule = settle(rule, value, config)
    if rule.verdict != "taken":
        translation.tell(key, rule.verdict, rule.why, line)
        return {}
    try:
        converted = Converted(value) if rule.convert is None else rule.convert(value, base)
    except Unfit as error:
        translation.tell(key, "refused", str(error), line)
        return {}
    moved = any(path.rsplit(".", 1)[-1] != key.rsplit(".", 1)[-1] for path in rule.to)
    verdict: Verdict = "rounded" if converted.rounded else "renamed" if moved else "taken"
    where = f"as {' and '.join(rule.to)}" if moved else ""
    told = "; ".join(part for part in (where, converted.note, rule.why) if part)
    translation.tell(key, verdict, told, line)
    return dict.fromkeys(rule.to, converted.value)


def normal(value: Any) -> Any:
    """`"true"` and `"false"` as what they say; every other value as it is."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    return value


def unknown(key: str, rules: Mapping[str, Rule]) -> str:
    """What is told of a key without a rule: the nearest one, or those of its block that do something."""
    block = key.rpartition(".")[0]
    beside = [
        name for name, rule in rules.items() if name.rpartition(".")[0] == block and rule.does_something
    ]
    return f"is not a known key; {nearest(key, rules, beside)}"
