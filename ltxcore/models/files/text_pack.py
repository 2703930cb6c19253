"""A text encoder in one file with its tokenizer inside: as LTX-2.5 is published, or ComfyUI's Gemma 3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ltxcore.models.errors import ModelError
from ltxcore.models.files.gemma_tower import gemma_3_config, is_gemma_3
from ltxcore.models.files.packs import Pack, read_pack, stored_json
from ltxcore.models.files.spm_tokenizer import tokenizer_files
from ltxcore.models.files.tensor_file import StoredTensor
from ltxcore.models.files.weights import Weight, scaled_weights
from ltxcore.store.blobs import write_atomic
from ltxcore.store.fingerprint import fingerprint

CONFIG_KEY: Final = "gemma_config"
ASSETS: Final[Mapping[str, str]] = {
    "tokenizer.json": "tokenizer_json",
    "tokenizer_config.json": "hf_asset__tokenizer_config.json",
}
"""File of a tokenizer -> the tensor of bytes that holds it."""
SPM: Final = "spiece_model"
"""The tensor in which ComfyUI's files have the tokenizer, as sentencepiece's model."""
SPM_FILE: Final = "tokenizer.model"


@dataclass(frozen=True)
class TextPack:
    """A pack that holds a whole text encoder."""

    path: Path
    config: Mapping[str, Any] = field(repr=False)
    tower: Mapping[str, Weight] = field(repr=False)
    assets: Mapping[str, StoredTensor] = field(repr=False)
    """File of the tokenizer -> its bytes."""

    @property
    def has_spm(self) -> bool:
        """Whether the tokenizer is sentencepiece's model, and its files are made of that."""
        return SPM_FILE in self.assets

    def config_of(self, name: str) -> dict[str, Any]:
        """The configuration of the text encoder, or of the tokenizer."""
        if name == "tokenizer" and self.has_spm:
            return {}
        if name == "tokenizer":
            found: dict[str, Any] = json.loads(self.asset("tokenizer_config.json"))
            return found
        return dict(self.config)

    def asset(self, name: str) -> bytes:
        """The bytes of a file of the tokenizer."""
        stored = self.assets[name]
        with self.path.open("rb") as file:
            file.seek(stored.start)
            return file.read(stored.size_bytes)

    def unpack_tokenizer(self, parent: Path) -> Path:
        """Write the tokenizer's files where transformers can read them; returns their directory.

        Raises:
            ModelError: sentencepiece's model does not parse.
        """
        contents = {name: self.asset(name) for name in self.assets}
        named = fingerprint({name: content.hex() for name, content in contents.items()})[:16]
        directory = parent / named
        directory.mkdir(parents=True, exist_ok=True)
        if self.has_spm and not all((directory / name).is_file() for name in ASSETS):
            contents = tokenizer_files(contents[SPM_FILE], str(self.path))
        for name, content in contents.items():
            if not (directory / name).is_file():
                write_atomic(directory / name, content)
        return directory


def open_text_pack(path: Path, remedy: str) -> TextPack:
    """The text encoder of a file.

    Args:
        remedy: what to give instead.

    Raises:
        ModelError: it holds none, or none with its configuration and tokenizer.
    """
    return text_pack(read_pack(path), remedy)


def text_pack(pack: Pack, remedy: str) -> TextPack:
    """The text encoder of a pack; see `open_text_pack`.

    Raises:
        ModelError: the pack holds none, or none with its configuration and tokenizer.
    """
    if not pack.tower:
        raise ModelError(f"{pack.path} holds no text encoder; {remedy}")
    config = stored_json(pack.path, pack.metadata, CONFIG_KEY)
    tower = scaled_weights(pack.tower)
    if not config and SPM in pack.tensors and is_gemma_3(tower):
        return TextPack(pack.path, gemma_3_config(tower), tower, {SPM_FILE: pack.tensors[SPM]})
    assets = {file: pack.tensors[name] for file, name in ASSETS.items() if name in pack.tensors}
    lacking = [CONFIG_KEY] * (not config) + [name for file, name in ASSETS.items() if file not in assets]
    if lacking:
        raise ModelError(
            f"{pack.path} holds a Gemma without {' and '.join(lacking)}, which are its configuration and its "
            f"tokenizer; {remedy}"
        )
    return TextPack(pack.path, config, tower, assets)
