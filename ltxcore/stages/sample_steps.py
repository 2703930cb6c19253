"""After which steps a training is sampled, and where it leaves the LoRA of such a step to be rendered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ltxcore.config.recipe import Recipe

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
SAMPLES = "samples"


def sample_steps(recipe: Recipe) -> Iterator[int]:
    """The steps after which a training is sampled, without end; none where that is not asked for."""
    interval = recipe.validation.validation_step_interval
    step = interval
    while interval and not recipe.validation.validation_disable:
        yield step
        step += interval


def is_sample_step(recipe: Recipe, step: int, last: int) -> bool:
    """Whether a training of `last` steps is sampled after a step; after the last it is rendered anyway."""
    settings = recipe.validation
    if settings.validation_disable or not settings.validation_step_interval:
        return False
    return step < last and step % settings.validation_step_interval == 0


def step_directory(training: Path, step: int) -> Path:
    """Where a training in the directory `training` leaves the LoRA of a step."""
    return training / SAMPLES / f"step-{step:06d}"


def reached_step(training: Path) -> int:
    """The step of a training's newest checkpoint, by its name alone; 0 where there is none."""
    names = [path.name.removeprefix("checkpoint-") for path in training.glob("checkpoint-*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def waiting_steps(training: Path) -> list[int]:
    """The steps whose LoRA a training has left and nobody has rendered yet."""
    return sorted(int(path.name.removeprefix("step-")) for path in (training / SAMPLES).glob("step-*"))
