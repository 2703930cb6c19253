"""Names of the files that a training leaves of a LoRA."""

from __future__ import annotations

from typing import Final

LORA_NAME: Final = "ltx2_lora"
DIFFUSERS_FILE: Final = "pytorch_lora_weights.safetensors"
COMFYUI_FILE: Final = f"{LORA_NAME}_comfyui.safetensors"
EMA_SUFFIX: Final = "_ema"
"""Of the files of an average beside the LoRA."""
LAST_SUFFIX: Final = "_last"
"""Of the last weights beside an average that is the LoRA."""


def diffusers_file(suffix: str = "") -> str:
    """`pytorch_lora_weights<suffix>.safetensors`."""
    stem, _, kind = DIFFUSERS_FILE.partition(".")
    return f"{stem}{suffix}.{kind}"


def comfyui_file(suffix: str = "", name: str = LORA_NAME) -> str:
    """`<name><suffix>_comfyui.safetensors`."""
    return f"{name}{suffix}_comfyui.safetensors"
