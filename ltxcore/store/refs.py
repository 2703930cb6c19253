"""Which keys of a store are needed, by which workspace and for what; kept in the store, since several
workspaces may share it.

No name is used twice, as of all files of a store: who was suspended before it deletes a reference takes that
one away, and none that was published since.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ltxcore.config.base import Strict
from ltxcore.store.blobs import Blobs


class RefDamaged(ValueError):
    """A reference is damaged."""


class Ref(Strict):
    """What one stage's request needs: part of the store -> keys."""

    workspace: str
    """Where the workspace was, for people."""
    directory: str
    """The stage's directory in it, e.g. `stages/train-lora/0123456789abcdef`."""
    needs: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Refs:
    """The references in a store. Writing needs the caller to hold the writer's lock `refs`."""

    blobs: Blobs

    def publish(self, workspace_id: str, ref: Ref) -> None:
        """Write what a workspace's result needs, in place of what was written for it before."""
        before = self._names(workspace_id, ref.directory)
        data = json.dumps(ref.model_dump(mode="json")).encode()
        self.blobs.create(f"{_stem(workspace_id, ref.directory)}{secrets.token_hex(8)}.json", data)
        self.blobs.delete(before)

    def has(self, workspace_id: str, directory: str) -> bool:
        """Whether there is a reference of a stage's directory."""
        return bool(self._names(workspace_id, directory))

    def _names(self, workspace_id: str, directory: str) -> list[str]:
        stem = _stem(workspace_id, directory)
        named = self.blobs.list(f"refs/{workspace_id}")
        return [name for name in named if name.startswith(stem) and name.endswith(".json")]

    def load(self) -> dict[str, Ref]:
        """Every reference by its name.

        Raises:
            RefDamaged: one cannot be read, so it is unknown what may be deleted.
        """
        while True:
            names = [name for name in self.blobs.walk("refs") if name.endswith(".json")]
            try:
                found = self.blobs.read_all(names)
            except FileNotFoundError:
                continue  # Replaced between the listing and the reading.
            break
        return {name: self._parse(name, data) for name, data in found.items()}

    def _parse(self, name: str, data: bytes) -> Ref:
        try:
            return Ref.model_validate_json(data)
        except ValidationError as error:
            raise RefDamaged(
                f"{name} in {self.blobs.url} is damaged, so that it is not known what its workspace needs; "
                "delete it and run the pipeline of that workspace: what is up to date is noted again"
            ) from error

    def drop(self, names: Collection[str]) -> None:
        """Delete references by name."""
        self.blobs.delete(names)


def _stem(workspace_id: str, directory: str) -> str:
    return f"refs/{workspace_id}/{directory.replace('/', '.')}."


def workspace_of(ref_name: str) -> str:
    """The id of the workspace that a reference belongs to."""
    return ref_name.split("/")[1]


def needed(refs: Sequence[Ref]) -> dict[str, set[str]]:
    """The keys that any of the references needs, by part of the store."""
    keys: dict[str, set[str]] = {}
    for ref in refs:
        for part, wanted in ref.needs.items():
            keys.setdefault(part, set()).update(wanted)
    return keys
