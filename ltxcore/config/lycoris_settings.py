"""`lycoris_config`: LoKr and LoHa in LyCORIS' own keys, as far as peft can train them."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Final, Literal

from pydantic import Field, PositiveInt, model_validator

from ltxcore.config.base import Strict

WIDTH: Final = 4096
"""Of LTX-2's video stream: most adapted layers are squares of it."""
NO_CONVOLUTION: Final = "the adapted layers are all linear; leave it out"
REFUSED: Final[Mapping[str, str]] = {
    "dropout": "peft's LoKr and LoHa drop rows or modules only; write rank_dropout or module_dropout",
    "use_tucker": NO_CONVOLUTION,
    "use_cp": NO_CONVOLUTION,
    "conv_dim": NO_CONVOLUTION,
    "conv_alpha": NO_CONVOLUTION,
    "use_scalar": "peft has no learned scalar; leave it out",
    "dora_wd": "peft has no weight decomposition for LoKr and LoHa; use lora_type standard with use_dora",
    "weight_decompose": "peft has no weight decomposition for LoKr and LoHa; use lora_type standard with "
    "use_dora",
    "rs_lora": "peft scales LoKr and LoHa by alpha / dim; use lora_type standard with use_rslora",
    "bypass_mode": "peft adds the change to a layer's output always; leave it out",
    "unbalanced_factorization": "peft factorises evenly; leave it out",
    "train_norm": "norms are not trained; leave it out",
}
_OTHERS: Final = ("full", "dylora", "glora", "ia3", "oft", "diag-oft", "boft", "glokr")
ALGORITHMS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("lora", "locon"), "use lora_type standard"),
    **dict.fromkeys(_OTHERS, "use lokr or loha, which peft trains and ComfyUI reads"),
}
"""Algorithms of LyCORIS that are not trained here, and what to use instead."""


class LayerChange(Strict):
    """What differs for the modules of one class."""

    linear_dim: PositiveInt | None = Field(None, description="Replaces the general value for this class.")
    linear_alpha: float | None = Field(None, gt=0, description="Replaces the general value for this class.")
    factor: int | None = Field(None, ge=-1, description="Replaces the general value for this class.")


class Preset(Strict):
    """Which modules are adapted, by their class."""

    target_module: tuple[str, ...] = Field(
        (), description="Classes of modules whose linears are adapted, e.g. LTX2Attention, FeedForward."
    )
    module_algo_map: dict[str, LayerChange] = Field(default_factory=dict)


class LycorisSettings(Strict):
    """A LoKr (Kronecker product) or a LoHa (Hadamard product)."""

    algo: Literal["lokr", "loha"] = Field(
        description="lokr: a Kronecker product; loha: a Hadamard product of two low ranks."
    )
    multiplier: float = Field(1.0, gt=0, description="Factor of the whole change.")
    linear_dim: PositiveInt = Field(4, description="The rank.")
    linear_alpha: float = Field(1.0, gt=0, description="The change is scaled by alpha / dim.")
    factor: int = Field(-1, ge=-1, description="lokr: size of the smaller factor; -1: near the square root.")
    decompose_both: bool = Field(False, description="lokr: the smaller factor gets a low rank as well.")
    full_matrix: bool = Field(False, description="lokr: both factors whole, whatever linear_dim is.")
    rank_dropout: float = Field(0.0, ge=0, lt=1, description="Share of the change's rows that is dropped.")
    module_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of steps in which a layer's change is dropped."
    )
    apply_preset: Preset | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_what_peft_can(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if (algo := data.get("algo")) in ALGORITHMS:
            raise ValueError(f"algo `{algo}` is not trained here: {ALGORITHMS[str(algo)]}")
        for key in REFUSED.keys() & data.keys():
            if data[key]:
                raise ValueError(f"`{key}` is {data[key]!r}: {REFUSED[key]}")
        return {key: value for key, value in data.items() if key not in REFUSED}

    @model_validator(mode="after")
    def _a_factor(self) -> LycorisSettings:
        changes = () if self.apply_preset is None else self.apply_preset.module_algo_map.values()
        if 0 in (self.factor, *(change.factor for change in changes)):
            raise ValueError("factor 0 divides nothing; write -1 for one near the square root, or e.g. 16")
        if self.algo == "loha" and (self.decompose_both or self.full_matrix or self.factor != -1):
            raise ValueError("factor, decompose_both and full_matrix are keys of algo lokr; remove them")
        return self

    @property
    def rank_by_size(self) -> int:
        """The rank of a standard LoRA that has about as many parameters, on layers of WIDTH²."""
        if self.algo == "loha":
            return 2 * self.linear_dim
        factor = self.factor if self.factor > 0 else ceil(WIDTH**0.5)
        whole = WIDTH / (2 * factor**2)
        return ceil(whole if self.full_matrix else min(whole, self.linear_dim / factor)) + 1
