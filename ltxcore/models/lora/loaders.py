"""What ComfyUI and diffusers make of a LoRA file: their rules for names, followed on the names alone.

ComfyUI: a layer of its model answers to `diffusion_model.<layer>`, to `<layer>` and to `lora_unet_<layer>`
with underscores, all in the reference's names; an alpha tensor is honoured, one in the header is not.
diffusers (`LTX2Pipeline.load_lora_weights`, 0.42): every name must say `lora`; if any begins with
`diffusion_model.`, the others are dropped; what is not then of the transformer is dropped, too; factors are
`lora_A` and `lora_B`; rank and alpha are those of `lora_adapter_metadata`, else alpha is the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ltxcore.models.lora.header import LoraHeader
from ltxcore.models.lora.names import (
    ALPHA,
    COMFYUI,
    DIFFUSERS,
    DORA_SCALE,
    KOHYA,
    MAGNITUDE,
    A,
    B,
    TensorName,
    own_name,
    reference_name,
)

Loader = Literal["ComfyUI", "diffusers"]
_COMFYUI_FACTORS: Final = frozenset(
    f"{factor}{ending}"
    for factor, endings in {
        "lora_A": ("", ".weight", ".default.weight"),
        "lora_B": ("", ".weight", ".default.weight"),
        "lora_down": (".weight",),
        "lora_up": (".weight",),
        "lora.down": (".weight",),
        "lora.up": (".weight",),
    }.items()
    for ending in endings
)
_DIFFUSERS_FACTORS: Final = frozenset({"lora_A.weight", "lora_B.weight"})
_MARK: Final = "lora"


@dataclass(frozen=True)
class Loading:
    """What a program makes of a file."""

    loader: Loader
    refused: str = ""
    """Why it takes none of it; empty where it takes what it knows."""
    unread: tuple[tuple[str, str], ...] = ()
    """Tensors that it leaves out without an error, each with why."""
    strength: tuple[float, ...] = (1.0,)
    """How much of what was trained it applies, each share once where layers differ: 1 is all of it."""

    @property
    def whole(self) -> bool:
        """Whether it loads every tensor, at the strength that was trained."""
        return not self.refused and not self.unread and self.strength == (1.0,)


def loadings(header: LoraHeader, layers: Mapping[str, object]) -> tuple[Loading, Loading]:
    """What ComfyUI and diffusers make of a file.

    Args:
        header: the file's.
        layers: the linear layers of the transformer that it is loaded into, in diffusers' names.
    """
    return _comfyui(header, layers), _diffusers(header, layers)


def _comfyui(header: LoraHeader, layers: Mapping[str, object]) -> Loading:
    known = {reference_name(layer) for layer in layers}
    spelled = {name.replace(".", "_") for name in known}
    unread = []
    for name in header.names:
        why = _comfyui_objection(name, known, spelled)
        if why:
            unread.append((name.stored, why))
    return Loading("ComfyUI", unread=tuple(unread), strength=_comfyui_strength(header))


def _comfyui_objection(name: TensorName, known: set[str], spelled: set[str]) -> str:
    layer = name.stored.removesuffix(f".{name.written}")
    if layer.startswith(DIFFUSERS):
        return f"ComfyUI knows no names that begin with `{DIFFUSERS}`"
    there = (
        layer.removeprefix(KOHYA) in spelled
        if layer.startswith(KOHYA)
        else layer.removeprefix(COMFYUI) in known
    )
    if not there:
        plain = layer.removeprefix(COMFYUI)
        if reference_name(plain) in known:
            return f"ComfyUI calls this layer {reference_name(plain)}"
        return "the model has no such layer"
    if name.part == MAGNITUDE:
        return "ComfyUI reads a DoRA's lengths as dora_scale alone"
    if name.part in (A, B) and name.written not in _COMFYUI_FACTORS:
        return f"ComfyUI knows no part {name.written}"
    return ""


def _diffusers(header: LoraHeader, layers: Mapping[str, object]) -> Loading:
    names = [name for name in header.names if name.part != DORA_SCALE]
    dropped = [
        (name.stored, "diffusers leaves ComfyUI's dora_scale out, and applies a plain LoRA")
        for name in header.names
        if name.part == DORA_SCALE
    ]
    if any(name.stored.startswith(COMFYUI) for name in names):
        others = [name for name in names if not name.stored.startswith(COMFYUI)]
        dropped += [(name.stored, f"diffusers takes names with `{COMFYUI}` alone, if any") for name in others]
        names = [name for name in names if name.stored.startswith(COMFYUI)]
    strange = [name.stored for name in names if _MARK not in name.stored]
    if strange:
        what = "an alpha tensor" if strange[0].endswith(ALPHA) else "what is no LoRA"
        message = f"it takes no file with {what}, such as {strange[0]}"
        return Loading("diffusers", refused=message, unread=tuple(dropped))
    away = [name for name in names if not name.stored.startswith((COMFYUI, DIFFUSERS))]
    dropped += [(name.stored, f"diffusers reads `{DIFFUSERS}` and `{COMFYUI}` alone") for name in away]
    names = [name for name in names if name not in away]
    odd = [name.written for name in names if name.part in (A, B) and name.written not in _DIFFUSERS_FACTORS]
    if odd:
        # Either it fails at once, or it leaves layers without values and fails when it computes.
        message = f"it knows no factors named {odd[0]}, only lora_A.weight and lora_B.weight"
        return Loading("diffusers", refused=message, unread=tuple(dropped))
    for name in names:
        why = _diffusers_objection(name, layers)
        if why:
            dropped.append((name.stored, why))
    return Loading("diffusers", unread=tuple(dropped))


def _diffusers_objection(name: TensorName, layers: Mapping[str, object]) -> str:
    layer = name.stored.removesuffix(f".{name.written}")
    if layer.startswith(DIFFUSERS):
        found = layer.removeprefix(DIFFUSERS)
    else:
        found = own_name(layer.removeprefix(COMFYUI))
    if found not in layers:
        return "the model has no such layer"
    known = name.written in _DIFFUSERS_FACTORS or name.part == MAGNITUDE
    return "" if known else f"diffusers knows no part {name.written}"


def _comfyui_strength(header: LoraHeader) -> tuple[float, ...]:
    """The shares of what was trained that ComfyUI applies: it reads an alpha tensor, and no header."""
    if header.kind in ("lokr", "loha"):
        return (1.0,)
    shares = {
        1.0 if layer.alpha is not None else round(1 / layer.scale, 6)
        for layer in header.layers.values()
        if layer.scale
    }
    return tuple(sorted(shares)) or (1.0,)
