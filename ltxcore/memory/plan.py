"""What a stage will need of memory, from file headers and configurations alone, before anything loads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from ltxcore.memory.arrangement import Arrangement
from ltxcore.memory.planned_machine import planned_machine

GIB = 1 << 30
RESIDENT = "resident"

# Measured on the 19B model (inner width 4096, bf16): the peak of a training step with gradient
# checkpointing grows by 0.8 MiB a video token, and without it by 380 KiB a token and block.
REFERENCE_WIDTH = 4096
CHECKPOINTED_BYTES_PER_TOKEN = int(0.8 * 2**20)
BLOCK_BYTES_PER_TOKEN = 380 << 10
# The interpreter with torch, diffusers and transformers imported.
PROCESS_BYTES = int(0.9 * GIB)
# AdamW in fp32: the weight, its gradient and two moments.
ADAPTER_BYTES_PER_PARAMETER = 16


class OverBudget(RuntimeError):
    """A stage that would need more memory than it may use; raised before anything is loaded."""


@dataclass(frozen=True)
class MemoryPlan:
    """The predicted need of one stage, in bytes."""

    stage: str
    weights_bytes: int
    adapter_bytes: int
    activations_bytes: int
    on_device: bool
    budget_bytes: int
    strategy: str = RESIDENT
    arrangement: Arrangement = field(default_factory=Arrangement)
    """Where the transformer's weights are, of a stage that runs it."""
    host_bytes: int = 0
    """Beside the need of the device, where there is one."""
    tiled: bool = False
    """Pictures are decoded in tiles, although the recipe does not ask for it."""
    step_s: float | None = None
    """Predicted seconds of a training step, or of a denoising step; None where no planner predicts it."""

    @property
    def model_bytes(self) -> int:
        """Bytes of weights, adapter and activations together, without what every process takes."""
        return self.weights_bytes + self.adapter_bytes + self.activations_bytes

    @property
    def total_bytes(self) -> int:
        """On a device the process itself stays in host memory, and the weights pass through it."""
        return self.model_bytes if self.on_device else self.model_bytes + PROCESS_BYTES

    @property
    def fits(self) -> bool:
        """Whether the prediction is within the budget."""
        return self.total_bytes <= self.budget_bytes

    def facts(self) -> dict[str, Any]:
        """The figures of a plan for the stamp, beside the measured peak."""
        return {
            "strategy": self.strategy,
            "predicted_bytes": self.total_bytes,
            "budget_bytes": self.budget_bytes,
            "on_device": self.on_device,
        }

    def check(self) -> None:
        """Refuse a plan that exceeds its budget.

        Raises:
            OverBudget: with both figures and what would help.
        """
        if not self.fits:
            raise self.over_budget()

    def over_budget(self) -> OverBudget:
        """The refusal of this plan."""
        kind = "vram_gib" if self.on_device else "ram_gib"
        how = "its weights resident" if self.strategy == RESIDENT else self.strategy
        return OverBudget(
            f"{self.stage} needs {self.total_bytes / GIB:.1f} GiB with {how}, and memory.{kind} allows "
            f"{self.budget_bytes / GIB:.1f}; allow more or use smaller clips"
        )


Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of the weights of a component, as `ModelSource.shapes` tells them for either layout."""


def largest_layer_bytes(shapes: Shapes, value_bytes: int) -> int:
    """Bytes of a language model's largest layer, by `layers.N.` in the names, without the vision tower."""
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        found = re.search(r"^(?!.*vision).*\blayers\.(\d+)\.", name)
        if found is not None:
            sizes[found[1]] = sizes.get(found[1], 0) + math.prod(shape) * value_bytes
    return max(sizes.values(), default=0)


def layer_count(shapes: Shapes) -> int:
    """Number of layers of a language model, by `layers.N.` in the names, without the vision tower."""
    found = (re.search(r"^(?!.*vision).*\blayers\.(\d+)\.", name) for name in shapes)
    return len({match[1] for match in found if match is not None})


def training_activations_bytes(
    *, tokens: int, width: int, blocks: int, checkpointing: bool, batch: int
) -> int:
    """Peak of a training step beside weights and adapter, scaled from the full model by its width."""
    scale = width / REFERENCE_WIDTH
    per_token = CHECKPOINTED_BYTES_PER_TOKEN if checkpointing else BLOCK_BYTES_PER_TOKEN * blocks
    return int(tokens * batch * per_token * scale)


def vae_activations_bytes(*, frames: int, width: int, height: int, channels: int, value_bytes: int) -> int:
    """Peak of a whole clip through the video VAE, beside its weights.

    The largest feature map has `channels` at a quarter of each edge (the VAE's own patch size) and every
    frame; a residual block holds its input, its output and two intermediates of that size at once.
    """
    return 4 * frames * (height // 4) * (width // 4) * channels * value_bytes


# What the diffusion decoder holds at most for a cell of its last stage, in maps of that stage's channels. The
# latents that are repeated behind the end count as frames. Counted on the released decoder, with tensors that
# have no memory: 11 for 49 frames of 768x512, 15 for 25 of 384x256.
DIFFUSION_MAPS, GHOST_FRAMES = 14, 16


def diffusion_decoder_bytes(*, frames: int, width: int, height: int, channels: int, value_bytes: int) -> int:
    """Peak of LTX-2.5's diffusion decoder beside its weights, by its last stage, on cells of 4 x 4 pixels."""
    return DIFFUSION_MAPS * (frames + GHOST_FRAMES) * (height // 4) * (width // 4) * channels * value_bytes


def teacher_activations_bytes(*, tokens: int, width: int, frames: int, value_bytes: int) -> int:
    """Peak of a batch of frames through a vision transformer, beside its weights.

    A block holds its input, the norm, query, key and value, the result, and the feed-forward's two widest
    maps of four widths each (SwiGLU: of 16/3 together); pictures and their copies are small beside them.
    """
    return frames * tokens * width * 16 * value_bytes


def text_activations_bytes(*, tokens: int, width: int, states: int, captions: int, value_bytes: int) -> int:
    """All hidden states of a batch of captions, and as much again for the stacked copy."""
    return 2 * tokens * width * states * captions * value_bytes


def adapter_bytes(shapes: Shapes, suffixes: tuple[str, ...], rank: int) -> int:
    """A LoRA on the linears whose name ends in `suffixes`, with gradients and AdamW's moments, in fp32."""
    linears = [
        shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and name.removesuffix(".weight").endswith(suffixes)
    ]
    return ADAPTER_BYTES_PER_PARAMETER * sum(rank * (rows + columns) for rows, columns in linears)


def host_budget_bytes(ram_gib: float | None, default_bytes: int) -> int:
    """The host memory that the recipe allows; without a limit the default, at most all there is."""
    if ram_gib is not None:
        return int(ram_gib * GIB)
    return min(default_bytes, machine_bytes())


def machine_bytes() -> int:
    """Host memory of this machine, or of the container that this process is in."""
    planned = planned_machine()
    if planned is not None:
        return planned.host_bytes
    total = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(allowed)) if allowed.isdigit() else total


def check_host(stage: str, budget_bytes: int) -> None:
    """Refuse a host budget that not even the empty process of a stage with models fits.

    Raises:
        OverBudget: with both figures.
    """
    if budget_bytes < PROCESS_BYTES:
        raise OverBudget(
            f"{stage} needs {PROCESS_BYTES / GIB:.1f} GiB of host memory before it loads any weights, and "
            f"memory.ram_gib allows {budget_bytes / GIB:.1f}; allow more"
        )
