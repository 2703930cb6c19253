"""Which weights are trained on, and in which precision they are held."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ltxcore.config.base import Strict

TINY_MODEL = "tiny"
TOY_MODEL = "toy"
Flavour = Literal["dev", "dev-fp8", "dev-fp4", "2.3-dev", "2.3-distilled"]
WeightPrecision = Literal[
    "no_change",
    "int8-quanto",
    "int4-quanto",
    "int2-quanto",
    "fp8-quanto",
    "int8-torchao",
    "fp8-torchao",
    "nf4-bnb",
]


class ModelSettings(Strict):
    """Which weights."""

    model_family: Literal["ltxvideo2"] = Field("ltxvideo2", description="The only one there is.")
    pretrained_model_name_or_path: str = Field(
        TINY_MODEL,
        min_length=1,
        description="A combined .safetensors, a directory that holds it or is in the diffusers layout, "
        "a hub id, `toy`, a small LTX-2 that draws shapes, or `tiny`, one with random weights.",
    )
    model_flavour: Flavour | None = Field(
        None,
        description="Which combined checkpoint of a directory or hub repo; what is found must agree. "
        "Default: the only one that is there, the diffusers layout, or dev.",
    )
    revision: str | None = Field(None, description="A hub revision, where the model is a hub id.")
    text_encoder: str | None = Field(
        None, description="Gemma 3, as a directory or hub id, where it is not part of the model directory."
    )
    base_model_precision: WeightPrecision | Literal["auto"] = Field(
        "no_change",
        description="How the transformer's linears are held, quantised as they are read. auto: the most "
        "exact that fits memory.vram_gib and memory.ram_gib.",
    )
    text_encoder_1_precision: WeightPrecision = Field(
        "no_change", description="The same for Gemma; part of the text features' keys."
    )
    text_encoder_loading: Literal["auto", "resident", "layer_by_layer", "group_offload"] = Field(
        "auto",
        description="Gemma whole on the device, one layer at a time, or in host memory with diffusers' hooks "
        "(memory.group_offload_*); auto: whole where that fits the budget, else one layer at a time.",
    )

    @model_validator(mode="after")
    def _whole_where_quantised(self) -> ModelSettings:
        if (
            self.text_encoder_loading in ("layer_by_layer", "group_offload")
            and self.text_encoder_1_precision != "no_change"
        ):
            raise ValueError(
                f"text_encoder_1_precision {self.text_encoder_1_precision} needs Gemma whole; leave it out, "
                "or write text_encoder_loading: resident"
            )
        return self
