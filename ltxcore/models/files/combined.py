"""The combined checkpoint: one .safetensors with transformer, connectors, VAEs and vocoder.

The file and its components are recognised by the header alone. Weights are read later, one component and one
tensor at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ltxcore.config.published import Storage
from ltxcore.models.errors import ModelError
from ltxcore.models.files.packs import TEXT_ENCODER, Pack, joined, read_pack
from ltxcore.models.files.part_versions import require_one_version
from ltxcore.models.files.recognise import by_marks, shown_marks
from ltxcore.models.files.reference_config import component_config
from ltxcore.models.files.reference_names import (
    CONNECTORS,
    PROJECTION_PREFIX,
    TRANSFORMER_PREFIX,
    is_known,
    locate,
)
from ltxcore.models.files.tensor_file import StoredTensor
from ltxcore.models.files.weights import FP8, PACKED_FP4, Weight, scaled_weights
from ltxcore.models.version import MARKS, Version
from ltxcore.models.versions import VERSIONS

logger = logging.getLogger(__name__)

COMBINED_COMPONENTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder")
_BLOCKS = "model.diffusion_model.transformer_blocks."
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class CombinedCheckpoint:
    """A recognised checkpoint in the reference's names: one file, or the packs that make up a model."""

    path: Path
    """The transformer's file."""
    version: Version = field(compare=False)
    storage: Storage
    """How the transformer's large weights are stored."""
    tensors: Mapping[str, StoredTensor] = field(repr=False, compare=False)
    stored: Mapping[str, Any] = field(repr=False, compare=False)
    """The `config` of the metadata, each component's from the file that holds it."""
    metadata: Mapping[str, str] = field(repr=False, compare=False)
    """Of the transformer's file."""
    text: Pack | None = field(default=None, repr=False, compare=False)
    """The pack that holds the text encoder."""

    @cached_property
    def components(self) -> Mapping[str, dict[str, StoredTensor]]:
        """Component -> its stored tensors, under diffusers' names."""
        parts: dict[str, dict[str, StoredTensor]] = {name: {} for name in COMBINED_COMPONENTS}
        for reference, tensor in self.tensors.items():
            found = locate(reference)
            if found is not None:
                component, name = found
                parts[component][name] = tensor
        return parts

    def files(self, component: str) -> list[Path]:
        """The files that hold a component."""
        return sorted({tensor.file for tensor in self.components[component].values()})

    def weights(self, component: str) -> dict[str, Weight]:
        """A component's weights, under diffusers' names.

        Raises:
            ModelError: the file holds none of them, or fp8 or fp4 values without their scales.
        """
        tensors = self.components[component]
        if not tensors:
            raise ModelError(
                f"{self.path} holds no {component}; a combined checkpoint of LTX-2 holds "
                f"{', '.join(COMBINED_COMPONENTS)}. Give the whole checkpoint, not a part of it, or the "
                "parts by model.parts"
            )
        return scaled_weights(tensors)

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration, in diffusers' names.

        Raises:
            ModelError: the component is not in the file, or the metadata has another form.
        """
        return component_config(component, self.version, self.stored, self.weights(component))


def open_combined(path: Path) -> CombinedCheckpoint:
    """Recognise a combined checkpoint from its header.

    Raises:
        ModelError: the file is cut short, of another kind or another model, a LoRA, a part of a model, or
            of a version that is not known; the text says what was found and what to give.
    """
    pack = read_pack(path)
    _require_ltx2(pack)
    unknown = sorted(name for name in pack.tensors if not is_known(name))
    if unknown:
        logger.warning(
            "%s holds %d tensors that belong to no part of LTX-2 and are not read: %s",
            path,
            len(unknown),
            _few(unknown),
        )
    return CombinedCheckpoint(path, _version(pack), _storage(pack), pack.tensors, pack.config, pack.metadata)


def open_packs(packs: Iterable[Pack], named: Mapping[str, Path]) -> CombinedCheckpoint:
    """Put a model together from its packs' headers.

    Args:
        packs: that may be of the model; see `joined`.
        named: the files that the recipe names for single parts.

    Raises:
        ModelError: two packs hold a part, one is missing or of another version; says which.
    """
    parts = joined(packs, named)
    main = parts["transformer"]
    _require_ltx2(main)
    tensors: dict[str, StoredTensor] = {}
    stored: dict[str, Any] = {}
    for part, pack in parts.items():
        tensors |= {name: tensor for name, tensor in pack.tensors.items() if _part(name) == part}
        stored |= {key: section for key, section in pack.config.items() if key == part and section}
    found = CombinedCheckpoint(
        main.path, _version(main), _storage(main), tensors, stored, main.metadata, parts.get(TEXT_ENCODER)
    )
    require_one_version(found.version, parts, found.components)
    return found


def _part(name: str) -> str:
    """The part of a model that a stored name belongs to."""
    if name.startswith(CONNECTORS):
        return "connectors"
    if name.startswith(PROJECTION_PREFIX):
        return "text_projection"
    return "transformer" if name.startswith(TRANSFORMER_PREFIX) else name.partition(".")[0]


def _require_ltx2(file: Pack) -> None:
    names = list(file.tensors)
    if file.is_lora:
        raise ModelError(
            f"{file.path} is a LoRA, not a base model: it holds {_few(names)}. Give the checkpoint that "
            "it was trained on"
        )
    # Only LTX-2 has a stream of sound beside the video's.
    if any(name.startswith(_BLOCKS) and ".audio_to_video_attn." in name for name in names):
        return
    kind = file.config.get("transformer", {}).get("_class_name")
    raise ModelError(
        f"{file.path} is a checkpoint of another model{f' ({kind})' if kind else ''}: it holds "
        f"{_few(names)}, and no {_BLOCKS}0.audio_to_video_attn. Give a combined checkpoint of LTX-2, such "
        "as ltx-2-19b-dev.safetensors"
    )


def _version(file: Pack) -> Version:
    """The version that the weights show, which the metadata must not contradict."""
    marks = {mark: any(name.endswith(end) for name in file.tensors) for mark, end in MARKS.items()}
    shown = by_marks(marks, file.path)
    said = re.match(r"v?(\d+)(?:\.(\d+))?", file.metadata.get("model_version", "").strip())
    if said is None:
        return shown
    name = f"{said[1]}.{said[2] or 0}"
    if name not in VERSIONS:
        raise ModelError(
            f"{file.path} says that it is an LTX-{name}, which is not known here; give one of "
            f"{', '.join(VERSIONS)}"
        )
    if VERSIONS[name].marks != marks:
        raise ModelError(
            f"{file.path} says that it is an LTX-{name}, but its weights are those of {shown.name} "
            f"({shown_marks(marks)}); download the checkpoint again"
        )
    return VERSIONS[name]


def _storage(file: Pack) -> Storage:
    kinds = {t.dtype for name, t in file.tensors.items() if name.startswith(_BLOCKS) and len(t.shape) == 2}
    return "fp4" if PACKED_FP4 in kinds else "fp8" if FP8 in kinds else "bf16"


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES]) or "nothing"
    return f"{shown}, ..." if len(names) > _SHOWN_NAMES else shown
