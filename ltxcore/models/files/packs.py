"""A model in packs: one .safetensors a part, as LTX-2.5 is published and as ComfyUI keeps 2.3.

What a pack holds is told from the names of its tensors; they are given the combined checkpoint's names, so
that packs and a combined checkpoint are read alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ltxcore.models.errors import ModelError
from ltxcore.models.files.gemma_tower import tower_weights
from ltxcore.models.files.reference_names import CONNECTORS, PROJECTION_PREFIX, TRANSFORMER_PREFIX
from ltxcore.models.files.tensor_file import StoredTensor, read_tensor_file

PARTS: Final[Mapping[str, str]] = {
    "transformer": "the transformer (diffusion_models/...)",
    "connectors": "the connectors of the text, which lie in the transformer's pack",
    "text_projection": "the text projections (text_encoders/...)",
    "vae": "the convolutional video VAE (vae/...)",
    "audio_vae": "the audio VAE (vae/...)",
    "vocoder": "the vocoder, which lies in the audio VAE's pack",
}
"""What a model is made of beside its text encoder, and where it is published."""
TEXT_ENCODER: Final = "text_encoder"
DIFFUSION_DECODER: Final = "diffusion_decoder"
_PREFIXES: Final[Mapping[str, str]] = {
    "connectors": CONNECTORS[0],
    "text_projection": PROJECTION_PREFIX,
    "audio_vae": "audio_vae.",
    "vocoder": "vocoder.",
    "vae": "vae.",
}
_BARE_TRANSFORMER: Final = ("transformer_blocks.", "patchify_proj.")
_BARE_VAE: Final = ("encoder.", "decoder.", "per_channel_statistics.")
_BARE_PROJECTIONS: Final = ("aggregate_embed.", "video_aggregate_embed.", "audio_aggregate_embed.")
_VIDEO_CONV_EDGES: Final = 5
_DIFFUSION_STAGES: Final = "decoder.det_stages."
_CONV_DECODER: Final = "vae.decoder.conv_in.conv.weight"
_LORA: Final = re.compile(r"\.lora_(A|B|down|up)\b|\.lora_[AB]\.")
# Weights of ComfyUI's int8: turned by a rotation that no key of the file tells.
_ROTATED: Final = "I8"


@dataclass(frozen=True)
class Pack:
    """One file of a model, from its header."""

    path: Path
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    """Under the combined checkpoint's names."""
    tower: Mapping[str, StoredTensor] = field(repr=False)
    """The text encoder's, under its own names."""
    metadata: Mapping[str, str] = field(repr=False)

    @cached_property
    def holds(self) -> frozenset[str]:
        """The parts that it holds; none where it changes a model, as a LoRA does."""
        if self.is_lora:
            return frozenset()
        found = {
            part
            for part, prefix in _PREFIXES.items()
            if any(name.startswith(prefix) for name in self.tensors)
        }
        if any(is_transformer(name) for name in self.tensors):
            found.add("transformer")
        if "vae" in found and _CONV_DECODER not in self.tensors:
            found = found - {"vae"} | {DIFFUSION_DECODER}
        return frozenset(found | ({TEXT_ENCODER} if self.tower else set()))

    @property
    def is_lora(self) -> bool:
        """Whether it holds changes of weights, in any trainer's names."""
        return any(_LORA.search(name) for name in self.tensors)

    @property
    def version(self) -> str | None:
        """`2.5` of a `model_version` 2.5.0."""
        said = self.metadata.get("model_version", "").strip().lstrip("v").split(".")
        return ".".join([*said, "0"][:2]) if said[0].isdecimal() else None

    @property
    def config(self) -> dict[str, Any]:
        """The `config` of the metadata, `{}` where there is none.

        Raises:
            ModelError: it does not parse.
        """
        return stored_json(self.path, self.metadata, "config")


def read_pack(path: Path) -> Pack:
    """Look at what a file holds. Only its header is read.

    Raises:
        ModelError: it is cut short, of another kind, or holds weights that nothing here can read.
    """
    file = read_tensor_file(path)
    rotated = [name for name, tensor in file.tensors.items() if tensor.dtype == _ROTATED]
    if rotated:
        raise ModelError(
            f"{path} holds {len(rotated)} weights in int8, e.g. {rotated[0]}: ComfyUI's rotated form "
            "(convrot), which is not read here. Give the file in bf16, fp8-scaled or nvfp4"
        )
    tower = tower_weights({n: t for n, t in file.tensors.items() if _of_the_tower(n)})
    rest = {name: tensor for name, tensor in file.tensors.items() if not _of_the_tower(name)}
    return Pack(path, _named(rest), tower, file.metadata)


