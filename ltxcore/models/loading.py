"""Load one component of a model from its directory: its own files only, offline, frozen, in place."""

from __future__ import annotations

from typing import Any

import torch

from ltxcore.models.errors import ModelError
from ltxcore.models.source import ModelSource

TEXT_TOWER_NAMES = {r"^(model\.)?language_model\.(model\.)?": "", r"^model\.(?=layers|embed|norm)": ""}
"""The language model's place in a file of Gemma 3, in every layout that transformers has written."""


def load_transformer(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The diffusion transformer, an `LTX2VideoTransformer3DModel`.

    Perturbed attention is on for every version: it adds no parameter, and the 2.0 configuration's
    `false` makes diffusers ignore spatio-temporal guidance silently.

    Raises:
        ModelError: the component is missing or incomplete.
    """
    from diffusers import LTX2VideoTransformer3DModel

    return _load(LTX2VideoTransformer3DModel, source, "transformer", dtype, device, perturbed_attn=True)


def load_connectors(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Feature extractor and both connectors, an `LTX2TextConnectors`.

    Raises:
        ModelError: the component is missing or incomplete.
    """
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    return _load(LTX2TextConnectors, source, "connectors", dtype, device)


def load_video_vae(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The video VAE, an `AutoencoderKLLTX2Video`.

    Raises:
        ModelError: the component is missing or incomplete.
    """
    from diffusers import AutoencoderKLLTX2Video

    return _load(AutoencoderKLLTX2Video, source, "vae", dtype, device)


def load_audio_vae(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The audio VAE, an `AutoencoderKLLTX2Audio`.

    Raises:
        ModelError: the component is missing or incomplete.
    """
    from diffusers import AutoencoderKLLTX2Audio

    return _load(AutoencoderKLLTX2Audio, source, "audio_vae", dtype, device)


def load_vocoder(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The vocoder of the model's version: 24 kHz in 2.0, 48 kHz with bandwidth extension in 2.3.

    Raises:
        ModelError: the component is missing, incomplete, or of another version.
    """
    from diffusers.pipelines import ltx2

    wanted = source.version.vocoder_class
    found = source.config("vocoder").get("_class_name", wanted)
    if found != wanted:
        raise ModelError(
            f"the vocoder in {source.component('vocoder')} is a {found}, but LTX-{source.version.name} has a "
            f"{wanted}; take the vocoder of the same version"
        )
    return _load(getattr(ltx2, wanted), source, "vocoder", dtype, device)


def load_text_encoder(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> tuple[Any, Any]:
    """Gemma's tokenizer and its language model alone (a `Gemma3TextModel`): the vision tower stays on disk.

    Raises:
        ModelError: a component is missing or incomplete, or is no Gemma 3.
    """
    return load_tokenizer(source), load_text_model(source, dtype, device)


def load_tokenizer(source: ModelSource) -> Any:
    """Gemma's tokenizer.

    Raises:
        ModelError: it is missing.
    """
    from transformers import AutoTokenizer

    source.config("tokenizer")
    return AutoTokenizer.from_pretrained(source.component("tokenizer"), local_files_only=True)


def load_text_model(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Gemma's language model alone, without its head.

    Raises:
        ModelError: it is missing or incomplete, or is no Gemma 3.
    """
    from transformers import Gemma3TextModel

    class TextTower(Gemma3TextModel):
        _keys_to_ignore_on_load_unexpected = (r"vision_tower", r"multi_modal_projector", r"lm_head")

    directory = source.component("text_encoder")
    source.weight_files("text_encoder")
    config = load_text_config(source)
    model, report = TextTower.from_pretrained(
        directory,
        config=config,
        key_mapping=TEXT_TOWER_NAMES,
        dtype=dtype,
        local_files_only=True,
        output_loading_info=True,
    )
    if report["missing_keys"] or report["mismatched_keys"]:
        faulty = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        raise ModelError(
            f"the text encoder in {directory} lacks {len(faulty)} weights, e.g. {', '.join(faulty[:3])}; "
            "download it again"
        )
    return _frozen(model, device)


def load_text_config(source: ModelSource) -> Any:
    """The configuration of Gemma's language model, a `Gemma3TextConfig`.

    Raises:
        ModelError: it is missing, or is no Gemma 3.
    """
    from transformers import Gemma3Config, Gemma3TextConfig

    directory = source.component("text_encoder")
    kind = source.config("text_encoder").get("model_type")
    if kind == "gemma3":
        return Gemma3Config.from_pretrained(directory, local_files_only=True).text_config
    if kind == "gemma3_text":
        return Gemma3TextConfig.from_pretrained(directory, local_files_only=True)
    raise ModelError(
        f"the text encoder in {directory} is a {kind}, but LTX-{source.version.name} reads Gemma 3; "
        "give the Gemma 3 12B that comes with the model"
    )


def _load(
    kind: Any,
    source: ModelSource,
    name: str,
    dtype: torch.dtype,
    device: torch.device | str,
    **overrides: Any,
) -> Any:
    source.weight_files(name)
    model, report = kind.from_pretrained(
        source.component(name),
        torch_dtype=dtype,
        local_files_only=True,
        use_safetensors=True,
        low_cpu_mem_usage=True,
        output_loading_info=True,
        **overrides,
    )
    if report["missing_keys"] or report["unexpected_keys"]:
        faulty = sorted((*report["missing_keys"], *report["unexpected_keys"]))
        raise ModelError(
            f"the {name} in {source.component(name)} does not fit its configuration: {len(faulty)} weights "
            f"are missing or not known, e.g. {', '.join(faulty[:3])}; download it again"
        )
    return _frozen(model, device)


def _frozen(model: Any, device: torch.device | str) -> Any:
    return model.to(device).eval().requires_grad_(False)
