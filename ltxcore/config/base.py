"""The strict base of every configuration model, and reading YAML or JSON into one with line numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ltxcore.config.errors import ConfigError, Problem, nearest

KeyPath = tuple[str | int, ...]
UNKNOWN_KEYS: Final = "unknown_keys"
UNKNOWN: Final = "is not a known key; "
"""What the message of an unknown key begins with."""
NOT_IN_YAML: Final = re.compile(r"[\t\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffe\uffff]")


class Strict(BaseModel):
    """A frozen model in which an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            unknown = {str(k): nearest(str(k), cls.model_fields) for k in data if k not in cls.model_fields}
            if unknown:
                message = "; ".join(
                    f"`{key}` is not a known key, {advice}" for key, advice in unknown.items()
                )
                raise PydanticCustomError(UNKNOWN_KEYS, "{message}", {"message": message, "unknown": unknown})
        return data

    def fingerprint_data(self) -> dict[str, Any]:
        """The values as plain JSON, for keys and stamps."""
        return self.model_dump(mode="json")


def places_of(kind: type[BaseModel], key: str) -> list[str]:
    """Where a key may stand in a document of a kind, dotted: at its top, and in its blocks."""
    found = [key] if key in kind.model_fields else []
    for name, field in kind.model_fields.items():
        blocks = [field.annotation, *get_args(field.annotation)]
        for block in blocks:
            if isinstance(block, type) and issubclass(block, BaseModel) and key in block.model_fields:
                found.append(f"{name}.{key}")
    return found


def ending_in(kind: type[BaseModel], word: str) -> list[str]:
    """Keys in the blocks of a kind that end in a word, dotted: `lora.lora_rank` for `rank`."""
    found = []
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys = field.annotation.model_fields
            found += [f"{name}.{key}" for key in keys if key.endswith(f"_{word}")]
    return found


def written(place: str) -> str:
    """A dotted key as YAML: `training: {learning_rate: …}`."""
    *blocks, key = place.split(".")
    text = f"{key}: …"
    for block in reversed(blocks):
        text = f"{block}: {{{text}}}"
    return text


def read_document(path: Path) -> tuple[Any, dict[KeyPath, int]]:
    """Read a YAML or JSON file into plain data and the line of every key in it.

    Raises:
        ConfigError: the file is missing, is not text, or does not parse.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(str(path), [Problem("", "no such file")]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [Problem("", f"cannot be read: {error}")]) from error
    try:
        if path.suffix == ".json":
            data = json.loads(text)
            # For the lines JSON is read as YAML, which takes no tabs and few control characters.
            node = yaml.compose(NOT_IN_YAML.sub(" ", text), Loader=yaml.SafeLoader)
        else:
            data = yaml.safe_load(text)
            node = yaml.compose(text, Loader=yaml.SafeLoader)
    except json.JSONDecodeError as error:
        raise ConfigError(str(path), [Problem("", f"is not JSON: {error.msg}", error.lineno)]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = None if mark is None else mark.line + 1
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(str(path), [Problem("", f"does not parse: {reason}", line)]) from error
    lines: dict[KeyPath, int] = {}
    _collect_lines(node, (), lines)
    duplicate = _duplicate_key(node)
    if duplicate is not None:
        name, line = duplicate
        raise ConfigError(str(path), [Problem(name, "is given twice; keep one of them", line)])
    return data, lines


def _collect_lines(node: yaml.Node | None, at: KeyPath, lines: dict[KeyPath, int]) -> None:
    if node is None:
        return
    lines.setdefault(at, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[(*at, str(key.value))] = key.start_mark.line + 1
            _collect_lines(value, (*at, str(key.value)), lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _collect_lines(item, (*at, number), lines)


def _duplicate_key(node: yaml.Node | None) -> tuple[str, int] | None:
    """The first mapping key given twice: YAML keeps the last one silently, which hides a mistake."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                return str(key.value), key.start_mark.line + 1
            seen.add(key.value)
            if (found := _duplicate_key(value)) is not None:
                return found
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            if (found := _duplicate_key(item)) is not None:
                return found
    return None


def parse(
    kind: Any, data: Any, source: str, lines: dict[KeyPath, int] | None = None, at: KeyPath = ()
) -> Any:
    """Validate plain data as `kind`, turning pydantic's report into one `Problem` a fault.

    `at` is where in the document the data stands.

    Raises:
        ConfigError: with file, line, key and, for an unknown key, the nearest known one.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        problems = [p for fault in error.errors() for p in _problems(fault, data, lines or {}, at)]
        raise ConfigError(source, problems) from error


def _problems(fault: Any, data: Any, lines: dict[KeyPath, int], base: KeyPath) -> list[Problem]:
    at = (*base, *_path_in_document(fault["loc"], data, to_absent=fault["type"] == "missing"))
    if fault["type"] == UNKNOWN_KEYS:
        return [
            Problem(_dotted((*at, key)), f"{UNKNOWN}{advice}", _line((*at, key), lines))
            for key, advice in fault["ctx"]["unknown"].items()
        ]
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "is required and was not given"
    elif fault["type"] == "model_type":
        message = f"must be a block of keys; found {json.dumps(fault['input'], default=str)}"
    elif fault["type"] != "value_error":
        message = f"{message[:1].lower()}{message[1:]}; found {json.dumps(fault['input'], default=str)}"
    return [Problem(_dotted(at), message, _line(at, lines))]


def _path_in_document(loc: tuple[str | int, ...], data: Any, to_absent: bool) -> KeyPath:
    """Pydantic's location without levels that are not in the file, such as a union's tag.

    `to_absent`: the last level is a missing key and is kept.
    """
    path: list[str | int] = []
    here = data
    for position, part in enumerate(loc):
        if isinstance(here, dict) and (part in here or (to_absent and position == len(loc) - 1)):
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            path.append(part)
            here = here[part]
    return tuple(path)


def _line(at: KeyPath, lines: dict[KeyPath, int]) -> int | None:
    return next((lines[at[:n]] for n in range(len(at), -1, -1) if at[:n] in lines), None)


def _dotted(at: KeyPath) -> str:
    return ".".join(str(part) for part in at)
