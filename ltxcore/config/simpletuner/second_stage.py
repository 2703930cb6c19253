"""Translates SimpleTuner's renderings in two stages, whose first one has half of `validation_resolution`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.simpletuner.options import options
from ltxcore.config.simpletuner.translation import (
    EMPTY_VALUES,
    Converted,
    Rule,
    Translation,
    Unfit,
    moot,
    take,
)

MODE: Final = "ltx2_validation_pipeline_mode"
MODEL: Final = "ltx2_validation_spatial_upsampler_model"
FILE: Final = "ltx2_validation_spatial_upsampler_filename"
ONE_STAGE: Final = "trained-stage"
TWO_STAGES: Final = "spatial-upscale"
FACTOR: Final = 2


def _factor(value: Any, base: Path) -> Converted:
    if value != TWO_STAGES:
        raise Unfit(f"found {value!r}; write {TWO_STAGES} or {ONE_STAGE}")
    return Converted(FACTOR)


SECOND_STAGE: Final[Mapping[str, Rule]] = {
    MODE: take("validation.upscale", convert=_factor, off=(ONE_STAGE,)),
    MODEL: take("model.latent_upsampler", needs=f"{MODE}={TWO_STAGES}"),
    FILE: moot(f"`{MODE}` is not {TWO_STAGES}"),
}


def settle_second_stage(
    translation: Translation, config: Mapping[str, Any], given: Mapping[str, int | None]
) -> None:
    """Name the upsampler as one key, and halve the size, which is that of the first stage here."""
    validation = translation.data.get("validation", {})
    two_stages = validation.get("upscale") == FACTOR
    if config.get(FILE) not in EMPTY_VALUES:
        told = "with the model as model.latent_upsampler" if two_stages else SECOND_STAGE[FILE].why
        translation.tell(FILE, "renamed" if two_stages else "moot", told, given.get(FILE))
    if not two_stages:
        return
    model, file = (str(config.get(key) or options()[key].default) for key in (MODEL, FILE))
    inside = f"{model}/{file}" if model.startswith((".", "~", "/")) else f"{model}:{file}"
    named = model if model.endswith(".safetensors") else inside
    translation.data.setdefault("model", {})["latent_upsampler"] = named
    key = "validation_resolution"
    if key not in validation:
        return
    asked = str(validation[key]).split(",")
    halved = [_half(size) for size in asked]
    validation[key] = ",".join(dict.fromkeys(halved))
    exact = all(_doubled(half) == size for half, size in zip(halved, asked, strict=True))
    message = f"{validation[key]}, of the first stage; the second doubles it"
    translation.tell(key, "taken" if exact else "rounded", message, given.get(key))


def _half(size: str) -> str:
    edges = (max(int(edge) // FACTOR, GEOMETRY.spatial_factor) for edge in size.split("x"))
    return "x".join(str(GEOMETRY.legal_edge(edge)) for edge in edges)


def _doubled(size: str) -> str:
    return "x".join(str(int(edge) * FACTOR) for edge in size.split("x"))
