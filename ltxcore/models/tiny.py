"""A tiny LTX-2: random weights in the real classes, with the real geometry and small widths.

It behaves as the released models do, latent shapes, token counts and file layout included, and fits in
a few megabytes, so that the whole pipeline can run on any machine.
"""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ltxcore.models.errors import ModelError
from ltxcore.models.versions import LOADABLE, TINY_STAMP, VERSIONS, Version, tiny_stamp
from ltxcore.store.fingerprint import derive_seed

MAX_TOKENS = 128
REGISTERS = 16

_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
_IMAGE_TOKENS = ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
_GEMMA_LAYERS = 3
_TEXT_WIDTH = 48
_VIDEO_WIDTH, _AUDIO_WIDTH = 64, 32
_LATENTS = 16
_MEL_BINS = 16
_AUDIO_CHANNELS = 2
_LATENT_SPREAD = 0.2
_AUDIO_TOKEN = _AUDIO_CHANNELS * _MEL_BINS // 4


def write_tiny(directory: Path, version: str = "2.0", seed: int = 0) -> None:
    """Write a tiny model in the diffusers pipeline layout, whole or not at all.

    The same arguments give the same bytes. A directory that already holds this model is left as it is.

    Raises:
        ModelError: the version is not known, or the directory holds something else.
    """
    if version not in LOADABLE:
        raise ModelError(f"LTX-2 version {version!r} is not known; give one of {', '.join(LOADABLE)}")
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


def stamp_of(directory: Path) -> str | None:
    path = directory / TINY_STAMP
    return path.read_text(encoding="utf-8") if path.is_file() else None


def publish_model(building: Path, directory: Path, stamp: str) -> None:
    """Put the finished directory in its place; of two writers of the same model either may win."""
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
    from diffusers import AutoencoderKLLTX2Video, LTX2Pipeline, LTX2VideoTransformer3DModel

    def make(component: str, build: Callable[[], Any]) -> Any:
        with seeded(derive_seed(seed, "tiny", version.name, component)):
            return build().eval()

    per_modality = version.text_features == "per_modality"
    transformer = {**version.transformer, **_transformer()}
    video_vae = {**version.video_vae, **_video_vae(version)}
    return LTX2Pipeline(
        scheduler=_scheduler(),
        vae=make("vae", lambda: _with_statistics(AutoencoderKLLTX2Video(**video_vae))),
        audio_vae=make("audio_vae", lambda: _audio_vae(version)),
        text_encoder=make("text_encoder", _text_encoder),
        tokenizer=_tokenizer(),
        connectors=make("connectors", lambda: _connectors(version, per_modality)),
        transformer=make("transformer", lambda: LTX2VideoTransformer3DModel(**transformer)),
        vocoder=make("vocoder", lambda: _vocoder(version)),
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let the constructors draw from a known seed, and give the caller's own state back after."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.default_generator.set_state(state)


def _transformer() -> dict[str, Any]:
    return {
        "in_channels": _LATENTS,
        "out_channels": _LATENTS,
        "num_attention_heads": 4,
        "attention_head_dim": _VIDEO_WIDTH // 4,
        "cross_attention_dim": _VIDEO_WIDTH,
        "audio_in_channels": _AUDIO_TOKEN,
        "audio_out_channels": _AUDIO_TOKEN,
        "audio_num_attention_heads": 4,
        "audio_attention_head_dim": _AUDIO_WIDTH // 4,
        "audio_cross_attention_dim": _AUDIO_WIDTH,
        "num_layers": 2,
        "caption_channels": _TEXT_WIDTH,
    }


def _connectors(version: Version, per_modality: bool) -> torch.nn.Module:
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    # The widths that the transformer's text attention takes: the caption's in 2.0, its own in 2.3.
    video, audio = (_VIDEO_WIDTH, _AUDIO_WIDTH) if per_modality else (_TEXT_WIDTH, _TEXT_WIDTH)
    small = {
        "caption_channels": _TEXT_WIDTH,
        "text_proj_in_factor": _GEMMA_LAYERS + 1,
        "video_connector_num_attention_heads": 4,
        "video_connector_attention_head_dim": video // 4,
        "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": REGISTERS,
        "audio_connector_num_attention_heads": 4,
        "audio_connector_attention_head_dim": audio // 4,
        "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": REGISTERS,
        "video_hidden_dim": video,
        "audio_hidden_dim": audio,
    }
    return LTX2TextConnectors(**{**version.connectors, **small})


def _video_vae(version: Version) -> dict[str, Any]:
    encoder, decoder = (
        tuple(width // 32 for width in version.video_vae[name])
        for name in ("block_out_channels", "decoder_block_out_channels")
    )
    return {
        "latent_channels": _LATENTS,
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
    if version.vocoder_class == "LTX2Vocoder":
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


def _text_encoder() -> torch.nn.Module:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3TextConfig,
        SiglipVisionConfig,
    )

    image = len(_SPECIALS) + 256
    text = Gemma3TextConfig(
        vocab_size=image + len(_IMAGE_TOKENS) + 1,
        hidden_size=_TEXT_WIDTH,
        intermediate_size=2 * _TEXT_WIDTH,
        num_hidden_layers=_GEMMA_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=_TEXT_WIDTH // 4,
        query_pre_attn_scalar=_TEXT_WIDTH // 4,
        sliding_window=1024,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        max_position_embeddings=4096,
    )
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        boi_token_index=image,
        eoi_token_index=image + 1,
        image_token_index=image + 2,
        mm_tokens_per_image=4,
    )
    return Gemma3ForConditionalGeneration(config)


def _tokenizer() -> Any:
    """One token a byte, with Gemma's special tokens at Gemma's ids, BOS in front, padding on the left."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    pieces = (*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *_IMAGE_TOKENS)
    tokenizer = Tokenizer(
        BPE(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[], unk_token=_SPECIALS[3])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", pieces.index("<bos>"))]
    )
    roles = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), _SPECIALS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", model_max_length=MAX_TOKENS, **roles
    )


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
