"""Translates SimpleTuner's conditioning keys (`ltx2_*_conditioning*`) to the recipe's `conditioning`.

SimpleTuner has two equivalent forms: a list of conditions, and single keys. It counts lengths in latent
frames and rectangles in latent pixels; here they are frames of the clip and shares of the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.simpletuner.translation import Rule, Translation, Unfit, take

LIST: Final = "ltx2_intrinsic_conditioning"
STRETCHES: Final = ("prefix", "suffix")
FIRST_FRAME: Final = "ltx2_first_frame_conditioning_probability"
PROBABILITIES: Final[Mapping[str, str]] = {
    f"ltx2_{kind}_conditioning_probability": kind for kind in (*STRETCHES, "mask")
}
FRAMES: Final[Mapping[str, str]] = {f"ltx2_{kind}_conditioning_frames": kind for kind in STRETCHES}
REFERENCES: Final[Mapping[str, str]] = {
    "ltx2_reference_spatial_scale_factor": "data.reference_downscale_factor",
    "ltx2_reference_temporal_scale_factor": "data.reference_temporal_scale_factor",
}
KEYS: Final = frozenset({LIST, *PROBABILITIES, *FRAMES})
USUAL_EDGE: Final = 512
LEAST_SHARE: Final = 0.001
CONDITIONING: Final[Mapping[str, Rule]] = {
    **{key: take("conditioning.video") for key in (LIST, *PROBABILITIES, *FRAMES)},
    FIRST_FRAME: take(f"training.{FIRST_FRAME}"),
    **{key: take(path, why="for datasets of references that give none") for key, path in REFERENCES.items()},
}


def settle_conditioning(
    translation: Translation, config: Mapping[str, Any], given: Mapping[str, int | None]
) -> None:
    """Collect the conditions that the keys ask for, with a line for each key."""
    conditions: list[dict[str, Any]] = []
    if LIST in config:
        _put_conditions(translation, given, LIST, lambda: _listed(config), conditions)
    for key, kind in PROBABILITIES.items():
        if key in config:
            _put_conditions(translation, given, key, lambda k=key, t=kind: _single(config, k, t), conditions)
    for key, kind in FRAMES.items():
        if key in config:
            asked = any(condition["type"] == kind for condition in conditions)
            message = f"in ltx2_{kind}_conditioning_probability" if asked else f"no {kind} is given"
            translation.tell(key, "renamed" if asked else "moot", message, given[key])
    references = [key for key in REFERENCES if config.get(key) not in (None, "")]
    if references:
        conditions.append({"type": "reference"})
        message = f"a reference for every clip, which `{references[0]}` is of"
        translation.tell("conditioning.video.conditions", "added", message)
    twice = sorted({c["type"] for c in conditions if [d["type"] for d in conditions].count(c["type"]) > 1})
    if twice:
        message = f"gives {twice[0]} that another key gives, too; keep one of them"
        translation.tell(LIST, "refused", message, given.get(LIST))
    elif conditions:
        translation.data["conditioning"] = {"video": {"conditions": conditions}}
        for key in (LIST, *PROBABILITIES, *REFERENCES):
            if (line := given.get(key)) is not None:
                translation.places.setdefault(("conditioning",), line)


def _put_conditions(
    translation: Translation,
    given: Mapping[str, int | None],
    key: str,
    make: Any,
    conditions: list[dict[str, Any]],
) -> None:
    try:
        found = make()
    except Unfit as error:
        translation.tell(key, "refused", str(error), given[key])
        return
    conditions += found
    if found:
        listed = "; ".join(json.dumps(condition) for condition in found)
        translation.tell(key, "renamed", f"as conditioning.video.conditions: {listed}", given[key])
    else:
        translation.tell(key, "moot", "asks for nothing", given[key])


def _single(config: Mapping[str, Any], key: str, kind: str) -> list[dict[str, Any]]:
    probability = _probability(config[key])
    if not probability:
        return []
    length = config.get(f"ltx2_{kind}_conditioning_frames")
    return [_condition(kind, probability, 1 if length in (None, "") else length)]


def _listed(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The list, also as the text of one, or one condition alone."""
    found = config[LIST]
    if isinstance(found, str):
        try:
            found = json.loads(found) if found.strip() else []
        except ValueError:
            raise Unfit(f"found {config[LIST]!r}; write a JSON list of conditions") from None
    found = [found] if isinstance(found, dict) else found or []
    if not isinstance(found, list) or not all(isinstance(spec, dict) for spec in found):
        raise Unfit(f'found {found!r}; write a list such as [{{"type": "first_frame", "probability": 0.5}}]')
    return [made for spec in found for made in _of_spec(spec, config)]


def _of_spec(spec: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    kind = spec.get("type")
    lengths = ("temporal_boundary", "num_frames")
    known = {
        "first_frame": (),
        "prefix": lengths,
        "suffix": lengths,
        "spatial_crop": ("spatial_region", "region"),
        "mask": ("mask_key",),
    }
    if kind not in known:
        raise Unfit(f"found the type {kind!r}; known: {', '.join(known)}")
    odd = sorted(spec.keys() - {"type", "probability", *known[kind]})
    if odd:
        raise Unfit(f"{kind} has no `{odd[0]}`; known: {', '.join(('probability', *known[kind]))}")
    probability = _probability(spec.get("probability", 1.0))
    if not probability:
        return []
    if kind == "spatial_crop":
        region = spec.get("spatial_region", spec.get("region", (0, 0, 0, 0)))
        share = _share(region, config)
        return [{"type": kind, "probability": probability, "area": share}] if share else []
    return [_condition(kind, probability, spec.get("temporal_boundary", spec.get("num_frames", 1)))]


def _condition(kind: str, probability: float, latents: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": kind, "probability": probability}
    if kind in STRETCHES:
        if isinstance(latents, bool) or not isinstance(latents, int | float) or latents < 1 or latents % 1:
            raise Unfit(f"{kind}: found {latents!r}; write a number of latent frames above 0")
        first, step = kind == "prefix", GEOMETRY.temporal_factor
        made["frames"] = int(latents - 1) * step + 1 if first else int(latents) * step
    return made


def _probability(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Unfit(f"found the probability {value!r}; write a number from 0 to 1")
    return float(value)


def _share(region: Any, config: Mapping[str, Any]) -> float:
    """The share of the picture that [top, left, bottom, right] in latent pixels is at the config's size."""
    if not isinstance(region, list | tuple) or len(region) != 4:
        raise Unfit(f"found the region {region!r}; write [top, left, bottom, right]")
    if not all(isinstance(edge, int | float) for edge in region):
        raise Unfit(f"found the region {list(region)!r}; write four numbers")
    top, left, bottom, right = region
    if bottom < top or right < left:
        raise Unfit(f"found the region {list(region)!r}, which ends before it begins")
    edge = config.get("resolution")
    pixels = (
        float(edge) if isinstance(edge, int | float) and edge > GEOMETRY.spatial_factor else float(USUAL_EDGE)
    )
    if config.get("resolution_type") == "area" and isinstance(edge, int | float):
        pixels = math.sqrt(float(edge) * 1e6)
    share = (bottom - top) * (right - left) / (pixels / GEOMETRY.spatial_factor) ** 2
    if share >= 1:
        raise Unfit(f"the region {list(region)!r} is the whole picture, of which nothing is left to learn")
    return max(LEAST_SHARE, round(share, 4)) if share else 0.0
