"""Captions a second through Gemma and clips a second through the video VAE, at full size, random weights."""

from __future__ import annotations

import time
from typing import Any

GIB = 1 << 30
CAPTION_TOKENS = 200
CAPTIONS = 8
# The language model of Gemma 3 12B.
GEMMA = {
    "hidden_size": 3840,
    "intermediate_size": 15_360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "vocab_size": 262_208,
}
SMALL_GEMMA = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 512,
}
SMALL_VAE = {
    "latent_channels": 16,
    "block_out_channels": (8, 16, 32, 32),
    "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1),
}
CLIP, SMALL_CLIP = (49, 1280, 704), (17, 64, 64)


class _Words:
    """A tokenizer whose every caption has as many tokens as a long one."""

    bos_token_id = 2

    def __call__(self, caption: str, **more: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.bos_token_id, *([5] * (CAPTION_TOKENS - 1))]}


def measure_gemma(small: bool, way: str, device: str) -> dict[str, Any]:
    """Captions a second, with Gemma on the device or coming to it by diffusers' hooks."""
    from transformers import Gemma3TextConfig, Gemma3TextModel

    from bench.gpu.model import SMALL_CONNECTORS, random_model
    from ltxcore.memory.arrangement import GroupSettings
    from ltxcore.memory.streaming.group_offload import offload_layers
    from ltxcore.models.text.caption_encoder import CaptionEncoder, FeatureExtractor
    from ltxcore.models.versions import TEXT_MAX_TOKENS, VERSIONS

    sizes = SMALL_GEMMA if small else GEMMA
    config = Gemma3TextConfig(**sizes)
    home = device if way == "resident" else "cpu"
    model = random_model(lambda: Gemma3TextModel(config), device, home).eval().requires_grad_(False)
    if way == "group offload":
        offload_layers(model, device, GroupSettings(use_stream=device == "cuda"))
    connectors = {**VERSIONS["2.0"].connectors, **(SMALL_CONNECTORS if small else {})}
    extractor = random_model(lambda: FeatureExtractor(connectors), device, device)
    encoder = CaptionEncoder(_Words(), model, extractor, TEXT_MAX_TOKENS, device=device)
    encoder.encode(["to warm up"])
    values = sum(p.numel() for p in model.parameters())
    layers = values / config.num_hidden_layers * 2 if way == "group offload" else values
    outside = sum(p.numel() for p in extractor.parameters())
    states = 2 * CAPTION_TOKENS * config.hidden_size * (config.num_hidden_layers + 1)
    predicted = 2 * (layers + outside + states)
    seconds, peak = _timed(lambda: encoder.encode(["caption"] * CAPTIONS), device)
    return _rate("captions", way, CAPTIONS / seconds, peak, predicted)


def measure_vae(small: bool, way: Any, device: str) -> dict[str, Any]:
    """Clips a second through the encoder."""
    import numpy as np
    from diffusers import AutoencoderKLLTX2Video

    from bench.gpu.model import random_model
    from ltxcore.models.vae.video_latents import encode_videos
    from ltxcore.models.versions import VERSIONS
    from ltxcore.pipeline.plan.vae_room import VaeRoom

    config = {**VERSIONS["2.0"].video_vae, **(SMALL_VAE if small else {})}
    vae = random_model(lambda: AutoencoderKLLTX2Video(**config), device, device).eval().requires_grad_(False)
    # Its deviations are random too, and may not be near zero.
    vae.latents_std.fill_(1.0)
    size = SMALL_CLIP if small else CLIP
    clip = np.zeros((size[0], size[2], size[1], 3), dtype=np.uint8)

    def encode() -> None:
        with way.applied(vae):
            encode_videos(vae, [clip])

    encode()
    work = VaeRoom(0, config["block_out_channels"][0], 2).work_bytes(way, size)
    weights = 2 * sum(parameter.numel() for parameter in vae.parameters())
    seconds, peak = _timed(encode, device)
    return _rate("clips", way.name, 1 / seconds, peak, work + weights)


def _timed(work: Any, device: str) -> tuple[float, int]:
    """Seconds, and the peak of the device's memory, or of the process's where there is none."""
    import torch

    from ltxcore.memory.measure import measure_peaks

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - started
    peaks = measure_peaks()
    return seconds, peaks.vram_bytes or peaks.rss_bytes


def _rate(stage: str, way: str, a_second: float, peak: float, predicted: float) -> dict[str, Any]:
    return {
        "stage": stage,
        "way": way,
        "a second": a_second,
        "peak GiB": peak / GIB,
        "predicted GiB": predicted / GIB,
    }
