"""A tiny LTX-2: random weights in the real classes, with the real geometry and small widths.

It has the latent shapes, token counts and file layout of the released models and fits in a few megabytes, so
the whole pipeline can run on any machine.
"""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ltxcore.models.errors import ModelError
from ltxcore.models.tiny.stamp import TINY_STAMP, stamp_of, tiny_stamp
from ltxcore.models.tiny.text import GEMMA_LAYERS, text_encoder, tokenizer
from ltxcore.models.version import Version
from ltxcore.models.versions import VERSIONS
from ltxcore.store.fingerprint import derive_seed

REGISTERS = 16

_SHRUNK = 64
"""How many times narrower the streams are than the released ones."""
_TEXT_SHRUNK = 80
_LATENTS_SHRUNK = 8
_HEADS = 4
_MEL_BINS = 16
_AUDIO_CHANNELS = 2
_LATENT_SPREAD = 0.2
_AUDIO_TOKEN = _AUDIO_CHANNELS * _MEL_BINS // 4


@dataclass(frozen=True)
class _Widths:
    """Of a tiny model, from those of its version."""

    video: int
    audio: int
    text: int
    latents: int

    @classmethod
    def of(cls, version: Version) -> _Widths:
        full = version.transformer
        return cls(
            video=full["num_attention_heads"] * full["attention_head_dim"] // _SHRUNK,
            audio=full["audio_num_attention_heads"] * full["audio_attention_head_dim"] // _SHRUNK,
            text=full["caption_channels"] // _TEXT_SHRUNK,
            latents=full["in_channels"] // _LATENTS_SHRUNK,
        )


def write_tiny(directory: Path, version: str = "2.0", seed: int = 0) -> None:
    """Write a tiny model in the diffusers pipeline layout, whole or not at all.

    The same arguments give the same bytes. A directory that already holds this model is left as it is.

    Raises:
        ModelError: the version is not known, or the directory holds something else.
    """
    if version not in VERSIONS:
        raise ModelError(f"LTX-2 version {version!r} is not known; give one of {', '.join(VERSIONS)}")
    stamp = tiny_stamp(version, seed)
    if stamp_of(directory) == stamp:
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
    try:
        _build(VERSIONS[version], seed).save_pretrained(building, safe_serialization=True)
        (building / TINY_STAMP).write_text(stamp, encoding="utf-8")
        publish_model(building, directory, stamp)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def publish_model(building: Path, directory: Path, stamp: str) -> None:
    """Move a finished directory into place; of two writers of the same model either may win.

    Raises:
        ModelError: `directory` holds something else than a tiny model.
    """
    if directory.exists() and any(directory.iterdir()):
        found = stamp_of(directory)
        if found == stamp:
            return
        if found is None:
            raise ModelError(f"{directory} holds something else than a tiny model; give an empty directory")
        old = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
        directory.rename(old)
        shutil.rmtree(old)
    try:
        building.rename(directory)
    except OSError:
        if stamp_of(directory) != stamp:
            raise


