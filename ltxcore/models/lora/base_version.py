"""Which LTX-2 a LoRA was trained on: from its layers, and from what its trainer wrote into the header."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ltxcore.models.lora.header import AdapterError, LoraHeader
from ltxcore.models.lora.names import A, B, linears, without_numbers
from ltxcore.models.shapes import tabled_versions

OWN_KEY: Final = "base_version"
"""The header key that this project writes."""
KEYS: Final = (
    OWN_KEY,
    "ltx_version",
    "model_version",
    "ss_base_model_version",
    "base_model_version",
    "modelspec.architecture",
    "base_model",
    "ss_sd_model_name",
    "modelspec.title",
)
"""Header keys in which trainers name their base, the surest first."""
_NAMED: Final = re.compile(r"ltx[-_ ]?(?:video|v|av)?[-_ ]?v?2[._](\d)(?!\d)", re.IGNORECASE)
_NUMBER: Final = re.compile(r"v?(2\.\d)(\.\d+)?")
_FIRST: Final = re.compile(r"ltx-?2[-_]19b", re.IGNORECASE)


@dataclass(frozen=True)
class BaseVersion:
    """The version of the base, as far as the file tells."""

    fits: tuple[str, ...]
    """Versions that have every layer that the file changes."""
    named_version: str | None
    """The version that the header names."""
    source_key: str = ""
    """The header's key."""
    released_size: bool = True
    """Whether the layers are as wide as a released model's; a tiny or toy model's are not."""

    @property
    def possible(self) -> tuple[str, ...]:
        """The versions that are left, the header having the last word."""
        if self.named_version is None:
            return self.fits
        return (self.named_version,)

    @property
    def text(self) -> str:
        """In words, for people."""
        if self.named_version is not None:
            return f"LTX-{self.named_version}, as {self.source_key} of its header says"
        if not self.fits:
            return "no LTX-2 that is known"
        if len(self.fits) == 1:
            return f"LTX-{self.fits[0]}, which alone has its layers"
        return f"LTX-{' or '.join(self.fits)}: its layers are in all of them, and its header does not say"


def base_version(header: LoraHeader) -> BaseVersion:
    """Find the version from header and layers."""
    fits = tuple(version for version in tabled_versions() if not _lacking(header, version))
    named_version, key = _version_named(header.metadata)
    return BaseVersion(
        fits, named_version, key, any(_same_widths(header, version) for version in fits or tabled_versions())
    )


def require_version(header: LoraHeader, version: str) -> None:
    """Refuse a LoRA of another version.

    Args:
        header: the file's.
        version: of the base that it is to be used with, such as `2.3`.

    Raises:
        AdapterError: its header names another version, or it changes layers that this one lacks.
    """
    found = base_version(header)
    if found.named_version is not None and found.named_version != version:
        raise AdapterError(
            f"{header.path} is a LoRA of LTX-{found.named_version} ({found.source_key} in its header), and "
            f"the model is an LTX-{version}; give a LoRA of LTX-{version}, or train on "
            f"LTX-{found.named_version}"
        )
    if version in tabled_versions() and version not in found.fits:
        lacking = sorted({without_numbers(name) for name in _lacking(header, version)})
        others = f"LTX-{' or '.join(found.fits)}" if found.fits else "none that is known"
        raise AdapterError(
            f"{header.path} changes {', '.join(lacking[:3])}, which LTX-{version} does not have; the version "
            f"with these layers is {others}: give a LoRA of LTX-{version}"
        )


def _lacking(header: LoraHeader, version: str) -> list[str]:
    """Layers of the file that a version does not have; where the widths are released ones, also by shape."""
    there = linears(version)
    kinds = {without_numbers(name) for name in there}
    lacking = [name for name in header.layers if without_numbers(name) not in kinds]
    if lacking or not any(_same_widths(header, other) for other in tabled_versions()):
        return lacking
    return [name for name in header.layers if not _fits(header, name, there.get(name))]


def _same_widths(header: LoraHeader, version: str) -> bool:
    """Whether most layers are of a released size: one that differs tells of the version, not the size."""
    there = linears(version)
    fitting = sum(_fits(header, name, there.get(name)) for name in header.layers)
    return fitting * 2 > len(header.layers)


def _fits(header: LoraHeader, name: str, shape: tuple[int, int] | None) -> bool:
    parts = header.layers[name].parts
    if shape is None:
        return False
    if A not in parts:
        return True
    return (parts[B].shape[0], parts[A].shape[1]) == shape


def _version_named(metadata: Mapping[str, str]) -> tuple[str | None, str]:
    for key in KEYS:
        value = metadata.get(key, "")
        if (version := _version_in(value, alone=key == OWN_KEY or key.endswith("version"))) is not None:
            return version, key
    return _of_recipe(metadata.get("recipe", ""))


def _version_in(text: str, alone: bool = False) -> str | None:
    """A version in a trainer's words, if they are clear: plain `ltx2` may be any."""
    if alone and (number := _NUMBER.fullmatch(text.strip())) is not None:
        return number[1]
    if (named := _NAMED.search(text)) is not None:
        return f"2.{named[1]}"
    return "2.0" if _FIRST.search(text) else None


def _of_recipe(text: str) -> tuple[str | None, str]:
    """The version that a recipe of this project names, in a file made before there was a key for it."""
    try:
        model = json.loads(text)["model"]
        name = model["pretrained_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        return None, ""
    return _version_in(str(name)), "the recipe"
