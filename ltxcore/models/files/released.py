"""A released model that is not on this machine: what the table of versions knows of it, for planning.

Its weights are never read, so it has no fingerprints: what is stored under keys cannot be looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltxcore.config.model_settings import TINY_MODEL, TOY_MODEL, ModelSettings
from ltxcore.config.published import PUBLISHED, VERSION_OF
from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import may_be_hub_id
from ltxcore.models.files.source import ModelSource
from ltxcore.models.shapes import full_shapes
from ltxcore.models.version import Version
from ltxcore.models.versions import TEXT_MAX_TOKENS, VERSIONS

STORED_BYTES = 2
"""A value of the released files, bf16."""


@dataclass(frozen=True)
class ReleasedModel(ModelSource):
    """A version at its released size."""

    @property
    def download_bytes(self) -> int:
        """The weights of all parts as they are published, about."""
        components = ("transformer", "connectors", "vae", "audio_vae", "text_encoder")
        return sum(self.resident_bytes(name, STORED_BYTES) for name in components)

    @property
    def text_max_tokens(self) -> int:
        return TEXT_MAX_TOKENS

    def config(self, name: str) -> dict[str, Any]:
        configs: Mapping[str, Mapping[str, Any]] = {
            "transformer": self.version.transformer,
            "connectors": self.version.connectors,
            "vae": self.version.video_vae,
            "audio_vae": self.version.audio_vae,
            "vocoder": self.version.vocoder,
        }
        return dict(configs.get(name, {}))

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Of the sound's parts and of Gemma only the sums are known; Gemma's are spread over its layers."""
        if name == "audio_vae":
            return {"both": (self.version.sound_values,)}
        if name == "vocoder":
            return {}
        if name == "text_encoder":
            gemma = self.version.text_encoder
            each = (gemma.values // gemma.layers,)
            return {f"layers.{number}.all": each for number in range(gemma.layers)}
        return dict(full_shapes(self.version.name).get(name, {}))

    def fingerprint(self, name: str) -> str:
        raise ModelError(f"the {name} of LTX-{self.version.name} is not on this machine")

    def encoder_fingerprint(self, name: str) -> str:
        raise ModelError(f"the {name} of LTX-{self.version.name} is not on this machine")


def released_model(version: Version, settings: ModelSettings, models_dir: Path) -> ReleasedModel:
    """A version at its released size, quantised as the recipe says."""
    return ReleasedModel(
        Path(version.published.repository),
        version,
        Path(version.text_encoder.source),
        models_dir,
        transformer_precision=settings.base_model_precision,
        text_encoder_precision=settings.text_encoder_1_precision,
    )


def version_asked(settings: ModelSettings) -> Version | None:
    """The version that a recipe names, by its flavour or by the repository; None: names do not tell."""
    if settings.model_flavour is not None:
        return VERSIONS[VERSION_OF[settings.model_flavour]]
    name = settings.pretrained_model_name_or_path
    if name in (TINY_MODEL, TOY_MODEL) or not may_be_hub_id(name):
        return None
    exact = [key for key, row in PUBLISHED.items() if row.repository == name]
    named: list[str] = exact or [key for key in PUBLISHED if f"LTX-{key}" in name]
    return VERSIONS[named[-1]] if named else None
