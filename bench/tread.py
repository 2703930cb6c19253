"""TREAD: the time of a training step with half of the video tokens passing by most blocks, against none.

    python -m bench.tread [ROUNDS]

The model is the real class with the real ratios: the sound half as wide as the pictures, feed-forwards four
times as wide, one token of text for eight of video; a LoRA of rank 16 is trained with gradient checkpointing.
It has enough tokens that arithmetic dominates. Both kinds of step alternate, and the processor time of one
thread is taken, which other programs on the machine do not lengthen. The number printed last is the share of
the step's time that is saved, in per cent, target 25.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch

from bench.machine import describe_machine, write_table
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.tread_settings import Route, TreadSettings
from ltxcore.memory.placement import Placement
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.models.versions import VERSIONS
from ltxcore.training.lora import add_lora, lora_parameters, target_modules
from ltxcore.training.tread import TokenRouting

LAYERS, FRAMES, HEIGHT, WIDTH = 8, 8, 8, 16
AUDIO_TOKENS, TEXT_TOKENS = 64, 128
SIZES = {
    "num_layers": LAYERS,
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "cross_attention_dim": 256,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 32,
    "audio_cross_attention_dim": 128,
    "caption_channels": 256,
}
ROUTES = TreadSettings(routes=(Route(selection_ratio=0.5, start_layer_idx=1, end_layer_idx=-2),))


def make_model() -> Any:
    from diffusers import LTX2VideoTransformer3DModel

    transformer = LTX2VideoTransformer3DModel(**{**VERSIONS["2.0"].transformer, **SIZES})
    transformer.requires_grad_(False)
    add_lora(transformer, LoraSettings(lora_rank=16), target_modules(transformer, with_audio=True), seed=0)
    Placement.as_it_is(transformer).enable_checkpointing()
    install_cross_modulation(transformer)
    return transformer.train()


def inputs(transformer: Any) -> dict[str, Any]:
    config = transformer.config
    sigma = torch.tensor([0.7])
    return {
        "video": torch.randn(1, config.in_channels, FRAMES, HEIGHT, WIDTH),
        "audio": torch.randn(1, AUDIO_TOKENS, config.audio_in_channels),
        "video_times": sigma,
        "audio_times": sigma,
        "video_sigma": sigma,
        "audio_sigma": sigma,
        "video_embeds": torch.randn(1, TEXT_TOKENS, config.caption_channels),
        "audio_embeds": torch.randn(1, TEXT_TOKENS, config.caption_channels),
        "fps": 25.0,
    }


def step(transformer: Any, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """Seconds of the thread in one forward and backward pass and the optimizer's step."""
    began = time.process_time()
    video, audio = predict_velocity(transformer, **batch)
    assert audio is not None
    (video.square().mean() + audio.square().mean()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.process_time() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformer = make_model()
    batch = inputs(transformer)
    optimizer = torch.optim.AdamW(lora_parameters(transformer).values(), lr=1e-4)
    plain, routed = [], []
    for number in range(rounds + 1):
        plain.append(step(transformer, optimizer, batch))
        routing = TokenRouting(transformer, ROUTES.spans(LAYERS), seed=0)
        with routing.batch(number):
            routed.append(step(transformer, optimizer, batch))
        routing.remove()
    # The first round of each warms up.
    without, with_routes = (statistics.median(times[1:]) for times in (plain, routed))
    saved = 100 * (1 - statistics.median(r / p for r, p in zip(routed[1:], plain[1:], strict=True)))
    route = ROUTES.spans(LAYERS)[0]
    tokens = FRAMES * HEIGHT * WIDTH
    rows = [
        ["every token in every block", f"{without:.2f} s"],
        [
            f"half of the tokens pass by blocks {route.start} to {route.end} of {LAYERS}",
            f"{with_routes:.2f} s",
        ],
        ["time saved", f"{saved:.0f} %"],
        ["steps in the same time", f"+{100 * (1 / (1 - saved / 100) - 1):.0f} %"],
    ]
    title = (
        f"{tokens} video tokens, {AUDIO_TOKENS} audio tokens, {TEXT_TOKENS} text tokens, widths 256 and 128, "
        f"checkpointed, one thread, medians of {rounds} rounds; {describe_machine()}"
    )
    write_table("tread", title, ["training step", "processor time"], rows)
    print(f"{saved:.0f}")


if __name__ == "__main__":
    main()
