"""Which LoRAs a training exports and which are rendered: its weights, their average, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from ltxcore.config.lora_files import EMA_SUFFIX, LAST_SUFFIX, diffusers_file
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.validation.sides import Sides

T = TypeVar("T")


@dataclass(frozen=True)
class LoraSide:
    """A LoRA that is rendered beside the base."""

    label: str
    """What people read."""
    suffix: str
    """Part of the names of its own files."""

    @property
    def file_name(self) -> str:
        """Of its file in diffusers' layout."""
        return diffusers_file(self.suffix)


def export_suffixes(settings: TrainingSettings) -> Sides[str]:
    """The suffixes of the exported files, for the weights and for their average."""
    if not settings.use_ema:
        return Sides(lora="")
    if not settings.exports_ema:
        return Sides(lora="", ema=EMA_SUFFIX)
    return Sides(lora=LAST_SUFFIX if settings.ema_validation == "comparison" else None, ema="")


def shown_sides(settings: TrainingSettings) -> Sides[LoraSide]:
    """What is rendered beside the base."""
    average = LoraSide("Average", "" if settings.exports_ema else EMA_SUFFIX)
    if settings.ema_validation == "ema_only":
        return Sides(ema=average)
    if settings.ema_validation == "comparison":
        return Sides(lora=LoraSide("Last weights", LAST_SUFFIX if settings.exports_ema else ""), ema=average)
    return Sides(lora=LoraSide("LoRA", ""))


def by_suffix(settings: TrainingSettings, trained: Sides[T]) -> dict[str, T]:
    """What a training exports, by the suffix of its files.

    Args:
        settings: of the training.
        trained: the weights, and their average where the training keeps one.
    """
    values = dict(trained.items())
    return {suffix: values[kind] for kind, suffix in export_suffixes(settings).items()}
