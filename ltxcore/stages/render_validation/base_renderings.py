"""Keeps the base's renderings, which are the same for every LoRA and every step of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER
from ltxcore.pipeline.base.outputs import BASE_PREFIX
from ltxcore.stages.embed_text.request import space_request
from ltxcore.stages.render_validation.runs import adapter_request
from ltxcore.stages.render_validation.standalone_models import standalone_request
from ltxcore.store.blobs import write_atomic
from ltxcore.store.file_hashes import faults_in, write_hashes
from ltxcore.store.fingerprint import fingerprint
from ltxcore.validation.rendering_settings import Rendering

logger = logging.getLogger(__name__)

MODELS = ("transformer", "connectors", "vae", "audio_vae", "vocoder")
HEADER = "rendering"


@dataclass(frozen=True)
class BaseRenderings:
    """The base's renderings of some prompts, each in a file whose key covers everything that the rendering
    depends on."""

    ctx: Context
    settings: Mapping[str, Mapping[str, Any]]
    """Name -> of the validation what its rendering depends on."""
    prompts: Mapping[str, str]

    def load(self) -> list[Rendering] | None:
        """All renderings; None if one is missing or broken."""
        found = [read_rendering(self._file(name)) for name in self.prompts]
        whole = [rendering for rendering in found if rendering is not None]
        if len(whole) < len(found):
            return None
        logger.info("the base's renderings are there already: %s", ", ".join(self.prompts))
        return whole

    def save(self, renderings: Sequence[Rendering]) -> list[Rendering]:
        """Write the renderings, and return them."""
        for rendering in renderings:
            write_rendering(self._file(rendering.name), rendering)
        return list(renderings)

    def _file(self, name: str) -> Path:
        key = fingerprint(
            {
                "version": RENDER.version,
                "name": name,
                "prompt": self.prompts[name],
                "settings": {k: v for k, v in self.settings[name].items() if k != "validation_prompts"},
                **adapter_request(self.ctx),
                **standalone_request(self.ctx),
                "precision": self.ctx.recipe.training.mixed_precision,
                "held": self.ctx.recipe.model.base_model_precision,
                **space_request(self.ctx),
                **{part: self.ctx.source.fingerprint(part) for part in MODELS},
            }
        )
        # A directory each, which a sweep takes like those of the stages, by its age.
        return self.ctx.workspace.stages / RENDER.name / f"{BASE_PREFIX}{key[:16]}" / "rendering.safetensors"


def write_rendering(path: Path, rendering: Rendering) -> None:
    """Write a rendering without loss, whole or not at all, with its hash in a manifest beside it."""
    facts = {
        "name": rendering.name,
        "fps": rendering.fps,
        "sample_rate": rendering.sample_rate,
        "seed": rendering.seed,
        "render_s": rendering.render_s,
    }
    # safetensors writes the memory as it lies, whatever the strides say.
    arrays = {"frames": rendering.frames, "audio": rendering.audio}
    tensors: dict[str, Any] = {part: np.ascontiguousarray(array) for part, array in arrays.items()}
    write_atomic(path, save(tensors, metadata={HEADER: json.dumps(facts)}))
    write_hashes(path.parent, [path])


def read_rendering(path: Path) -> Rendering | None:
    """A kept rendering; None if there is none, or if it is damaged, which is logged.

    Raises:
        OSError: it cannot be read.
    """
    if not path.is_file():
        return None
    for fault in faults_in(path.parent):
        if not fault.readable:
            raise OSError(str(fault))
        logger.warning("%s; it is rendered again", fault)
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            facts = json.loads(file.metadata()[HEADER])
            return Rendering(frames=file.get_tensor("frames"), audio=file.get_tensor("audio"), **facts)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        logger.warning("%s cannot be read (%s) and is rendered again", path, error)
        return None
