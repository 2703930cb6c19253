"""Captions a second through Gemma and clips a second through the video VAE, at full size, random weights.

    python -m bench.gpu.stages [--small] [--out bench/results]

`--small` runs the same code shrunk, on any machine. Peaks stand beside the predictions. The table comes last.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bench.gpu.training import machine

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


@dataclass(frozen=True)
class Rate:
    """What one way of a stage came to."""

    stage: str
    way: str
    a_second: float
    peak_gib: float
    predicted_gib: float


class _Words:
    """A tokenizer whose every caption has as many tokens as a long one."""

    bos_token_id = 2

    def __call__(self, caption: str, **more: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.bos_token_id, *([5] * (CAPTION_TOKENS - 1))]}


def measure_gemma(small: bool, way: str, device: str) -> Rate:
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
    return Rate("captions", way, CAPTIONS / seconds, peak / GIB, predicted / GIB)


def measure_vae(small: bool, way: Any, device: str) -> Rate:
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
    return Rate("clips", way.name, 1 / seconds, peak / GIB, (work + weights) / GIB)


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


def measure_all(small: bool) -> list[Rate]:
    """Every way of both stages."""
    import torch

    from ltxcore.memory.out_of_memory import release_memory
    from ltxcore.models.vae.ways import WAYS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not small:
        raise SystemExit("there is no CUDA device; give --small to run the same code shrunk")
    rates = []
    for way in ("resident", "group offload"):
        rates.append(measure_gemma(small, way, device))
        release_memory()
    for vae_way in WAYS[:5]:
        rates.append(measure_vae(small, vae_way, device))
        release_memory()
    return rates


def table(rates: list[Rate]) -> str:
    """The rates as Markdown."""
    head = "| stage | way | a second | peak GiB | predicted |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    lines += [
        f"| {rate.stage} | {rate.way} | {rate.a_second:.2f} | {rate.peak_gib:.2f} | "
        f"{rate.predicted_gib:.2f} |"
        for rate in rates
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="shrunk, on any machine")
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    rates = measure_all(given.small)
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"{date.today():%Y-%m-%d}-stages{'-small' if given.small else ''}"
    text = f"{machine()}, {date.today()}\n\n{table(rates)}\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps([asdict(rate) for rate in rates], indent=1))
    print(f"\n{text}")


if __name__ == "__main__":
    main()
