"""Where a model's files are, which version they are, and the fingerprints of their contents.

Nothing here imports torch: the parent process resolves models before any stage has started.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.config.recipe import TINY_MODEL, ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.versions import (
    COMPONENTS,
    TEXT_MAX_TOKENS,
    TINY_STAMP,
    Version,
    read_json,
    recognise,
    tiny_stamp,
)
from ltxcore.store.fingerprint import fingerprint, hash_file, stat_key
from ltxcore.store.locks import exclusive

TINY_DIRECTORY = "tiny-ltx2"
FINGERPRINTS = "fingerprints.json"
_TEXT_COMPONENTS = ("text_encoder", "tokenizer")
_TOKENIZER_SUFFIXES = {".json", ".model", ".txt", ".jinja"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a writer notes about itself: it changes no number that a component computes.
_NOT_CONTENT = {"_diffusers_version", "_name_or_path", "transformers_version"}


@dataclass(frozen=True)
class ModelSource:
    """A model in the diffusers layout on this machine."""

    root: Path
    version: Version
    text_root: Path
    """The directory of Gemma and its tokenizer: the model's own unless the settings name another."""
    models_dir: Path
    """Where remembered hashes are kept."""

    def component(self, name: str) -> Path:
        """The directory of a component.

        Raises:
            ModelError: the model has no such component.
        """
        if name not in COMPONENTS:
            raise ModelError(f"{name!r} is no component of LTX-2; known: {', '.join(COMPONENTS)}")
        root = self.text_root if name in _TEXT_COMPONENTS else self.root
        path = root / name
        # A Gemma directory as its makers publish it has model and tokenizer side by side.
        if name in _TEXT_COMPONENTS and not path.is_dir() and (root / "config.json").is_file():
            path = root
        if not path.is_dir():
            raise ModelError(f"{root} has no {name}: the folder {path} does not exist; download it again")
        return path

    def config(self, name: str) -> dict[str, Any]:
        """The configuration of a component, as on disk (the tokenizer's is tokenizer_config.json).

        Raises:
            ModelError: the component or its configuration is missing.
        """
        return read_json(
            self.component(name) / ("tokenizer_config.json" if name == "tokenizer" else "config.json")
        )

    @property
    def text_max_tokens(self) -> int:
        """Tokens a caption is padded to for the connectors: 1024, or less where the tokenizer says so."""
        limit = self.config("tokenizer").get("model_max_length", TEXT_MAX_TOKENS)
        return min(TEXT_MAX_TOKENS, int(limit))

    def weight_files(self, name: str) -> list[Path]:
        """The safetensors files that loading a component reads, in a fixed order.

        Raises:
            ModelError: none are there, or the index names one that is not.
        """
        directory = self.component(name)
        stem = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        index = directory / f"{stem}.safetensors.index.json"
        if index.is_file():
            names = sorted(set(read_json(index)["weight_map"].values()))
        else:
            names = [f"{stem}.safetensors"]
        files = [directory / file for file in names]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ModelError(f"the {name} in {directory} lacks {', '.join(missing)}; download it again")
        return files

    def fingerprint(self, name: str) -> str:
        """sha256 over a component's configuration and the contents of its weight files, 64 hex digits.

        Contents are hashed once; later calls cost a stat a file.

        Raises:
            ModelError: the component is missing or incomplete.
        """
        directory = self.component(name)
        if name == "tokenizer":
            files = sorted(
                path
                for path in directory.iterdir()
                if path.suffix in _TOKENIZER_SUFFIXES and "token" in path.name
            )
            if not files:
                raise ModelError(f"the tokenizer in {directory} has no files; download it again")
            config: dict[str, Any] = {}
        else:
            files = self.weight_files(name)
            config = _content(self.config(name))
        hashes = remembered_hashes(files, self.models_dir)
        # File names are left out: the same weights under other names are the same component.
        return fingerprint({"component": name, "config": config, "files": [hashes[path] for path in files]})


def _content(config: Any) -> Any:
    """A configuration without what its writer noted about itself, at any depth."""
    if isinstance(config, dict):
        return {key: _content(value) for key, value in config.items() if key not in _NOT_CONTENT}
    if isinstance(config, list):
        return [_content(value) for value in config]
    return config


def resolve_model(settings: ModelSettings, models_dir: Path) -> ModelSource:
    """Find the model of a recipe among what is on this machine. Writes and downloads nothing.

    Raises:
        ModelError: it is not here, or is no LTX-2 in the diffusers layout; the text says what to do.
    """
    return _resolve(settings, models_dir, fetch=False)


