"""The latent upsampler, which doubles width and height of video latents between two stages of a rendering."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.packs import stored_json
from ltxcore.models.files.source import ModelSource
from ltxcore.models.files.standalone import CONFIG, Kind, Standalone, find_standalone, open_folder
from ltxcore.models.files.tensor_file import read_tensor_file
from ltxcore.models.version import Version
from ltxcore.models.versions import VERSIONS

UPSAMPLER: Final = Kind("latent upsampler", "model.latent_upsampler", "latent_upsampler")
CLASS: Final = "LTX2LatentUpsamplerModel"
_NATIVE: Final = "LatentUpsampler"
_FACTOR: Final = 2.0
_NAMED: Final = re.compile(r"ltx-(\d(?:\.\d)?)-")
_RENAMED: Final = {"spatial_scale": "rational_spatial_scale", "rational_resampler": "use_rational_resampler"}
_DEFAULTS: Final[dict[str, Any]] = {
    "in_channels": 128,
    "mid_channels": 512,
    "num_blocks_per_stage": 4,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "rational_spatial_scale": _FACTOR,
    "use_rational_resampler": False,
}
"""What a file of the reference's means by a key that it leaves out; diffusers' class has other defaults."""


def upsampler_of(settings: ModelSettings, source: ModelSource) -> Standalone:
    """The upsampler of a recipe's model, from its header.

    Raises:
        ModelError: there is none here, it is of another kind, or made for other latents; says what to give.
    """
    own = source.root / UPSAMPLER.folder
    if settings.latent_upsampler is not None:
        path = find_standalone(UPSAMPLER, settings.latent_upsampler, fetch=False)
    elif (own / CONFIG).is_file():
        path = own
    else:
        raise missing_upsampler(source.version, str(source.root))
    found = open_upsampler(path)
    _require_fit(found, source)
    return found


def missing_upsampler(version: Version, model: str) -> ModelError:
    """The refusal of a model without one, which says what to write."""
    published = version.published
    return ModelError(
        f"validation.upscale needs a latent upsampler, and {model} has none; write model.latent_upsampler: "
        f"{published.repository}:{published.upsampler}, or the file"
    )


def open_upsampler(path: Path) -> Standalone:
    """An upsampler in either layout.

    Args:
        path: a folder of diffusers', or a file as Lightricks publishes it.

    Raises:
        ModelError: it is incomplete, something else, or does not double width and height.
    """
    found = open_folder(UPSAMPLER, path, CLASS) if path.is_dir() else _native(path)
    config = found.config
    factor = (
        config.get("rational_spatial_scale", _FACTOR) if config.get("use_rational_resampler") else _FACTOR
    )
    if config.get("temporal_upsample") or not config.get("spatial_upsample", True) or factor != _FACTOR:
        kind = "of time" if config.get("temporal_upsample") else f"by {factor:g}"
        raise ModelError(
            f"{path} is an upsampler {kind}, and validation.upscale doubles width and height; give the "
            "spatial x2 upsampler"
        )
    return found


def _native(path: Path) -> Standalone:
    file = read_tensor_file(path)
    stored = stored_json(path, file.metadata, "config")
    if stored.get("_class_name") != _NATIVE:
        names = ", ".join(sorted(file.tensors)[:3]) or "nothing"
        raise ModelError(
            f"{path} is not a latent upsampler: the config of its metadata names "
            f"{stored.get('_class_name') or 'no class'}, not {_NATIVE}, and it holds {names}"
        )
    told = {_RENAMED.get(key, key): value for key, value in stored.items()}
    config = {key: told.get(key, usual) for key, usual in _DEFAULTS.items()}
    # The flag is set in files without such a layer, too: the weights tell.
    config["use_rational_resampler"] = "upsampler.conv.weight" in file.tensors
    return Standalone(UPSAMPLER, path, config, file.tensors)


def _require_fit(found: Standalone, source: ModelSource) -> None:
    channels, wanted = int(found.config.get("in_channels", 128)), source.config("vae")["latent_channels"]
    if channels != wanted:
        raise ModelError(
            f"{found.path} is for latents of {channels} channels, and those of {source.root} have {wanted}; "
            "give the upsampler of this model"
        )
    other = _version_of(found.path)
    if other is not None and other.video_vae != source.version.video_vae:
        published = source.version.published
        raise ModelError(
            f"{found.path} is the upsampler of LTX-{other.name}, whose latents are not those of "
            f"LTX-{source.version.name}; write model.latent_upsampler: {published.repository}:"
            f"{published.upsampler}"
        )


def _version_of(path: Path) -> Version | None:
    """The version that a file was made for, where its header or a name like the published ones tells."""
    said = read_tensor_file(path).metadata.get("model_version", "").strip().lstrip("v")
    named = _NAMED.match(path.name)
    for told in (said, named[1] if named else ""):
        number = ".".join([*told.split("."), "0"][:2])
        if number in VERSIONS:
            return VERSIONS[number]
    return None
