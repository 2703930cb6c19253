"""Other LoRAs with which validation renders: validation_adapter_path and validation_adapter_config."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from ltxcore.config.base import Strict

SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
OTHER_NAMES = {"name": "label", "scale": "strength"}


class AdapterFile(Strict):
    """A LoRA file, and how strongly it is applied."""

    path: str = Field(min_length=1, description="A .safetensors file, or `repo_id:weight_name` on the hub.")
    strength: float = Field(1.0, description="Factor of the LoRA's change.")

    @model_validator(mode="before")
    @classmethod
    def _seeds_forms(cls, data: Any) -> Any:
        return {"path": data} if isinstance(data, str) else _renamed(data)


class AdapterRun(Strict):
    """LoRAs that are applied together, under a short name."""

    label: str = Field(description="Names the rendering: letters, digits, - and _.")
    adapters: tuple[AdapterFile, ...] = Field(min_length=1, description="The LoRAs that are on at once.")

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, data: Any) -> Any:
        data = _renamed(data)
        if not isinstance(data, dict) or "path" not in data:
            return data
        if "adapters" in data:
            raise ValueError("gives both `path` and `adapters`; keep one of them")
        one = {key: data[key] for key in ("path", "strength") if key in data}
        return {**{key: value for key, value in data.items() if key not in one}, "adapters": [one]}

    @field_validator("label")
    @classmethod
    def _slug(cls, label: str) -> str:
        if not SLUG.fullmatch(label):
            raise ValueError(f"found {label!r}; write letters, digits, - and _, e.g. canny or dolly-in")
        return label


def _renamed(data: Any) -> Any:
    """SimpleTuner has two names for the label and for the strength."""
    if not isinstance(data, dict):
        return data
    for other, name in OTHER_NAMES.items():
        if other in data and name in data:
            raise ValueError(f"gives both `{name}` and `{other}`, which say the same; keep one of them")
    return {OTHER_NAMES.get(key, key): value for key, value in data.items()}
