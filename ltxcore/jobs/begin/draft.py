"""A dataset file and a recipe, written for a person's clips, goal, card and time."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ltxcore.config.arithmetic import resolve_arithmetic
from ltxcore.config.dataset_blocks import VideoSettings
from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.recipe import Recipe, load_presets
from ltxcore.config.value_types import type_bytes
from ltxcore.jobs.begin.look import Look
from ltxcore.jobs.begin.wishes import OF_MOTION, OF_SOUND, Wishes
from ltxcore.media.buckets import target_size
from ltxcore.memory.planner.cards import card_like
from ltxcore.memory.planner.training_planner import Budget, TrainingPlan
from ltxcore.models.versions import TEXT_MAX_TOKENS
from ltxcore.pages.environment import plain
from ltxcore.pipeline.plan.arrangements import forced_by
from ltxcore.pipeline.plan.transformer_plan import released_planner, workload
from ltxcore.store.blobs import write_atomic

USUAL_FRAMES: Final = 49
MOVING_FRAMES: Final = 97
"""Of a goal that is a motion: 4 s."""
FRAME_RATE: Final = float(VideoSettings.model_fields["frame_rate"].default)
TRAINING_SHARE: Final = 0.8
"""Of the time that is given; encoding and rendering have the rest."""
FEWEST_STEPS: Final = 200
ROUND_STEPS: Final = 50
MOST_PROMPTS: Final = 2
LONGEST_PROMPT: Final = 300
VERSION: Final = "2.0"
AMPLE_HOST_GIB: Final = 1024.0
"""A preset names the host memory that its card needs; here only the card's time is asked."""


class TooLittleTime(ValueError):
    """The time that is given is too short for a training that shows anything."""


@dataclass(frozen=True)
class Draft:
    """What is written, and what it rests on."""

    datasets: str
    recipe: str
    frames: int
    size: tuple[int, int] | None
    steps: int
    step_s: float

    @property
    def seconds(self) -> float:
        """From the first frame of a sample to its last; 0 of a sound."""
        return (self.frames - 1) / FRAME_RATE

    @property
    def hours(self) -> float:
        """Of the training alone."""
        return self.steps * self.step_s / 3600


def draft(wishes: Wishes, look: Look, folder: Path) -> Draft:
    """Write both files' texts.

    Args:
        folder: where they will lie; directories are relative to it where they are below it.

    Raises:
        TooLittleTime: the hours do not suffice, with how many would.
    """
    base = load_presets(wishes.goal, wishes.card)
    frames = 1 if wishes.goal == OF_SOUND else _frames(wishes.goal, look)
    size = None if wishes.goal == OF_SOUND else _size(base, look)
    plan = fastest_plan(base, wishes.card, size or (64, 64), frames, look.with_sound > 0)
    # An optimizer step is several batches, each of which the planner times.
    step_s = plan.step_s * base.training.gradient_accumulation_steps
    steps = _steps(base.training.max_train_steps, wishes, step_s)
    page = plain(__package__)
    page.filters["quoted"] = lambda text: json.dumps(text, ensure_ascii=False)
    values = {
        "wishes": wishes,
        "look": look,
        "frames": frames,
        "size": size,
        "steps": steps,
        "step_s": step_s,
        "clips_a_step": _clips_a_step(base),
        "sound": wishes.goal == OF_SOUND,
        "prompts": _prompts(look, wishes.trigger),
        "clips": _relative(wishes.clips, folder),
        "references": None if wishes.references is None else _relative(wishes.references, folder),
    }
    texts = [page.get_template(name).render(values) for name in ("datasets.yaml", "recipe.yaml")]
    return Draft(texts[0], texts[1], frames, size, steps, step_s)


def fastest_plan(recipe: Recipe, card: str, size: tuple[int, int], frames: int, audio: bool) -> TrainingPlan:
    """The fastest plan of a training step on a preset's card, by the planner.

    Args:
        size: width and height of the samples, pixels.
    """
    recipe, _ = resolve_arithmetic(recipe, "cuda")
    machine = card_like(card, recipe.memory.vram_gib or 0.0, AMPLE_HOST_GIB)
    planner = released_planner(VERSION, machine, type_bytes(recipe.training.mixed_precision))
    batch = recipe.training.train_batch_size
    work = workload(
        recipe,
        batch=batch if isinstance(batch, int) else 1,
        width=size[0],
        height=size[1],
        frames=frames,
        fps=FRAME_RATE,
        audio=audio,
        text_tokens=TEXT_MAX_TOKENS,
    )
    precision = recipe.model.base_model_precision
    forced = forced_by(recipe.memory, planner.sizes.blocks, precision, device="cuda")
    return planner.choose(work, Budget.of(machine), precision, forced)


def write(made: Draft, folder: Path) -> tuple[Path, Path]:
    """Write `datasets.yaml` and `recipe.yaml`; neither where one of them is there already.

    Raises:
        FileExistsError: a file of that name is there.
    """
    files = folder / "datasets.yaml", folder / "recipe.yaml"
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file} is there already; give another folder: --output FOLDER")
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, (made.datasets, made.recipe), strict=True):
        write_atomic(file, text.encode())
    return files


def _frames(goal: str, look: Look) -> int:
    """8n+1 frames that most of the clips have, at most as many as the goal wants."""
    own = GEOMETRY.legal_frames(math.floor(look.seconds_of_most() * FRAME_RATE))
    return min(own, MOVING_FRAMES if goal == OF_MOTION else USUAL_FRAMES)


def _size(base: Recipe, look: Look) -> tuple[int, int]:
    edge = base.data.resolution or 512.0
    return target_size(
        *look.typical_size, edge, base.data.resolution_type or "pixel_area", GEOMETRY.spatial_factor
    )


def _clips_a_step(base: Recipe) -> int:
    batch = base.training.train_batch_size
    return (batch if isinstance(batch, int) else 1) * base.batches_a_step


def _steps(most: int, wishes: Wishes, step_s: float) -> int:
    """The preset's steps, or as many as the hours allow."""
    if wishes.hours is None:
        return most
    allowed = math.floor(wishes.hours * 3600 * TRAINING_SHARE / step_s / ROUND_STEPS) * ROUND_STEPS
    if allowed < FEWEST_STEPS:
        least = math.ceil(FEWEST_STEPS * step_s / TRAINING_SHARE / 3600 * 10) / 10
        raise TooLittleTime(
            f"{wishes.hours:g} hours are {allowed} steps of {step_s:.1f} s on {wishes.card}; fewer than "
            f"{FEWEST_STEPS} are too few to learn anything: give at least {least} hours, or a faster card"
        )
    return min(most, allowed)


def _prompts(look: Look, trigger: str) -> dict[str, str]:
    """Prompts for renderings: captions of the clips, with the trigger before them as they are trained."""
    fitting = [text for text in dict.fromkeys(look.captions) if len(text) <= LONGEST_PROMPT]
    chosen = fitting[:: max(1, len(fitting) // MOST_PROMPTS)][:MOST_PROMPTS]
    return {f"clip-{number}": f"{trigger} {text}".strip() for number, text in enumerate(chosen, 1)}


def _relative(path: Path, folder: Path) -> str:
    """As a dataset file names it: relative where it lies below the file's folder."""
    whole, home = Path(os.path.abspath(path)), Path(os.path.abspath(folder))  # noqa: PTH100 - links stay
    return str(whole.relative_to(home)) if whole.is_relative_to(home) else str(whole)
