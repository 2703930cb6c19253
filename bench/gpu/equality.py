"""Trains some blocks of full width in each way of holding them, and compares what comes out."""

from __future__ import annotations

from typing import Any

import torch

STEPS = 3
BLOCKS = 4
BOUND = 2.0**-5
"""Of the compiled blocks: their LoRA's distance from the eager ones', as a share of the eager ones' change.

Inductor fuses operations and rounds to bf16 (2**-8) less often, so that the results differ; over three steps
AdamW makes up to eight roundings of it where a gradient is near zero.
"""


def compare_ways(small: bool, device: str) -> list[dict[str, Any]]:
    """Losses and LoRAs of streamed and of compiled blocks beside those of resident ones.

    Returns:
        A row a way with the largest difference of a loss and the LoRA's distance, as shares.

    Raises:
        RuntimeError: streamed blocks gave other bits, or compiled ones differ by more than `BOUND`.
    """
    losses, lora = _train("resident", False, small, device)
    rows = []
    for way, compiled, bound in (("block_streaming", False, 0.0), ("resident", True, BOUND)):
        found_losses, found_lora = _train(way, compiled, small, device)
        loss = max(abs(a - b) / abs(b) for a, b in zip(found_losses, losses, strict=True))
        distance = float((found_lora - lora).norm() / lora.norm())
        rows.append(
            {
                "way": "compiled" if compiled else "streamed",
                "largest loss difference": loss,
                "LoRA distance": distance,
                "bound": bound,
            }
        )
        if max(loss, distance) > bound:
            raise RuntimeError(
                f"{rows[-1]['way']} blocks: a loss differs by {loss:.3g} and the LoRA by {distance:.3g} of "
                f"what it is; {bound:.3g} is allowed"
            )
    return rows


def _train(way: Any, compiled: bool, small: bool, device: str) -> tuple[list[float], torch.Tensor]:
    from bench.gpu.model import random_transformer
    from bench.gpu.samples import RandomClips
    from ltxcore.config.training_settings import TrainingSettings
    from ltxcore.memory.arrangement import Arrangement
    from ltxcore.memory.out_of_memory import release_memory
    from ltxcore.memory.placement import Placement
    from ltxcore.training.lora import lora_parameters

    home = device if way == "resident" else "cpu"
    transformer = random_transformer(small, "no_change", device, home, blocks=BLOCKS)
    clips = RandomClips((512, 320), 17, dict(transformer.config), small)
    training = TrainingSettings(
        max_train_steps=STEPS,
        train_batch_size=1,
        mixed_precision="bf16",
        torch_compile=compiled,
        # Inductor's C++ for a CPU is nothing that users train with, and takes a minute.
        **({"dynamo_backend": "eager"} if compiled and device == "cpu" else {}),
    )
    losses: list[float] = []
    placement = Placement(transformer, Arrangement(way), device)
    clips.train(transformer, placement, training, lambda metrics: losses.append(metrics.loss))
    lora = torch.cat([p.detach().float().cpu().flatten() for p in lora_parameters(transformer).values()])
    del transformer, placement
    release_memory()
    return losses, lora
