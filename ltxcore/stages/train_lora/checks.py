"""Checks of a recipe that need the model or the data, before the long stages begin."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.tread_settings import SOURCE
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.here import Here
from ltxcore.training.targets import check_targets

LATEST, NONE, STATE = "latest", "none", "state.json"
REGULARISATION: Final = Problem(
    "processes.accelerate_config",
    "shards the transformer, so all processes must run it equally often, but a batch of "
    "regularisation data runs it twice; use DDP, or leave is_regularisation_data out",
)


PRESERVATION: Final = Problem(
    "processes.accelerate_config",
    "shards the transformer, so all processes must run it equally often, but a preservation "
    "batch runs it twice; use DDP, or leave preservation out",
)


def check_preservation(ctx: Context, here: Here) -> None:
    """Refuse a class without the trigger whose place it takes.

    Raises:
        ConfigError: names the key.
    """
    if ctx.recipe.preservation.class_prompt is None or ctx.recipe.lora.trigger:
        return
    if here.alone:
        triggers = {sample.trigger for sample in ctx.snapshot.samples}
    else:
        triggers = {dataset.trigger for dataset in ctx.datasets.media}
    if triggers <= {""}:
        message = (
            "takes the trigger's place in the captions, and there is no trigger; write lora.trigger, the "
            "words that call what is trained"
        )
        raise ConfigError(SOURCE, [Problem("preservation.class_prompt", message)])


def check_training(ctx: Context, *, audio_only: bool) -> None:
    """Refuse early what a training would refuse.

    Where the model is not on this machine yet, what depends on its blocks is left for later.

    Args:
        ctx: its recipe and model are looked at.
        audio_only: whether the data is sound without pictures.

    Raises:
        ConfigError: names the key.
    """
    tread = ctx.recipe.tread
    if not tread.routes:
        return
    if audio_only:
        message = (
            "says which video tokens pass by blocks, but the data is sound alone; leave tread out, or add a "
            "dataset with pictures"
        )
        raise ConfigError(SOURCE, [Problem("tread.routes", message)])
    layers = _layers(ctx)
    if layers is not None:
        tread.spans(layers)


def check_sharing(ctx: Context) -> None:
    """Refuse samples that need an additional forward pass, if the transformer is sharded.

    Raises:
        ConfigError: names the key.
    """
    if not ctx.recipe.processes.sharded:
        return
    if ctx.recipe.preservation.enabled:
        raise ConfigError(SOURCE, [PRESERVATION])
    if any(sample.regularisation for sample in ctx.snapshot.samples):
        raise ConfigError(SOURCE, [REGULARISATION])


def _layers(ctx: Context) -> int | None:
    try:
        return int(ctx.source.config("transformer")["num_layers"])
    except ModelError:
        return None


def check_regularisation(ctx: Context, here: Here) -> None:
    """Refuse regularisation data in the dataset file, if the transformer is sharded.

    Raises:
        ConfigError: names the key.
    """
    if not ctx.recipe.processes.sharded:
        return
    if ctx.recipe.preservation.enabled:
        raise ConfigError(SOURCE, [PRESERVATION])
    if here.alone:
        check_sharing(ctx)
    elif any(getattr(dataset, "is_regularisation_data", False) for dataset in ctx.datasets.media):
        raise ConfigError(SOURCE, [REGULARISATION])


def check_processes(ctx: Context, here: Here) -> None:
    """Refuse more processes than there are devices.

    Raises:
        ConfigError: names the key.
    """
    count = ctx.recipe.processes.count
    if here.device == "cuda" and here.devices is not None and count > here.devices:
        message = f"is {count}, but this machine has {here.devices} CUDA devices; give {here.devices}"
        raise ConfigError(SOURCE, [Problem("processes.count", message)])


def check_targets_of(ctx: Context, here: Here) -> None:
    """Refuse LoRA targets that the transformer does not have, where it is here.

    Raises:
        UnknownTarget: names the nearest that it has.
    """
    try:
        shapes = ctx.source.shapes("transformer")
    except ModelError:
        return
    check_targets(ctx.recipe.lora, shapes)


def check_checkpoint(ctx: Context, here: Here) -> None:
    """Refuse a checkpoint to continue from that is nowhere, or no checkpoint.

    Raises:
        ConfigError: names the key, and those that there are.
    """
    choice = ctx.recipe.training.resume_from_checkpoint
    if choice in (LATEST, NONE):
        return
    path = Path(choice).expanduser()
    trainings = ctx.workspace.stages / TRAIN.name
    if path.is_absolute() or path.parent != Path():
        places, known = [path], ""
    else:
        places = [folder / path for folder in trainings.glob("*")]
        there = sorted({p.name for p in trainings.glob("*/checkpoint-*")})
        known = f"; the trainings of this workspace have: {', '.join(there) or 'none'}"
    if not any((place / STATE).is_file() for place in places):
        message = (
            f"is {choice}, and there is no such checkpoint{known}. Write one of them, the path of another "
            f"training's, {LATEST} or {NONE}"
        )
        raise ConfigError(SOURCE, [Problem("training.resume_from_checkpoint", message)])
