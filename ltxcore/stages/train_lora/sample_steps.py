"""The steps after which a training is sampled, and where it puts such a step's LoRA for rendering."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ltxcore.config.recipe import Recipe

SAMPLES = "samples"
CHECKPOINT = "checkpoint-"
STEP_NAME: Final = re.compile(r"step-(\d+)")
"""Of what belongs to a step. What is damaged and set aside has another name."""


def sample_steps(recipe: Recipe) -> Iterator[int]:
    """The steps after which a training is sampled, endlessly; none if the interval is 0."""
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
    return max((int(path.name.removeprefix(CHECKPOINT)) for path in checkpoints(training)), default=0)


def checkpoints(training: Path) -> list[Path]:
    """The directories of a training's checkpoints, whole or not."""
    found = training.glob(f"{CHECKPOINT}*")
    return [path for path in found if path.name.removeprefix(CHECKPOINT).isdecimal()]


def waiting_steps(training: Path) -> list[int]:
    """The steps whose LoRA is waiting to be rendered."""
    return sorted(int(path.name.removeprefix("step-")) for path in samples_waiting(training))


def samples_waiting(training: Path) -> list[Path]:
    """The directories of those LoRAs."""
    return [path for path in (training / SAMPLES).glob("step-*") if STEP_NAME.fullmatch(path.name)]