def check_model(settings: ModelSettings) -> None:
    """Refuse a model that could not even be fetched: wrong names, single files, and what is no LTX-2.

    Raises:
        ModelError: as `resolve_model`, but not where a first run writes or downloads what is missing.
    """
    names = [settings.pretrained_model_name_or_path, *filter(None, [settings.text_encoder])]
    if all(name == TINY_MODEL or _is_hub_id(name) for name in names):
        return
    resolve_model(settings, Path())


def _is_hub_id(name: str) -> bool:
    path = Path(name).expanduser()
    local = (
        path.exists() or path.is_absolute() or name.startswith((".", "~")) or path.suffix == ".safetensors"
    )
    return not local and bool(_HUB_ID.fullmatch(name))


def prepare_model(settings: ModelSettings, models_dir: Path) -> ModelSource:
    """Like `resolve_model`, but first write the tiny model, or download a hub id, where it is not here.

    Raises:
        ModelError: as `resolve_model`, or the hub could not be reached.
    """
    return _resolve(settings, models_dir, fetch=True)


def _resolve(settings: ModelSettings, models_dir: Path, fetch: bool) -> ModelSource:
    name = settings.pretrained_model_name_or_path
    if name == TINY_MODEL:
        root = _tiny(models_dir / TINY_DIRECTORY, fetch)
    else:
        own_text = () if settings.text_encoder else _TEXT_COMPONENTS
        wanted = ["model_index.json", "scheduler/*"]
        wanted += [f"{c}/*" for c in COMPONENTS if c not in _TEXT_COMPONENTS or c in own_text]
        root = _locate(name, settings.revision, wanted, fetch)
    text_root = root
    if settings.text_encoder:
        wanted = ["config.json", "*.safetensors", "*.index.json", "*token*", "text_encoder/*", "tokenizer/*"]
        text_root = _locate(settings.text_encoder, None, wanted, fetch)
    return ModelSource(root, recognise(root), text_root, models_dir)


def _tiny(directory: Path, fetch: bool) -> Path:
    stamp = directory / TINY_STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != tiny_stamp():
        if not fetch:
            raise ModelError(
                f"this version of the tiny model is not in {directory} yet; the train-ltx2 and probe-media "
                "flows write it, and so does ltxcore.models.source.prepare_model"
            )
        from ltxcore.models.tiny import write_tiny

        write_tiny(directory)
    return directory


def _locate(name: str, revision: str | None, wanted: Iterable[str], fetch: bool) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.suffix == ".safetensors" or path.is_file():
        raise ModelError(
            f"{name} is a single file; give a directory in the diffusers layout (model_index.json and a "
            "folder for each component), or a hub id such as Lightricks/LTX-2"
        )
    if path.is_absolute() or name.startswith((".", "~")) or not _HUB_ID.fullmatch(name):
        raise ModelError(
            f"{name} is neither a directory on this machine nor a hub id; give a directory in the diffusers "
            f"layout, a hub id such as Lightricks/LTX-2, or `{TINY_MODEL}`"
        )
    return _from_hub(name, revision, list(wanted), fetch)


def _from_hub(repo: str, revision: str | None, wanted: list[str], fetch: bool) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    offline = constants.HF_HUB_OFFLINE
    try:
        found = snapshot_download(
            repo, revision=revision, allow_patterns=wanted, local_files_only=offline or not fetch
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        if offline:
            remedy = "HF_HUB_OFFLINE is set; unset it to download"
        elif fetch:
            remedy = "the hub could not be reached; check the network"
        else:
            remedy = "run train-ltx2 or probe-media, which download it"
        raise ModelError(
            f"{repo} is no directory here and is not in this machine's hub cache: {remedy}, "
            "or give a directory"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(f"{repo} could not be downloaded: {error}; check the id and the network") from error
    return Path(found)


def remembered_hashes(files: Iterable[Path], models_dir: Path) -> dict[Path, str]:
    """sha256 of each file, from `fingerprints.json` where size, mtime and inode are as remembered."""
    remembered = _read_memory(models_dir)
    hashes: dict[Path, str] = {}
    learnt: dict[str, dict[str, Any]] = {}
    for file in files:
        real = file.resolve()
        stat = stat_key(real)
        known = remembered.get(str(real))
        if known is None or known["stat"] != stat:
            known = learnt[str(real)] = {"stat": stat, "sha256": hash_file(real)}
        hashes[file] = known["sha256"]
    if learnt:
        with exclusive(models_dir / f".{FINGERPRINTS}.lock", "remembering hashes of model files"):
            _write_memory(models_dir, _read_memory(models_dir) | learnt)
    return hashes


def _read_memory(models_dir: Path) -> dict[str, Any]:
    path = models_dir / FINGERPRINTS
    return read_json(path) if path.is_file() else {}


def _write_memory(models_dir: Path, memory: dict[str, Any]) -> None:
    path = models_dir / FINGERPRINTS
    temporary = models_dir / f".{FINGERPRINTS}.{os.getpid()}"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(memory, file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
