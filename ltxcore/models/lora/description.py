"""A LoRA file in words and figures, from its header alone: what it changes, of what, made by what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from ltxcore.models.lora.base_version import base_version
from ltxcore.models.lora.header import LoraHeader
from ltxcore.models.lora.loaders import Loading, loadings
from ltxcore.models.lora.names import linears, without_numbers
from ltxcore.models.shapes import tabled_versions

OWN_TRAINER: Final = "ltx2-flows"
HISTORY: Final = "ltx2_history"
"""The header key that tells what was done to a file after its training."""
TRIGGERS: Final = (
    "trigger",
    "trigger_word",
    "trigger_words",
    "modelspec.trigger_phrase",
    "ss_trigger_words",
    "instance_prompt",
)


@dataclass(frozen=True)
class Description:
    """What a LoRA file is."""

    header: LoraHeader
    version: str
    versions: tuple[str, ...]
    """Those that it can be of."""
    released_size: bool
    trainer: str
    trigger: str
    loadings: tuple[Loading, Loading]
    history: tuple[Mapping[str, Any], ...]

    @property
    def alphas(self) -> tuple[float, ...]:
        """alpha as it would be written beside each layer's rank, each once."""
        layers = self.header.layers.values()
        return tuple(sorted({round(x.scale * x.rank, 6) for x in layers if x.rank is not None}))

    @property
    def layers_by_target(self) -> Mapping[str, int]:
        """Target -> how many layers of it."""
        return dict(sorted(Counter(map(without_numbers, self.header.layers)).items()))

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain data."""
        return {
            "file": str(self.header.path),
            "kind": self.header.kind,
            "names": self.header.naming,
            "version": self.version,
            "versions": list(self.versions),
            "released_size": self.released_size,
            "ranks": list(self.header.ranks),
            "alphas": list(self.alphas),
            "types": list(self.header.types),
            "layers": len(self.header.layers),
            "targets": dict(self.layers_by_target),
            "trigger": self.trigger,
            "trainer": self.trainer,
            "history": [dict(step) for step in self.history],
            "loaders": {
                found.loader: {
                    "loads_all": found.whole,
                    "refused": found.refused,
                    "unread": [{"tensor": name, "why": why} for name, why in found.unread],
                    "strength": list(found.strength),
                }
                for found in self.loadings
            },
            "metadata": dict(self.header.metadata),
        }


def describe(header: LoraHeader) -> Description:
    """Say what a file is.

    The layers that programs know are those of its version, or of every version where it may be of several.
    """
    found = base_version(header)
    named = (
        found.possible[:1] if found.possible and found.possible[0] in tabled_versions() else tabled_versions()
    )
    layers = {layer: None for version in named for layer in linears(version)}
    return Description(
        header=header,
        version=found.text,
        versions=found.possible,
        released_size=found.released_size,
        trainer=trainer_of(header.metadata),
        trigger=_trigger(header.metadata),
        loadings=loadings(header, layers),
        history=history_of(header.metadata),
    )


def history_of(metadata: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """What was done to a file, the oldest first."""
    try:
        found = json.loads(metadata.get(HISTORY, "[]"))
    except ValueError:
        return ()
    return tuple(step for step in found if isinstance(step, dict)) if isinstance(found, list) else ()


def trainer_of(metadata: Mapping[str, str]) -> str:
    """What trained a file, from what it wrote into the header; empty where that does not say."""
    if "base_fingerprint" in metadata and "snapshot_id" in metadata:
        return OWN_TRAINER
    software = metadata.get("software", "")
    if software:
        try:
            named = json.loads(software)
            return f"{named['name']} {named.get('version', '')}".strip()
        except (ValueError, KeyError, TypeError):
            return software
    everything = " ".join(metadata.values()).lower()
    for name, word in (
        ("SimpleTuner", "simpletuner"),
        ("ai-toolkit", "ai-toolkit"),
        ("musubi-tuner", "musubi"),
    ):
        if word in everything:
            return name
    if "ss_network_module" in metadata:
        return f"kohya's scripts or musubi-tuner ({metadata['ss_network_module']})"
    return "diffusers and peft" if "lora_adapter_metadata" in metadata else ""


def _trigger(metadata: Mapping[str, str]) -> str:
    return next((metadata[key] for key in TRIGGERS if metadata.get(key)), "")
