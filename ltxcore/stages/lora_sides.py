"""Which LoRAs a training leaves, and which of them are rendered: its weights, their average, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.stages.sample_steps import DIFFUSERS_FILE

T = TypeVar("T")
EMA_SUFFIX, LAST_SUFFIX = "_ema", "_last"
"""Of the files of an average beside the LoRA, and of the last weights beside an average that is the LoRA."""


@dataclass(frozen=True)
class LoraSide:
    """A LoRA that is rendered beside the base."""

    kind: Literal["lora", "ema"]
    """Part of the names of its renderings."""
    label: str
    """What people read."""
    suffix: str
    """Part of the names of its own files."""

    @property
    def file_name(self) -> str:
        """Of its file in diffusers' layout."""
        return DIFFUSERS_FILE.replace(".", f"{self.suffix}.", 1)


def shown_sides(settings: TrainingSettings) -> tuple[LoraSide, ...]:
    """What is rendered beside the base, from left to right."""
    average = LoraSide("ema", "Average", "" if settings.exports_ema else EMA_SUFFIX)
    if settings.ema_validation == "ema_only":
        return (average,)
    if settings.ema_validation == "comparison":
        return (LoraSide("lora", "Last weights", LAST_SUFFIX if settings.exports_ema else ""), average)
    return (LoraSide("lora", "LoRA", ""),)


def by_suffix(settings: TrainingSettings, weights: T, average: T | None) -> dict[str, T]:
    """What a training exports, by the suffix of its files."""
    if average is None:
        return {"": weights}
    if not settings.exports_ema:
        return {"": weights, EMA_SUFFIX: average}
    compared = {LAST_SUFFIX: weights} if settings.ema_validation == "comparison" else {}
    return {"": average, **compared}