def is_transformer(name: str) -> bool:
    """Whether a combined checkpoint's name is of the transformer itself, not of the connectors under it."""
    return name.startswith(TRANSFORMER_PREFIX) and not name.startswith(CONNECTORS)


def joined(packs: Iterable[Pack], named: Mapping[str, Path]) -> dict[str, Pack]:
    """Which pack gives which part.

    Args:
        packs: of one model.
        named: parts for which the recipe says which file gives them; it also gives what else it holds.

    Raises:
        ModelError: two packs hold a part, or a part is missing.
    """
    packs = list(packs)
    found: dict[str, Pack] = {}
    for part in (*PARTS, TEXT_ENCODER):
        holding = [pack for pack in packs if part in pack.holds]
        given = [pack for pack in holding if pack.path in named.values()]
        chosen = [pack for pack in given if named.get(part) == pack.path] or given or holding
        if len(chosen) > 1:
            files = " and ".join(pack.path.name for pack in chosen)
            raise ModelError(
                f"{files} in {chosen[0].path.parent} both hold the {part.replace('_', ' ')}; name the one "
                f"that is meant by model.parts: {{{part}: {chosen[0].path}}}"
            )
        if chosen:
            found[part] = chosen[0]
    _require_all(packs, found)
    return found


def _require_all(packs: list[Pack], found: Mapping[str, Pack]) -> None:
    missing = [part for part in PARTS if part not in found]
    if not missing:
        return
    files = ", ".join(f"{pack.path.name} ({', '.join(sorted(pack.holds)) or 'nothing'})" for pack in packs)
    told = "; ".join(PARTS[part] for part in missing)
    decoder = ""
    if "vae" in missing and any(DIFFUSION_DECODER in pack.holds for pack in packs):
        decoder = " The video VAE that is there has the decoder that is a diffusion model."
    raise ModelError(
        f"the model lacks {told}: there are {files or 'no packs'}.{decoder} Put the missing pack beside "
        f"them, or name it by model.parts: {{{missing[0]}: FILE}}"
    )


def stored_json(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """An object of a file's metadata, `{}` where there is none.

    Raises:
        ModelError: it does not parse.
    """
    try:
        found = json.loads(metadata.get(key, "{}"))
    except ValueError as error:
        raise ModelError(
            f"the {key} in the metadata of {path} does not parse: {error}; download it again"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(f"the {key} in the metadata of {path} is not an object; download it again")
    return found


def packs_of(paths: Iterable[Path]) -> list[Pack]:
    """The packs among some files; LoRAs, upscalers and the like are passed over.

    Raises:
        ModelError: a file is cut short.
    """
    found = [read_pack(path) for path in sorted(paths)]
    return [pack for pack in found if pack.holds]


def _of_the_tower(name: str) -> bool:
    bare = name.removeprefix("text_encoder.")
    return bare.startswith(("language_model.", "model.language_model.")) or bare.startswith(
        ("model.layers.", "model.embed_tokens.", "model.norm.")
    )


def _named(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The combined checkpoint's names for those of a pack; a LoRA's stay what they are."""
    if any(_LORA.search(name) for name in tensors):
        return dict(tensors)
    if any(name.startswith(_BARE_TRANSFORMER) for name in tensors):
        return {_under(TRANSFORMER_PREFIX, name, PROJECTION_PREFIX): t for name, t in tensors.items()}
    if any(name.startswith("diffusion_model.") for name in tensors):
        return {f"model.{n}" if n.startswith("diffusion_model.") else n: t for n, t in tensors.items()}
    if any(name.startswith(_BARE_VAE) for name in tensors):
        video = any(
            len(tensor.shape) == _VIDEO_CONV_EDGES or name.startswith(_DIFFUSION_STAGES)
            for name, tensor in tensors.items()
        )
        prefix = "vae." if video else "audio_vae."
        return {(prefix + n if n.startswith(_BARE_VAE) else n): t for n, t in tensors.items()}
    return {(PROJECTION_PREFIX + n if n.startswith(_BARE_PROJECTIONS) else n): t for n, t in tensors.items()}


def _under(prefix: str, name: str, *others: str) -> str:
    return name if name.startswith((prefix, *others)) else prefix + name