def _build(version: Version, seed: int) -> Any:
    from diffusers import AutoencoderKLLTX2Video, LTX2Pipeline

    def make(component: str, build: Callable[[], Any]) -> Any:
        with seeded(derive_seed(seed, "tiny", version.name, component)):
            return build().eval()

    widths = _Widths.of(version)
    video_vae = {**version.video_vae, **_video_vae(version, widths)}
    return LTX2Pipeline(
        scheduler=_scheduler(),
        vae=make("vae", lambda: _with_statistics(AutoencoderKLLTX2Video(**video_vae))),
        audio_vae=make("audio_vae", lambda: _audio_vae(version)),
        text_encoder=make("text_encoder", lambda: text_encoder(version.text_encoder, widths.text)),
        tokenizer=tokenizer(adds_bos=version.text_encoder.tuned is None),
        connectors=make("connectors", lambda: _connectors(version, widths)),
        transformer=make("transformer", lambda: _transformer(version, widths)),
        vocoder=make("vocoder", lambda: _vocoder(version)),
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Make the constructors draw from a known seed, and restore the caller's generator afterwards."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.default_generator.set_state(state)


def _transformer(version: Version, widths: _Widths) -> torch.nn.Module:
    from diffusers import LTX2VideoTransformer3DModel

    small = {
        "in_channels": widths.latents,
        "out_channels": widths.latents,
        "num_attention_heads": _HEADS,
        "attention_head_dim": widths.video // _HEADS,
        "cross_attention_dim": widths.video,
        "audio_in_channels": _AUDIO_TOKEN,
        "audio_out_channels": _AUDIO_TOKEN,
        "audio_num_attention_heads": _HEADS,
        "audio_attention_head_dim": widths.audio // _HEADS,
        "audio_cross_attention_dim": widths.audio,
        "num_layers": 2,
        "caption_channels": widths.text,
    }
    model = LTX2VideoTransformer3DModel(**{**version.transformer, **small})
    if model.config.use_keyframes_abs_pos_embedding:
        # The class's zeros would hide a marker that is left out.
        model.keyframes_abs_pos_embedding.normal_()
    return model


def _connectors(version: Version, widths: _Widths) -> torch.nn.Module:
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    # The widths that the transformer's text attention takes: the caption's in 2.0, its own from 2.3 on.
    of_streams = version.per_modality
    video, audio = (widths.video, widths.audio) if of_streams else (widths.text, widths.text)
    small = {
        "caption_channels": widths.text,
        "text_proj_in_factor": GEMMA_LAYERS + 1,
        "video_connector_num_attention_heads": _HEADS,
        "video_connector_attention_head_dim": video // _HEADS,
        "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": REGISTERS,
        "audio_connector_num_attention_heads": _HEADS,
        "audio_connector_attention_head_dim": audio // _HEADS,
        "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": REGISTERS,
        "video_hidden_dim": video,
        "audio_hidden_dim": audio,
    }
    return LTX2TextConnectors(**{**version.connectors, **small})


def _video_vae(version: Version, widths: _Widths) -> dict[str, Any]:
    encoder, decoder = (
        tuple(width // 32 for width in version.video_vae[name])
        for name in ("block_out_channels", "decoder_block_out_channels")
    )
    return {
        "latent_channels": widths.latents,
        "block_out_channels": encoder,
        "decoder_block_out_channels": decoder,
        "layers_per_block": (1,) * (len(encoder) + 1),
        "decoder_layers_per_block": (1,) * (len(decoder) + 1),
    }


def _audio_vae(version: Version) -> torch.nn.Module:
    from diffusers import AutoencoderKLLTX2Audio

    # The statistics have `base_channels` entries and apply to packed tokens, so both sizes must agree.
    small = {"base_channels": _AUDIO_TOKEN, "latent_channels": _AUDIO_CHANNELS, "mel_bins": _MEL_BINS}
    return _with_statistics(AutoencoderKLLTX2Audio(**{**version.audio_vae, **small}))


def _with_statistics(vae: torch.nn.Module) -> torch.nn.Module:
    """Give the latents a mean and deviation of their own, near those that random weights produce.

    Released VAEs have such statistics; the classes' zeros and ones would hide a wrong normalisation.
    """
    mean, std = vae.get_buffer("latents_mean"), vae.get_buffer("latents_std")
    mean.copy_(torch.randn(mean.shape) * _LATENT_SPREAD / 4)
    std.copy_(_LATENT_SPREAD * (0.75 + 0.5 * torch.rand(std.shape)))
    return vae


def _vocoder(version: Version) -> torch.nn.Module:
    from diffusers.pipelines.ltx2 import LTX2Vocoder, LTX2VocoderWithBWE

    stereo_mel = 2 * _MEL_BINS
    if version.classes["vocoder"] == "LTX2Vocoder":
        small = {"in_channels": stereo_mel, "hidden_channels": 32}
        return _audible(LTX2Vocoder(**{**version.vocoder, **small}), gain=2.25)
    vocoder = LTX2VocoderWithBWE(
        **{
            **version.vocoder,
            "in_channels": stereo_mel,
            "hidden_channels": 64,
            "bwe_in_channels": stereo_mel,
            "bwe_hidden_channels": 32,
            "num_mel_channels": _MEL_BINS,
        }
    )
    _fill_transforms(vocoder)
    return _audible(vocoder, gain=1.0)


def _audible(vocoder: torch.nn.Module, gain: float) -> torch.nn.Module:
    """Make the waveform follow the spectrogram: default biases drown it in a constant."""
    for parameter in vocoder.parameters():
        if parameter.ndim == 1:
            parameter.zero_()
        elif parameter.ndim == 3:
            parameter.mul_(gain)
    return vocoder


def _fill_transforms(vocoder: Any) -> None:
    """The fixed transforms of the bandwidth extension, which the class leaves at zero for a checkpoint."""
    import torchaudio

    config = vocoder.config
    size = config.filter_length
    phase = torch.outer(torch.arange(size // 2 + 1), torch.arange(size)) * (2 * math.pi / size)
    basis = torch.cat([phase.cos(), -phase.sin()]) * torch.hann_window(config.window_length)
    vocoder.mel_stft.stft_fn.forward_basis.copy_(basis[:, None])
    mel = torchaudio.functional.melscale_fbanks(
        size // 2 + 1,
        0.0,
        config.input_sampling_rate / 2,
        config.num_mel_channels,
        config.input_sampling_rate,
        norm="slaney",
        mel_scale="slaney",
    )
    vocoder.mel_stft.mel_basis.copy_(mel.T)


def _scheduler() -> Any:
    """The reference's schedule: a fixed shift of 2.05 and a last non-zero sigma of 0.1."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=2.05,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
