"""Every key that a recipe and a dataset file may have: its type, its default and its meaning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ltxcore.config.dataset_kinds import KINDS
from ltxcore.config.recipe import Recipe

Schema = Mapping[str, Any]
LIMITS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
NAMES = {"boolean": "true or false", "integer": "integer", "number": "number", "string": "text"}
# 2**63 - 1 and its like say nothing to a reader.
TELLING = 1_000_000


@dataclass(frozen=True)
class Key:
    """One key, as people read it."""

    path: str
    """`training.max_train_steps`; `[]` marks the items of a list and `[prefix]` those of that type."""
    kind: str
    default: str
    """As YAML; empty where the key must be given."""
    meaning: str


def recipe_keys() -> tuple[Key, ...]:
    """The keys of a recipe, section by section."""
    return tuple(_keys_of(Recipe))


def dataset_keys() -> dict[Key, tuple[str, ...]]:
    """The keys of an entry of the dataset file, with the kinds of dataset that have them."""
    found: dict[Key, tuple[str, ...]] = {}
    for kind, model in KINDS.items():
        for key in _keys_of(model):
            found[key] = (*found.get(key, ()), kind)
    return found


def _keys_of(model: type[BaseModel]) -> Iterator[Key]:
    schema = model.model_json_schema(mode="validation")
    return _Walk(schema.get("$defs", {})).keys(schema, "")


class _Walk:
    """Through a JSON schema, from block to block."""

    def __init__(self, definitions: Schema) -> None:
        self._definitions = definitions

    def keys(self, block: Schema, prefix: str) -> Iterator[Key]:
        required = block.get("required", ())
        for name, field in block["properties"].items():
            inner = [*self._blocks(field, f"{prefix}{name}")]
            # A block that may be left out is listed by its keys only.
            if not inner and not _is_named(field, prefix):
                default = "" if name in required else _default(field)
                yield Key(prefix + name, self._kind(field), default, self._meaning(field))
            for block_prefix, found in inner:
                yield from self.keys(found, f"{block_prefix}.")

    def _blocks(self, field: Schema, path: str) -> Iterator[tuple[str, Schema]]:
        """The blocks of keys that a field holds: itself, its items, or those of its values."""
        field = self._resolved(field)
        if "properties" in field:
            yield path, field
        elif "discriminator" in field:
            for name, reference in field["discriminator"]["mapping"].items():
                yield f"{path.removesuffix('[]')}[{name}]", self._resolved({"$ref": reference})
        elif "items" in field:
            yield from self._blocks(field["items"], f"{path}[]")
        elif isinstance(field.get("additionalProperties"), dict):
            yield from self._blocks(field["additionalProperties"], f"{path}.NAME")
        for option in field.get("anyOf", ()):
            yield from self._blocks(option, path)

    def _resolved(self, field: Schema) -> Schema:
        if "$ref" not in field:
            return field
        name = field["$ref"].rpartition("/")[2]
        return {**self._definitions[name], **{key: value for key, value in field.items() if key != "$ref"}}

    def _meaning(self, field: Schema) -> str:
        return " ".join(str(self._resolved(field).get("description", "")).split())

    def _kind(self, field: Schema) -> str:
        """What may be written, for people."""
        field = self._resolved(field)
        if "anyOf" in field:
            options = [self._kind(option) for option in field["anyOf"] if option.get("type") != "null"]
            return " or ".join(dict.fromkeys(options))
        if "const" in field or "enum" in field:
            return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
        if field.get("type") == "array":
            return self._list(field)
        if field.get("type") == "object":
            return f"NAME: {self._kind(field['additionalProperties'])}"
        limits = [f"{sign} {field[key]:g}" for key, sign in LIMITS.items() if _tells(field.get(key))]
        return " ".join([NAMES[field["type"]], ", ".join(limits)]).strip()

    def _list(self, field: Schema) -> str:
        if "prefixItems" in field:
            return f"[{', '.join(self._kind(item) for item in field['prefixItems'])}]"
        return f"list of {self._kind(field['items'])}"


def _is_named(field: Schema, prefix: str) -> bool:
    """Whether the key's path says its value already, as the type of a condition."""
    return prefix.endswith(f"[{field.get('const')}].")


def _tells(limit: float | None) -> bool:
    return limit is not None and abs(limit) < TELLING


def _default(field: Schema) -> str:
    default = field.get("default")
    if default is None:
        return "none"
    return default if isinstance(default, str) and default else json.dumps(default, ensure_ascii=False)
