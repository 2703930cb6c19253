"""The combined checkpoint: one .safetensors with transformer, connectors, VAEs and vocoder.

It is recognised, and its parts are told apart, from the header alone. Weights are read later, a component
and a tensor at a time.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ltxcore.models.errors import ModelError
from ltxcore.models.reference_config import component_config
from ltxcore.models.reference_names import is_known, locate
from ltxcore.models.tensor_file import StoredTensor, TensorFile, read_tensor_file
from ltxcore.models.versions import VERSIONS, Version
from ltxcore.models.weights import FP8, PACKED_FP4, Weight, scaled_weights

logger = logging.getLogger(__name__)

Storage = Literal["bf16", "fp8", "fp4"]
COMBINED_COMPONENTS = ("transformer", "connectors", "vae", "audio_vae", "vocoder")
_BLOCKS = "model.diffusion_model.transformer_blocks."
_SHOWN_NAMES = 3


@dataclass(frozen=True)
class CombinedCheckpoint:
    """A recognised combined checkpoint."""

    path: Path
    version: Version = field(compare=False)
    storage: Storage
    """How the transformer's large weights are stored."""
    file: TensorFile = field(repr=False, compare=False)

    @cached_property
    def _components(self) -> Mapping[str, dict[str, StoredTensor]]:
        parts: dict[str, dict[str, StoredTensor]] = {name: {} for name in COMBINED_COMPONENTS}
        for reference, tensor in self.file.tensors.items():
            found = locate(reference)
            if found is not None:
                component, name = found
                parts[component][name] = tensor
        return parts

    def weights(self, component: str) -> dict[str, Weight]:
        """A component's weights, under diffusers' names.

        Raises:
            ModelError: the file holds none of them, or fp8 or fp4 values without their scales.
        """
        tensors = self._components[component]
        if not tensors:
            raise ModelError(
                f"{self.path} holds no {component}; a combined checkpoint of LTX-2 holds "
                f"{', '.join(COMBINED_COMPONENTS)}. Give the whole checkpoint, not a part of it"
            )
        return scaled_weights(tensors)

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration, in diffusers' names.

        Raises:
            ModelError: the component is not in the file, or the metadata has another form.
        """
        return component_config(component, self.version, stored_config(self.file), self.weights(component))


def open_combined(path: Path) -> CombinedCheckpoint:
    """Recognise a combined checkpoint from its header.

    Raises:
        ModelError: the file is cut short, of another kind or another model, a LoRA, a part of a model, or
            of a version that cannot be loaded; the text says what was found and what to give.
    """
    file = read_tensor_file(path)
    _require_ltx2(file)
    version = _version(file)
    version.require_loadable(str(path))
    unknown = sorted(name for name in file.tensors if not is_known(name))
    if unknown:
        logger.warning(
            "%s holds %d tensors that belong to no part of LTX-2 and are not read: %s",
            path,
            len(unknown),
            _few(unknown),
        )
    return CombinedCheckpoint(path, version, _storage(file), file)


def stored_config(file: TensorFile) -> dict[str, Any]:
    """The `config` of the metadata, `{}` where the file has none.

    Raises:
        ModelError: it does not parse.
    """
    try:
        config = json.loads(file.metadata.get("config", "{}"))
    except ValueError as error:
        raise ModelError(
            f"the config in the metadata of {file.path} does not parse: {error}; download it again"
        ) from error
    if not isinstance(config, dict):
        raise ModelError(f"the config in the metadata of {file.path} is no object; download it again")
    return config


def _require_ltx2(file: TensorFile) -> None:
    names = list(file.tensors)
    if any(re.search(r"\.lora_(A|B|down|up)\b|\.lora_[AB]\.", name) for name in names):
        raise ModelError(
            f"{file.path} is a LoRA, not a base model: it holds {_few(names)}. Give the checkpoint that "
            "it was trained on"
        )
    # Only LTX-2 has a stream of sound beside the video's.
    if any(name.startswith(_BLOCKS) and ".audio_to_video_attn." in name for name in names):
        return
    kind = stored_config(file).get("transformer", {}).get("_class_name")
    raise ModelError(
        f"{file.path} is a checkpoint of another model{f' ({kind})' if kind else ''}: it holds "
        f"{_few(names)}, and no {_BLOCKS}0.audio_to_video_attn. Give a combined checkpoint of LTX-2, such "
        "as ltx-2-19b-dev.safetensors"
    )


def _version(file: TensorFile) -> Version:
    """The version that the weights show, which the metadata must not contradict."""
    gated = any(name.endswith(".attn1.to_gate_logits.weight") for name in file.tensors)
    keyframes = stored_config(file).get("transformer", {}).get("use_keyframes_abs_pos_embedding")
    shown = "2.0" if not gated else "2.5" if keyframes else "2.3"
    said = re.match(r"v?(\d+)(?:\.(\d+))?", file.metadata.get("model_version", "").strip())
    if said is None:
        return VERSIONS[shown]
    name = f"{said[1]}.{said[2] or 0}"
    if name not in VERSIONS:
        raise ModelError(
            f"{file.path} says that it is an LTX-{name}, which is not known here; give one of "
            f"{', '.join(VERSIONS)}"
        )
    if (name == "2.0") == gated:
        raise ModelError(
            f"{file.path} says that it is an LTX-{name}, but its attention is {'' if gated else 'not '}"
            f"gated, as in {shown}; download the checkpoint again"
        )
    return VERSIONS[name]


def _storage(file: TensorFile) -> Storage:
    kinds = {t.dtype for name, t in file.tensors.items() if name.startswith(_BLOCKS) and len(t.shape) == 2}
    return "fp4" if PACKED_FP4 in kinds else "fp8" if FP8 in kinds else "bf16"


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN_NAMES]) or "nothing"
    return f"{shown}, ..." if len(names) > _SHOWN_NAMES else shown
