"""The adapter: its kind, size and targets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.lycoris_settings import LycorisSettings


class LoraSettings(Strict):
    """The adapter."""

    lora_type: Literal["standard", "lycoris"] = Field(
        "standard", description="lycoris: LoKr or LoHa, as `lycoris_config` says."
    )
    lora_rank: PositiveInt = Field(
        16, description="The rank with lora_type standard; lycoris uses linear_dim."
    )
    lora_alpha: float | None = Field(None, gt=0, description="Default: the rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Share of an adapter's inputs that is dropped.")
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead of alpha / rank.")
    use_dora: bool = Field(False, description="DoRA: learn the length of each row of a weight separately.")
    lycoris_config: LycorisSettings | None = Field(None, description="LoKr or LoHa: lora_type lycoris.")
    lora_targets: tuple[str, ...] | None = Field(
        None,
        description="Module suffixes. Default: the attentions, and audio modules where there is sound.",
    )
    init_from: str | None = Field(
        None,
        min_length=1,
        description="A LoRA to continue from: a .safetensors file, `repo_id:file` on the hub, or `models:/…` "
        "or `runs:/…` of MLflow. Default: none; an adapter begins without effect.",
    )
    trigger: str | None = Field(
        None,
        min_length=1,
        description=(
            "The trigger words, for the files' headers. Default: the instance prompts of the datasets."
        ),
    )

    @model_validator(mode="after")
    def _one_kind(self) -> LoraSettings:
        if self.lora_type == "standard":
            return self
        if self.lycoris_config is None:
            raise ValueError(
                "lora_type lycoris needs `lycoris_config`, e.g. {algo: lokr, linear_dim: 16, factor: 16}"
            )
        kinds = {"use_dora": self.use_dora, "use_rslora": self.use_rslora, "init_from": self.init_from}
        for key, value in kinds.items():
            if value:
                raise ValueError(f"{key} belongs to lora_type standard, and lora_type is lycoris; remove one")
        if self.lora_dropout:
            raise ValueError(
                "lora_dropout is of lora_type standard; for lycoris write rank_dropout or module_dropout in "
                "lycoris_config"
            )
        return self

    def fingerprint_data(self) -> dict[str, Any]:
        """Without `init_from`: it counts by the content of its file, which the request has."""
        return {key: value for key, value in super().fingerprint_data().items() if key != "init_from"}

    @property
    def alpha(self) -> float:
        """`lora_alpha`, or the rank where the recipe gives none."""
        return float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha

    @property
    def scale(self) -> float:
        """What B·A is multiplied by."""
        return self.alpha / (self.lora_rank**0.5 if self.use_rslora else self.lora_rank)

    @property
    def lycoris(self) -> LycorisSettings | None:
        """The LoKr or LoHa to train; None for a standard LoRA."""
        return self.lycoris_config if self.lora_type == "lycoris" else None

    @property
    def rank_by_size(self) -> int:
        """The rank of a standard LoRA that has about as many parameters."""
        return self.lora_rank if self.lycoris is None else self.lycoris.rank_by_size

    @property
    def shown_size(self) -> str:
        """Rank, or algorithm and dimension, for people."""
        if self.lycoris is None:
            return f"{self.lora_rank}{' (DoRA)' if self.use_dora else ''}"
        whole = "whole" if self.lycoris.full_matrix else str(self.lycoris.linear_dim)
        return f"{whole} ({self.lycoris.algo})"
