"""Which weights are trained on, and in which precision they are held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from ltxcore.config.base import Strict
from ltxcore.config.published import VERSION_OF

TINY_MODEL = "tiny"
TOY_MODEL = "toy"
if TYPE_CHECKING:
    Flavour = str
else:
    Flavour = Literal[tuple(VERSION_OF)]
Part = Literal["transformer", "connectors", "text_projection", "text_encoder", "vae", "audio_vae", "vocoder"]
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
        description="A combined .safetensors, a directory that holds it, its packs or the diffusers layout, "
        "a hub id, `toy`, a small LTX-2 that draws shapes, or `tiny`, one with random weights.",
    )
    model_flavour: Flavour | None = Field(
        None,
        description="Which combined checkpoint of a directory or hub repo; what is found must agree. "
        "Default: the only one that is there, the diffusers layout, or dev.",
    )
    parts: dict[Part, str] = Field(
        default_factory=dict,
        description="Files of single parts, each a .safetensors or `repo_id:file`: in place of those of the "
        "model, or all of them where pretrained_model_name_or_path is not given.",
    )
    latent_upsampler: str | None = Field(
        None,
        description="What doubles latents for validation.upscale: a .safetensors, `repo_id:file`, or a "
        "directory or hub id in the diffusers layout. Default: the model's own folder latent_upsampler.",
    )
    diffusion_decoder: str | None = Field(
        None,
        description="What validation.decoder: diffusion decodes with, named like latent_upsampler. Default: "
        "the model's own folder diffusion_decoder, or the pack that has it.",
    )
    revision: str | None = Field(None, description="A hub revision, where the model is a hub id.")
    text_encoder: str | None = Field(
        None,
        description="Gemma, as a directory, a hub id or ComfyUI's file of Gemma 3, where it is not part of "
        "the model directory: Gemma 3 12B for 2.0 and 2.3, for 2.5 the Gemma 4 that Lightricks tuned.",
    )
    base_model_precision: WeightPrecision | Literal["auto"] = Field(
        "no_change",
        description=(
            "Precision of the transformer's linears, which are quantised while they are read. "
            "auto: the most exact one that fits memory.vram_gib and memory.ram_gib."
        ),
    )
    text_encoder_1_precision: WeightPrecision = Field(
        "no_change", description="The same for Gemma's linears; part of the text features' keys."
    )
    text_encoder_dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="Arithmetic of Gemma and the feature extractor; part of the text features' keys. auto: "
        "bf16 on a GPU and where text_encoder_1_precision is given, fp32 on a machine without one.",
    )
    text_encoder_loading: Literal["auto", "resident", "layer_by_layer", "group_offload"] = Field(
        "auto",
        description="Gemma whole on the device, one layer at a time, or in host memory with diffusers' hooks "
        "(memory.group_offload_*); auto: whole where that fits the budget, else one layer at a time.",
    )

    @model_validator(mode="after")
    def _one_text_encoder(self) -> ModelSettings:
        if self.text_encoder is not None and "text_encoder" in self.parts:
            raise ValueError(
                f"text_encoder is {self.text_encoder} and parts names {self.parts['text_encoder']} too; "
                "leave one of them out"
            )
        return self

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
