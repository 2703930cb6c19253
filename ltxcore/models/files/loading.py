"""Load one component of a model: its own weights only, offline, frozen, each directly into place.

Both layouts come through here, and so does quantising: the recipe's precision is the source's.
"""

from __future__ import annotations

from typing import Any

import torch

from ltxcore.config.weight_precisions import NO_CHANGE, PRECISIONS
from ltxcore.models.errors import ModelError
from ltxcore.models.files.assembling import build_empty, fill, place, require_fit, settle_buffers
from ltxcore.models.files.diffusion_decoder import decoder_weights
from ltxcore.models.files.precisions import quantised_names
from ltxcore.models.files.quantise import quantiser_of
from ltxcore.models.files.quantised_files import fill_from, keep, quantised_file
from ltxcore.models.files.reading import Reader
from ltxcore.models.files.source import ModelSource
from ltxcore.models.files.standalone import Standalone
from ltxcore.models.files.weights import Weight, plain_weights
from ltxcore.models.vae.neighbourhood import BlockedNeighbourhood


def load_transformer(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The diffusion transformer, an `LTX2VideoTransformer3DModel`.

    Perturbed attention is on for every version: it adds no parameter, and the 2.0 configuration's
    `false` makes diffusers ignore spatio-temporal guidance silently.

    Raises:
        ModelError: the component is missing, incomplete, or of another class than its version's.
    """
    return _load(source, "transformer", dtype, device, perturbed_attn=True)


def load_connectors(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Feature extractor and both connectors, an `LTX2TextConnectors`.

    Raises:
        ModelError: as `load_transformer`.
    """
    return _load(source, "connectors", dtype, device)


def load_video_vae(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The video VAE, an `AutoencoderKLLTX2Video`.

    Raises:
        ModelError: as `load_transformer`.
    """
    return _load(source, "vae", dtype, device)


def load_audio_vae(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The audio VAE, an `AutoencoderKLLTX2Audio`.

    Raises:
        ModelError: as `load_transformer`.
    """
    return _load(source, "audio_vae", dtype, device)


def load_vocoder(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The vocoder of the model's version: 24 kHz in 2.0, 48 kHz with bandwidth extension from 2.3 on.

    Raises:
        ModelError: as `load_transformer`.
    """
    return _load(source, "vocoder", dtype, device)


def load_latent_upsampler(found: Standalone, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The latent upsampler, an `LTX2LatentUpsamplerModel`; of diffusers' or of the reference's, which has the
    same names.

    Raises:
        ModelError: the weights do not fit the configuration.
    """
    from diffusers.pipelines.ltx2 import LTX2LatentUpsamplerModel

    model = build_empty(lambda: LTX2LatentUpsamplerModel.from_config(dict(found.config)))
    weights = plain_weights(found.tensors)
    require_fit(model, weights, found.kind.name, found.path)
    fill(model, weights, dtype, device)
    settle_buffers(model, device, dtype)
    return _frozen(model)


def load_diffusion_decoder(found: Standalone, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The diffusion decoder, an `LTX2VideoDiffusionDecoderModel` with attention that runs on every device.

    Raises:
        ModelError: the weights do not fit the configuration.
    """
    from diffusers import LTX2VideoDiffusionDecoderModel

    model = build_empty(lambda: LTX2VideoDiffusionDecoderModel.from_config(dict(found.config)))
    weights = decoder_weights(found)
    require_fit(
        model, {n: Weight(w.shape, w.stored) for n, w in weights.items()}, found.kind.name, found.path
    )
    with Reader(device) as reader:
        for name, weight in sorted(weights.items(), key=lambda item: item[1].stored.start):
            tensor = reader.read(Weight(weight.stored.shape, weight.stored), torch.float32)
            if weight.third is not None:
                tensor = tensor.chunk(3)[weight.third].clone()
            if weight.gate is not None:
                gate = reader.read(Weight(weight.gate.shape, weight.gate), torch.float32)
                tensor = tensor * gate.view(-1, *[1] * (tensor.ndim - 1))
            place(model, name, tensor.to(dtype))
    settle_buffers(model, device, dtype)
    model.set_attn_processor(BlockedNeighbourhood())
    return _frozen(model)


def load_text_encoder(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> tuple[Any, Any]:
    """Gemma's tokenizer and its language model alone: the vision tower stays on disk.

    Raises:
        ModelError: a component is missing or incomplete, or is not the Gemma of the model's version.
    """
    return load_tokenizer(source), load_text_model(source, dtype, device)


def load_tokenizer(source: ModelSource) -> Any:
    """Gemma's tokenizer.

    Raises:
        ModelError: it is missing.
    """
    from transformers import AutoTokenizer

    source.config("tokenizer")
    return AutoTokenizer.from_pretrained(source.tokenizer_directory(), local_files_only=True)


def load_text_model(source: ModelSource, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Gemma's language model alone, without its head, of the class that the model's version names.

    Raises:
        ModelError: it is missing or incomplete, or is not the Gemma of the model's version.
    """
    config = load_text_config(source)
    model = build_empty(lambda: text_class(source)(config))
    _fill(model, source, "text_encoder", dtype, device)
    # Rotary frequencies stay in float32, as transformers keeps them.
    settle_buffers(model, device, dtype=None)
    return _frozen(model)


def text_class(source: ModelSource) -> Any:
    """The class of Gemma's language model alone."""
    import transformers

    return getattr(transformers, source.version.text_encoder.model_class)


def load_text_config(source: ModelSource) -> Any:
    """The configuration of Gemma's language model.

    Raises:
        ModelError: it is missing, or not that of the Gemma of the model's version.
    """
    from transformers import CONFIG_MAPPING

    source.check_text_encoder()
    stored = source.config("text_encoder")
    return CONFIG_MAPPING[stored["model_type"]].from_dict(stored).get_text_config()


def _load(
    source: ModelSource, name: str, dtype: torch.dtype, device: torch.device | str, **overrides: Any
) -> Any:
    config = source.config(name) | overrides
    kind = _class(source, name, config.get("_class_name"))
    model = build_empty(lambda: kind.from_config(config))
    _fill(model, source, name, dtype, device)
    settle_buffers(model, device, dtype)
    return _frozen(model)


def _class(source: ModelSource, name: str, found: str | None) -> Any:
    """The class of a component in the model's version, which the configuration must not contradict."""
    import diffusers
    from diffusers.pipelines import ltx2

    wanted = source.version.classes[name]
    if found not in (None, wanted):
        raise ModelError(
            f"the {name} in {source.component(name)} is a {found}, but LTX-{source.version.name} has a "
            f"{wanted}; take the {name} of the same version"
        )
    return getattr(ltx2, wanted, None) or getattr(diffusers, wanted)


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
