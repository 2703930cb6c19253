"""The whole option list of SimpleTuner 4.10: name, default, and what happens to it here.

The table, `simpletuner_options.tsv`, holds facts (names, kinds, defaults) and this project's verdicts:
mapped (a rule of `simpletuner_training` says where it goes), moot, not yet, or refused with what to write
instead. One that is not mapped is moot, too, where its value is its own default or asks for nothing.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, cast

TABLE: Final = Path(__file__).with_suffix(".tsv")
Kind = Literal["number", "flag", "text", "json"]
Verdict = Literal["mapped", "moot", "not yet", "refused"]
NOTHING: Final = (None, "", "none", "no", "off", "disabled", False, 0)
"""What asks for nothing, of a key whose default asks for nothing."""
FLAGS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}


@dataclass(frozen=True)
class Option:
    """One option of SimpleTuner."""

    name: str
    kind: Kind
    default: Any
    verdict: Verdict
    needs: str
    """Another key that has to be on for this one to mean anything."""
    note: str

    def read(self, value: Any) -> Any:
        """A value as its kind: `"1"` of a number is 1, `"true"` of a flag is true, and texts stay texts."""
        if not isinstance(value, str) or self.kind in ("text", "json"):
            return value
        text = value.strip()
        if self.kind == "flag" or text.lower() in ("true", "false"):
            return FLAGS.get(text.lower(), value)
        return as_number(text, value)

    def asks_nothing(self, value: Any) -> bool:
        """Whether a value is the option's default, or another spelling of off where the default is off."""
        if isinstance(value, list | dict):
            return not value or value == self.default
        if isinstance(value, bool) == isinstance(self.default, bool) and value == self.default:
            return True
        return self.default in NOTHING and (value.lower() if isinstance(value, str) else value) in NOTHING


def as_number(text: str, otherwise: Any) -> Any:
    """The number in a text; any other value unchanged."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return otherwise


@cache
def options() -> Mapping[str, Option]:
    """The table, by name."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = {
        row["name"]: Option(
            row["name"],
            cast(Kind, row["kind"]),
            json.loads(row["default"]),
            cast(Verdict, row["verdict"]),
            row["needs"],
            row["note"],
        )
        for row in rows
    }
    return MappingProxyType(found)
