"""Of which version the parts of a model are: by their files' headers, or by the names of their weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from ltxcore.models.errors import ModelError
from ltxcore.models.files.packs import Pack
from ltxcore.models.shapes import full_shapes, tabled_versions
from ltxcore.models.version import Version
from ltxcore.models.versions import VERSIONS

TOLD_BY_NAMES: Final[Mapping[str, str]] = {
    "vae": "vae",
    "text_projection": "connectors",
    "vocoder": "vocoder",
}
"""Parts whose weights have other names in other versions -> the component that they belong to."""
_PER_MODALITY: Final = "video_text_proj_in."
_BANDWIDTH: Final = "bwe_"


def possible_versions(part: str, names: Collection[str]) -> tuple[str, ...]:
    """The versions in which a part has weights of these names, in diffusers' spelling; none: it is not known.

    Args:
        part: one of `TOLD_BY_NAMES`.
        names: of its component.
    """
    if part == "vae":
        return tuple(v for v in tabled_versions() if full_shapes(v)["vae"].keys() == set(names))
    if part == "text_projection":
        apart = any(name.startswith(_PER_MODALITY) for name in names)
        return tuple(name for name, version in VERSIONS.items() if version.per_modality == apart)
    wide = any(name.startswith(_BANDWIDTH) for name in names)
    return tuple(name for name, version in VERSIONS.items() if _widens(version) == wide)


def require_one_version(
    version: Version, packs: Mapping[str, Pack], names: Mapping[str, Collection[str]]
) -> None:
    """Refuse a part of another version than the transformer's, also where its file says nothing of versions.

    Args:
        version: of the transformer.
        packs: which one gives which part.
        names: component -> its weights' names.

    Raises:
        ModelError: names the file, what it holds and what to give.
    """
    transformer = packs["transformer"].path.name
    remedy = f"{transformer} is of LTX-{version.name}; give the pack of LTX-{version.name}"
    for part, pack in packs.items():
        if pack.version not in (None, version.name):
            raise ModelError(
                f"{pack.path.name} holds the {part.replace('_', ' ')} of LTX-{pack.version}, but the "
                f"transformer in {remedy}"
            )
    for part, component in TOLD_BY_NAMES.items():
        possible = possible_versions(part, names[component])
        if possible and version.name not in possible:
            raise ModelError(
                f"{packs[part].path.name} holds the {part.replace('_', ' ')} of LTX-{' or '.join(possible)}, "
                f"as the names of its weights say, but the transformer in {remedy}"
            )


def _widens(version: Version) -> bool:
    return any(key.startswith(_BANDWIDTH) for key in version.vocoder)
