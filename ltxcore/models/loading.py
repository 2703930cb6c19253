"""Load one component of a model: its own weights only, offline, frozen, each straight to its place.

Both layouts come through here, and so does quantising: the recipe's precision is the source's.
"""

from __future__ import annotations

from typing import Any

import torch

from ltxcore.config.weight_precisions import NO_CHANGE, PRECISIONS
from ltxcore.models.assembling import build_empty, fill, require_fit, settle_buffers
from ltxcore.models.errors import ModelError
from ltxcore.models.precisions import quantised_names
from ltxcore.models.quantise import quantiser_of
from ltxcore.models.quantised_files import fill_from, keep, quantised_file
from ltxcore.models.source import ModelSource


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

    config = load_text_config(source)
    model = build_empty(lambda: Gemma3TextModel(config))
    _fill(model, source, "text_encoder", dtype, device)
    # Rotary frequencies stay in float32, as transformers keeps them.
    settle_buffers(model, device, dtype=None)
    return _frozen(model)


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
    config = source.config(name) | overrides
    model = build_empty(lambda: kind.from_config(config))
    _fill(model, source, name, dtype, device)
    settle_buffers(model, device, dtype)
    return _frozen(model)


def _fill(model: Any, source: ModelSource, name: str, dtype: torch.dtype, device: torch.device | str) -> None:
    weights = source.weights(name)
    require_fit(model, weights, name.replace("_", " "), source.component(name))
    if source.precision(name) == NO_CHANGE:
        fill(model, weights, dtype, device)
        return
    precision = PRECISIONS[source.precision(name)]
    quantiser = quantiser_of(precision)
    quantised = quantised_names(name, source.shapes(name))
    if precision.library != "quanto":
        fill(model, weights, dtype, device, quantiser, quantised)
        return
    kept = quantised_file(source.models_dir, name, source.fingerprint(name), dtype)
    if kept.is_file():
        fill_from(model, kept, weights, dtype, device, quantiser, quantised)
    else:
        fill(model, weights, dtype, device, quantiser, quantised)
        keep(model, kept)


def _frozen(model: Any) -> Any:
    return model.eval().requires_grad_(False)
