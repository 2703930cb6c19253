"""The adapter: its kind, size and targets."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from ltxcore.config.base import Strict


class LoraSettings(Strict):
    """The adapter."""

    lora_rank: PositiveInt = 16
    lora_alpha: float | None = Field(None, gt=0, description="Default: the rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] | None = Field(
        None,
        description="Module suffixes. Default: the attentions, and audio modules where there is sound.",
    )

    @property
    def alpha(self) -> float:
        return float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha
