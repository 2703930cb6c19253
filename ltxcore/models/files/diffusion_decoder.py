"""The diffusion decoder of LTX-2.5: a second decoder for the latents of the video VAE, in either layout.

Lightricks' file has the reference's names, one weight for query, key and value together, and gates that are
constants: a gate g behind a linear is the linear with g * W and g * b (rules of converters to diffusers).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.errors import ModelError
from ltxcore.models.files.packs import DIFFUSION_DECODER, Pack, read_pack
from ltxcore.models.files.source import ModelSource
from ltxcore.models.files.standalone import CONFIG, Kind, Standalone, find_standalone, open_folder
from ltxcore.models.files.tensor_file import StoredTensor
from ltxcore.models.version import Version
from ltxcore.models.versions import VERSIONS

DECODER: Final = Kind("diffusion decoder", "model.diffusion_decoder", "diffusion_decoder")
CLASS: Final = "LTX2VideoDiffusionDecoderModel"
_PREFIX: Final = "vae.decoder."
_STATISTICS: Final = {
    "vae.per_channel_statistics.mean-of-means": "latents_mean",
    "vae.per_channel_statistics.std-of-means": "latents_std",
}
_RENAMED: Final = (
    (".attn.proj.", ".attn.to_out.0."),
    (".attn.q_norm.", ".attn.norm_q."),
    (".attn.k_norm.", ".attn.norm_k."),
    ("t_embedder.mlp.0.", "t_embedder.timestep_embedder.linear_1."),
    ("t_embedder.mlp.2.", "t_embedder.timestep_embedder.linear_2."),
)
_GATED: Final = {
    ".attn.to_out.0.weight": ".gate_msa",
    ".attn.to_out.0.bias": ".gate_msa",
    ".mlp.w_down.weight": ".gate_mlp",
    ".context_proj.weight": ".gate_ctx",
    ".context_proj.bias": ".gate_ctx",
}
"""End of a linear's name -> of its gate's."""
_UNUSED: Final = re.compile(r"^type_emb$|(^|\.)coarse_|\.gate_(msa|mlp|ctx)$")
"""Heads of previews and other remains of its training; gates are taken up by their linears."""
_QKV: Final = re.compile(r"^(.*)\.qkv\.(weight|bias)$")
_PLACES: Final = ("", "vae")
"""Folders of a directory of packs in which it may lie."""


@dataclass(frozen=True)
class DecoderWeight:
    """A weight under diffusers' name, and what it is read from."""

    stored: StoredTensor
    third: int | None = None
    """Which third of its rows; None: all of it."""
    gate: StoredTensor | None = None
    """Multiplies its rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Once read."""
        rows, *rest = self.stored.shape
        return (rows if self.third is None else rows // 3, *rest)


def decoder_of(settings: ModelSettings, source: ModelSource) -> Standalone:
    """The diffusion decoder of a recipe's model, from its header.

    Raises:
        ModelError: the version has none, it is not here, or it is another thing; says what to write.
    """
    if source.version.diffusion_decoder is None:
        raise no_decoder(source.version)
    if settings.diffusion_decoder is not None:
        found = open_decoder(find_standalone(DECODER, settings.diffusion_decoder, fetch=False))
    elif (path := _own(source.root)) is not None:
        found = open_decoder(path)
    else:
        raise missing_decoder(source.version, str(source.root))
    channels, wanted = found.config["latent_channels"], source.config("vae")["latent_channels"]
    if channels != wanted:
        raise ModelError(
            f"{found.path} decodes latents of {channels} channels, and those of {source.root} have {wanted}; "
            "give the decoder of this model"
        )
    return found


def missing_decoder(version: Version, model: str) -> ModelError:
    """The refusal of a model without it, which says what to write."""
    file = f"{version.published.repository}:{version.published.diffusion_decoder}"
    return ModelError(
        f"validation.decoder: diffusion needs the diffusion decoder, and {model} has none; write "
        f"model.diffusion_decoder: {file}, or the file, or decoder: conv"
    )


def no_decoder(version: Version) -> ModelError:
    """The refusal of a version that has no such decoder; names those that have."""
    having = " or ".join(name for name, row in VERSIONS.items() if row.diffusion_decoder is not None)
    return ModelError(
        f"validation.decoder: diffusion is for LTX-{having}, and the model is an LTX-{version.name}, "
        "which has the convolutional decoder alone; write decoder: conv"
    )


def open_decoder(path: Path) -> Standalone:
    """A diffusion decoder in either layout.

    Args:
        path: a folder of diffusers', or a video VAE's file as Lightricks publishes it.

    Raises:
        ModelError: it is incomplete, or something else.
    """
    if path.is_dir():
        return open_folder(DECODER, path, CLASS)
    pack = read_pack(path)
    if DIFFUSION_DECODER not in pack.holds:
        holds = ", ".join(sorted(pack.holds)) or "no part of LTX-2"
        raise ModelError(
            f"{path} has no diffusion decoder: it holds {holds}; "
            "give the video VAE whose decoder is a diffusion model (…-video-vae-bf16, without conv)"
        )
    kept = {n: t for n, t in pack.tensors.items() if n.startswith(_PREFIX) or n in _STATISTICS}
    return Standalone(DECODER, path, _config(pack), kept)


def decoder_weights(found: Standalone) -> dict[str, DecoderWeight]:
    """Its weights under diffusers' names, in either layout."""
    if not any(name.startswith(_PREFIX) for name in found.tensors):
        return {name: DecoderWeight(tensor) for name, tensor in found.tensors.items()}
    own = {n.removeprefix(_PREFIX): t for n, t in found.tensors.items() if n.startswith(_PREFIX)}
    weights = {new: DecoderWeight(found.tensors[old]) for old, new in _STATISTICS.items()}
    for stored, tensor in own.items():
        if _UNUSED.search(stored):
            continue
        name = stored
        for old, new in _RENAMED:
            name = name.replace(old, new)
        if (fused := _QKV.match(name)) is not None:
            for third, part in enumerate(("to_q", "to_k", "to_v")):
                weights[f"decoder.{fused[1]}.{part}.{fused[2]}"] = DecoderWeight(tensor, third)
            continue
        end = next((end for end in _GATED if name.endswith(end)), None)
        gate = None if end is None else own.get(name.removesuffix(end) + _GATED[end])
        weights[f"decoder.{name}"] = DecoderWeight(tensor, gate=gate)
    return weights


def smallest_rendering(config: Mapping[str, Any]) -> tuple[int, int]:
    """The least frames and the least edge in pixels that a decoder takes: no window may be larger than the
    grid that it moves on.

    Args:
        config: of the decoder, in diffusers' names.
    """
    ratio = config["spatial_compression_ratio"]
    frames = next(n for n in range(1, 1 << 10) if _fits_time(config, n))
    edge = next(n for n in range(1, 1 << 10) if all(_fits_edge(config, n, axis) for axis in (1, 2)))
    return (frames - 1) * config["temporal_compression_ratio"] + 1, edge * ratio


def _fits_time(config: Mapping[str, Any], latents: int) -> bool:
    kernels, strides = config["decoder_stage_kernels"], config["decoder_upsample_strides"]
    # The last latent is repeated behind the end through the first four stages.
    cells = latents + kernels[0][0] // 2 * 2
    for kernel, stride in zip(kernels, strides, strict=True):
        if cells < kernel[0]:
            return False
        cells = cells * stride[0] - (stride[0] == 2)
    frames = (latents - 1) * config["temporal_compression_ratio"] + 1
    return bool(frames >= config["decoder_stage5_kernel"][0])


def _fits_edge(config: Mapping[str, Any], latents: int, axis: int) -> bool:
    cells = latents
    for kernel, stride in zip(
        config["decoder_stage_kernels"], config["decoder_upsample_strides"], strict=True
    ):
        if cells < kernel[axis]:
            return False
        cells *= stride[axis]
    return bool(cells >= config["decoder_stage5_kernel"][axis])


def _own(root: Path) -> Path | None:
    """The one that a model has itself: a folder of diffusers', or a pack."""
    if (root / DECODER.folder / CONFIG).is_file():
        return root / DECODER.folder
    if not root.is_dir():
        return None
    files = (path for place in _PLACES for path in sorted((root / place).glob("*.safetensors")))
    return next((path for path in files if DIFFUSION_DECODER in read_pack(path).holds), None)


def _config(pack: Pack) -> dict[str, Any]:
    """In diffusers' names, from the `vae` of the file's metadata."""
    vae = pack.config.get("vae") or {}
    stored = vae.get("decoder") or {}
    try:
        upsamples = [(tuple(stride), int(reduction)) for stride, reduction in stored["upsamples"]]
        kernels = [tuple(kernel) for kernel in stored["stage_kernels"]]
        patch = int(stored.get("patch_size", 4))
        return {
            "out_channels": int(stored.get("out_channels", 3)),
            "latent_channels": int(stored.get("in_channels", 128)),
            "patch_size": patch,
            "decoder_head_dim": int(stored.get("head_dim", 64)),
            "decoder_stage_channels": tuple(stored["stage_channels"]),
            "decoder_stage_depths": tuple(stored["stage_depths"]),
            "decoder_stage_kernels": tuple(kernels[:4]),
            "decoder_upsample_strides": tuple(stride for stride, _ in upsamples),
            "decoder_upsample_channel_reductions": tuple(reduction for _, reduction in upsamples),
            "decoder_stage5_kernel": tuple(stored.get("stage5_kernel", kernels[-1])),
            "decoder_t_emb_dim": int(stored.get("t_emb_dim", 384)),
            "decoder_timestep_scale_multiplier": float(stored.get("timestep_scale_multiplier", 1.0)),
            "decoder_model_output_type": str(
                stored.get("model_output_type", vae.get("model_output_type", "v"))
            ),
            "decoder_num_inference_steps": int(stored.get("default_num_inference_steps", 2)),
            "spatial_compression_ratio": patch * math.prod(stride[1] for stride, _ in upsamples),
            "temporal_compression_ratio": math.prod(stride[0] for stride, _ in upsamples),
        }
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(
            f"the config in the metadata of {pack.path} does not describe the diffusion decoder ({error!r}); "
            "download the file again"
        ) from error
