"""SimpleTuner's config.json in this project's terms: every key gets a verdict, none is dropped silently.

The rules are data (`simpletuner_training`, `simpletuner_datasets`); here they are applied. The meaning of the
keys comes from SimpleTuner's documentation; none of its code is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ltxcore.config.base import KeyPath
from ltxcore.config.errors import ConfigError, Problem, nearest
from ltxcore.config.simpletuner.options import Option, options

logger = logging.getLogger(__name__)

Verdict = Literal["taken", "renamed", "rounded", "added", "moot", "not yet", "refused"]
BLOCKING: frozenset[Verdict] = frozenset({"refused"})
BLOCKING_IF_STRICT: frozenset[Verdict] = frozenset({"refused", "not yet"})
EMPTY_VALUES = (None, "")


class Unfit(ValueError):
    """A value that a rule cannot convert; the text says what to write instead."""


@dataclass(frozen=True)
class Converted:
    """A value in this project's terms, with a note on the change."""

    value: Any
    note: str = ""
    rounded: bool = False


Converter = Callable[[Any, Path], Converted]
"""Takes the value and the directory of the file that it stands in."""


@dataclass(frozen=True)
class Rule:
    """The verdict on one key, and how its value is used."""

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
    even_default: bool = False
    """Refused even where the value is that program's default."""

    @property
    def does_something(self) -> bool:
        """Whether some value of the key is taken."""
        return self.verdict == "taken" or any(rule.does_something for rule in self.cases.values())


def take(
    *to: str, why: str = "", convert: Converter | None = None, off: tuple[Any, ...] = (), needs: str = ""
) -> Rule:
    """The rule of an option whose value is used under the keys `to`."""
    return Rule("taken", why, to, convert, off, needs)


def moot(why: str) -> Rule:
    """The rule of an option that means nothing here; `why` is its line in the report."""
    return Rule("moot", why)


def not_yet(
    without: str,
    *,
    off: tuple[Any, ...] = (),
    needs: str = "",
    cases: Mapping[Any, Rule] | None = None,
) -> Rule:
    """A feature that is not supported; `without` says what happens instead."""
    return Rule("not yet", without, off=off, needs=needs, cases=cases or {})


def refuse(why: str, cases: Mapping[Any, Rule] | None = None) -> Rule:
    """The rule of an option that cannot be honoured, with other rules for some of its values."""
    return Rule("refused", why, cases=cases or {})


@dataclass(frozen=True)
class Line:
    """One line of the report, about one key."""

    key: str
    verdict: Verdict
    message: str
    line: int | None = None

    def render(self) -> str:
        """The line as `ltx2 import-simpletuner` prints it."""
        return f"{self.key}: {self.verdict}" + (f": {self.message}" if self.message else "")


@dataclass
class Translation:
    """A file in this project's terms, and a line for each of its keys."""

    source: str
    data: Any
    lines: list[Line] = field(default_factory=list)
    places: dict[KeyPath, int] = field(default_factory=dict)
    """Where in the original each part of `data` stands, for messages."""

    def tell(self, key: str, verdict: Verdict, message: str, line: int | None = None) -> None:
        """Add a line about one key."""
        self.lines.append(Line(key, verdict, message, line))

    def check(self, strict: bool = False) -> None:
        """Refuse what cannot be used.

        Raises:
            ConfigError: a key is refused or, with `strict`, not supported yet.
        """
        blocking = BLOCKING_IF_STRICT if strict else BLOCKING
        problems = [
            Problem(
                line.key, line.message if line.verdict == "refused" else f"not yet: {line.message}", line.line
            )
            for line in self.lines
            if line.verdict in blocking
        ]
        if problems:
            raise ConfigError(self.source, problems)

    def log(self) -> None:
        """Log every changed key once: as a warning if the result differs."""
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


def settle(key: str, rule: Rule, value: Any, config: Mapping[str, Any]) -> Rule:
    """The rule for this value of a key."""
    if value in EMPTY_VALUES:
        return moot("is empty, so the default holds")
    other, _, wanted = rule.needs.partition("=")
    if isinstance(value, str | int | float):
        rule = rule.cases.get(value, rule)
    if any(value == off and isinstance(value, bool) == isinstance(off, bool) for off in rule.off):
        return moot(f"{value!r} asks for nothing")
    if wanted and config.get(other) != wanted:
        return moot(f"`{other}` is not {wanted}")
    if other and not wanted and config.get(other) in (None, "", 0, False):
        return moot(f"`{other}` is not on")
    option = options().get(key)
    if rule.verdict in BLOCKING_IF_STRICT and option is not None and not rule.even_default:
        return moot(f"{value!r} asks for nothing") if option.asks_nothing(value) else rule
    return rule


def rule_of(option: Option) -> Rule:
    """The rule of an option that only needs its row of the table."""
    if option.verdict == "mapped":
        raise ValueError(f"{option.name} has a rule of its own")
    return Rule(option.verdict, option.note, needs=option.needs)


def apply(
    translation: Translation,
    rule: Rule,
    key: str,
    value: Any,
    config: Mapping[str, Any],
    base: Path,
    line: int | None,
) -> dict[str, Any]:
    """Add a key's line to the report, and return what the key sets: dotted path -> value."""
    rule = settle(key, rule, value, config)
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
    message = "; ".join(part for part in (where, converted.note, rule.why) if part)
    translation.tell(key, verdict, message, line)
    return dict.fromkeys(rule.to, converted.value)


def normal(value: Any, key: str = "") -> Any:
    """A value as people write it: `"true"` and `"false"` of flags, `"1"` of numbers; texts are left alone."""
    option = options().get(key)
    if option is not None:
        return option.read(value)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    return value


def unknown(key: str, rules: Mapping[str, Rule]) -> str:
    """The message for a key without a rule: the nearest key, or the keys of its block that have an effect."""
    block, dot, name = key.rpartition(".")
    beside = {other: rule for other, rule in rules.items() if other.rpartition(".")[0] == block}
    listed = [other for other, rule in beside.items() if rule.does_something]
    if not block:
        return f"is not a known key; {nearest(key, rules, listed)}"
    # What all keys of a block have in common makes none of them near.
    leaves = [other.removeprefix(block + dot) for other in beside]
    found = nearest(name, leaves, [other.removeprefix(block + dot) for other in listed])
    return f"is not a known key; {found} (in `{block}`)"
