"""A model that is no part of LTX-2's pipeline and comes in a file or folder of its own, from its header.

Torch is not imported here: such a model is looked at before any stage has started.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ltxcore.models.errors import ModelError
from ltxcore.models.files.hashes import remembered_part
from ltxcore.models.files.locate_weights import hub_snapshot, may_be_hub_id
from ltxcore.models.files.recognise import read_json
from ltxcore.models.files.tensor_file import StoredTensor, read_tensor_file
from ltxcore.store.fingerprint import fingerprint

CONFIG: Final = "config.json"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
_WRITERS_NOTES: Final = ("_diffusers_version", "_name_or_path")


@dataclass(frozen=True)
class Kind:
    """What such a model is called."""

    name: str
    """In words."""
    key: str
    """Of the recipe that names its file."""
    folder: str
    """Of a repository in the diffusers layout."""


@dataclass(frozen=True)
class Standalone:
    """Such a model."""

    kind: Kind
    path: Path
    """The file of its weights."""
    config: Mapping[str, Any]
    """In diffusers' names."""
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    """Under the file's own names."""

    @property
    def values(self) -> int:
        """How many parameters it has."""
        return sum(tensor.values for tensor in self.tensors.values())

    def fingerprint(self, models_dir: Path) -> str:
        """sha256 over its configuration and its weights, 64 hex digits.

        Args:
            models_dir: where hashes are remembered.
        """
        config = {key: value for key, value in self.config.items() if key not in _WRITERS_NOTES}
        contents = remembered_part(self.path, self.kind.name, self.tensors, models_dir)
        return fingerprint({"component": self.kind.name, "config": config, "files": [contents]})


def find_standalone(kind: Kind, name: str, fetch: bool, token: str | None = None) -> Path:
    """The file or the folder in the diffusers layout that a recipe names.

    Args:
        name: a file, a directory, `repo_id:file` or a hub id.
        fetch: False looks on this machine alone.
        token: of the hub. None: this machine's own.

    Raises:
        ModelError: it is not here (nor, with `fetch`, on the hub).
    """
    check_name(kind, name)
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    if path.is_dir():
        return _folder_in(kind, path.resolve())
    repo, _, file = name.partition(":")
    if not file:
        return _folder_in(kind, hub_snapshot(repo, None, (f"{kind.folder}/*",), fetch, token))
    found = hub_snapshot(repo, None, (file,), fetch, token) / file
    if not found.is_file():
        raise ModelError(f"{kind.key}: {repo} holds no {file}; look at the names of its files on the hub")
    return found


def check_name(kind: Kind, name: str) -> None:
    """Refuse what can be no such model, without asking the hub.

    Raises:
        ModelError: it is nothing on this machine, nor a name of something on the hub.
    """
    repo, colon, file = name.partition(":")
    on_hub = may_be_hub_id(repo) and (not colon or file.endswith(".safetensors"))
    if not Path(name).expanduser().exists() and not on_hub:
        raise ModelError(
            f"{kind.key} {name} is nothing on this machine; give a .safetensors, repo_id:file, or a "
            f"directory or hub id that has a folder {kind.folder}"
        )


def _folder_in(kind: Kind, directory: Path) -> Path:
    for folder in (directory / kind.folder, directory):
        if (folder / CONFIG).is_file():
            return folder
    files = sorted(path.name for path in directory.glob("*.safetensors"))
    told = f"; name one of its files, {', '.join(files[:3])}" if files else "; give the file itself"
    raise ModelError(f"{kind.key}: {directory} has no folder {kind.folder} in the diffusers layout{told}")


def open_folder(kind: Kind, folder: Path, class_name: str) -> Standalone:
    """A model in the diffusers layout.

    Raises:
        ModelError: it is incomplete, or of another class.
    """
    config = read_json(folder / CONFIG)
    found = config.get("_class_name")
    if found != class_name:
        raise ModelError(
            f"{folder} holds a {found}, and {kind.key} wants a {class_name}; give another folder"
        )
    file = read_tensor_file(folder / WEIGHTS)
    return Standalone(kind, file.path, config, file.tensors)
