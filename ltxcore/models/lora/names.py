"""Names of an adapter's tensors, as trainers write them: which layer each belongs to, and which part of it.

diffusers writes `transformer.<layer>`, ComfyUI and Lightricks `diffusion_model.<the reference's layer>`,
others the reference's layers without a prefix, kohya's scripts `lora_unet_<layer>` with underscores for dots.
No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from ltxcore.models.files.reference_names import REFERENCE_MODULES
from ltxcore.models.shapes import full_shapes, tabled_versions

Naming = Literal["diffusers", "comfyui", "bare", "kohya"]
DIFFUSERS: Final = "transformer."
COMFYUI: Final = "diffusion_model."
KOHYA: Final = "lora_unet_"
PEFT: Final = "base_model.model."
"""peft's own prefix; what follows is bare."""

A, B, ALPHA = "A", "B", "alpha"
MAGNITUDE, DORA_SCALE = "magnitude", "dora_scale"
"""A DoRA's lengths, in peft's files and in ComfyUI's."""
LOKR, LOHA = "lokr_", "hada_"
WEIGHTS: Final = "weights"
"""Part of a tensor that is a model's own and no adapter's."""
_PARTS: Final[Mapping[str, str]] = {
    "lora_A": A,
    "lora_down": A,
    "lora.down": A,
    "lora_B": B,
    "lora_up": B,
    "lora.up": B,
    "lora_magnitude_vector": MAGNITUDE,
}
_PART: Final = re.compile(
    r"\.(?P<part>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up|lora_magnitude_vector"
    r"|lokr_\w+|hada_\w+|dora_scale|alpha)(?P<default>\.default)?(?P<weight>\.weight)?$"
)
_THEIRS: Final = {reference: ours for ours, reference in REFERENCE_MODULES.items()}


@dataclass(frozen=True)
class TensorName:
    """What the name of a stored tensor says."""

    stored: str
    naming: Naming | None
    """None: of no layer of LTX-2's transformer."""
    module: str
    """In diffusers' names; as it was written where it is of no layer."""
    part: str
    """`A`, `B`, `alpha`, `magnitude`, `dora_scale`, `lokr_w1`, …, or `weights`."""
    written: str = ""
    """The part as it was written, without the layer: `lora_A.weight`."""


def parse(stored: str) -> TensorName:
    """Read one name."""
    found = _PART.search(stored)
    if found is None:
        return TensorName(stored, None, stored, WEIGHTS)
    layer, written = stored[: found.start()], stored[found.start() + 1 :]
    part = _PARTS.get(found["part"], found["part"])
    naming, module = _layer(layer)
    return TensorName(stored, naming, module, part, written)


def parse_all(names: Iterable[str]) -> tuple[TensorName, ...]:
    """Read names, in their order."""
    return tuple(parse(name) for name in names)


def _layer(layer: str) -> tuple[Naming | None, str]:
    if layer.startswith(DIFFUSERS):
        return "diffusers", layer.removeprefix(DIFFUSERS)
    if layer.startswith(COMFYUI):
        return "comfyui", own_name(layer.removeprefix(COMFYUI))
    if layer.startswith(KOHYA):
        known = _underscored().get(layer.removeprefix(KOHYA))
        return (None, layer) if known is None else ("kohya", known)
    bare = layer.removeprefix(PEFT)
    if without_numbers(own_name(bare)) in _layers():
        return "bare", own_name(bare)
    return None, layer


def own_name(reference: str) -> str:
    """A layer's name in diffusers, from its name in the reference and ComfyUI."""
    first, dot, rest = reference.partition(".")
    return f"{_THEIRS.get(first, first)}{dot}{rest}"


def reference_name(name: str) -> str:
    """A layer's (or its LoRA's) name in the reference, from its name in diffusers."""
    first, dot, rest = name.partition(".")
    return f"{REFERENCE_MODULES.get(first, first)}{dot}{rest}"


def without_numbers(layer: str) -> str:
    """A layer's name without the number of its block, so that equal layers have one name."""
    return re.sub(r"^transformer_blocks\.\d+\.", "", layer)


@cache
def linears(version: str) -> Mapping[str, tuple[int, int]]:
    """Layer -> [out, in] of every linear layer of a version's released transformer."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in full_shapes(version)["transformer"].items()
        if name.endswith(".weight") and len(shape) == 2
    }


@cache
def _underscored() -> Mapping[str, str]:
    layers = {layer for version in tabled_versions() for layer in linears(version)}
    plain = {layer.replace(".", "_"): layer for layer in layers}
    return plain | {reference_name(layer).replace(".", "_"): layer for layer in layers}


@cache
def _layers() -> frozenset[str]:
    return frozenset(without_numbers(layer) for version in tabled_versions() for layer in linears(version))
