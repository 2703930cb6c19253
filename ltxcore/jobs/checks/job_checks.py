"""The one list of what makes a job impossible, asked before anything is spent.

`ltx2 validate`, `ltx2 run`, the parent flow and every stage ask it, each for the stages that it is about. A
check needs no torch, reads configuration, headers and the machine, and says which key, why, and what to
write instead. What depends on a model that is not here yet is asked again when it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from ltxcore.config.batch_size import AUTO
from ltxcore.config.errors import ConfigError
from ltxcore.config.weight_precisions import PRECISIONS
from ltxcore.execution.execution import find_result
from ltxcore.execution.memory_plans import host_limit_bytes
from ltxcore.execution.strategies import choose
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.device import likely_device
from ltxcore.memory.plan import check_host
from ltxcore.models.errors import ModelError
from ltxcore.models.files.precisions import require_library
from ltxcore.models.files.source import check_model
from ltxcore.models.lora.header import AdapterError
from ltxcore.models.teacher import check_teacher
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import (
    FRAMES,
    JUDGE,
    LATENTS,
    PROBE,
    RENDER,
    STAGES,
    TEXT,
    TRAIN,
    MissingInput,
    Stage,
    asked_stages,
)
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.data.batch_entries import batch_entries
from ltxcore.pipeline.data.held_out import check_datasets, check_held_out, held_out_ids
from ltxcore.pipeline.data.learnable import learnable
from ltxcore.pipeline.plan.strategy_checks import (
    check_blocks,
    check_compilation,
    check_group_files,
    check_strategy,
    check_text_encoder,
)
from ltxcore.publishing.errors import HubRefused
from ltxcore.publishing.token import require_token
from ltxcore.stages.embed_frames.checks import check_crepa
from ltxcore.stages.judge_lora.challenger import check_champion
from ltxcore.stages.render_validation.checks import (
    check_adapters,
    check_decoder,
    check_names,
    check_size,
    check_stg_blocks,
    check_upscale,
)
from ltxcore.stages.render_validation.prompt_pictures import check_keyframes
from ltxcore.stages.train_lora.checks import (
    check_checkpoint,
    check_preservation,
    check_processes,
    check_regularisation,
    check_targets_of,
    check_training,
)
from ltxcore.stages.train_lora.first_lora import check_first_lora
from ltxcore.store.workspace import UnknownSnapshot
from ltxcore.training.batch_schedule import check_buckets
from ltxcore.training.batch_sizes import batch_sizes
from ltxcore.training.extras import require_optimizer

Look = Callable[[Context, Here], None]
Of = Literal["recipe", "machine"]
"""Whether the recipe is at fault wherever it runs, or this machine lacks something."""
REFUSALS: Final = (ConfigError, ModelError, StrategyUnavailable, AdapterError, HubRefused, ValueError)
MODELS: Final = tuple(stage for stage in STAGES if stage.models)


class JobRefused(ValueError):
    """A job that cannot end well; a line for each thing to mend."""

    def __init__(self, refusals: Collection[Refusal]) -> None:
        self.refusals = tuple(refusals)
        super().__init__("\n".join(refusal.render() for refusal in self.refusals))


@dataclass(frozen=True)
class Check:
    """One thing that a stage could refuse."""

    name: str
    keys: tuple[str, ...]
    """The recipe's keys that it looks at."""
    stages: tuple[Stage, ...]
    """Those that would refuse; none: what comes after the last one."""
    look: Look
    of: Of = "recipe"


@dataclass(frozen=True)
class Refusal:
    """A check that says no."""

    check: Check
    message: str

    def render(self) -> str:
        """The refusal in one line, with the stages that it concerns."""
        stages = ", ".join(stage.name for stage in self.check.stages)
        return f"{stages}: {self.message}" if stages else self.message


def _datasets(ctx: Context, here: Here) -> None:
    check_datasets(ctx.recipe.evaluation, ctx.datasets)


def _model(ctx: Context, here: Here) -> None:
    check_model(ctx.recipe.model)


def _transformer_library(ctx: Context, here: Here) -> None:
    precision = PRECISIONS.get(ctx.recipe.model.base_model_precision)
    if precision is not None:
        require_library(precision)


def _text_library(ctx: Context, here: Here) -> None:
    precision = PRECISIONS.get(ctx.recipe.model.text_encoder_1_precision)
    if precision is not None:
        require_library(precision)


def _optimizer(ctx: Context, here: Here) -> None:
    require_optimizer(ctx.recipe.training.optimizer)


def _teacher(ctx: Context, here: Here) -> None:
    if ctx.recipe.crepa.crepa_enabled:
        check_teacher(ctx.recipe.crepa, ctx.workspace.models)


def _crepa(ctx: Context, here: Here) -> None:
    check_crepa(ctx, audio_only=_sound_alone(ctx, here))


def _tread(ctx: Context, here: Here) -> None:
    check_training(ctx, audio_only=_sound_alone(ctx, here))


def _sound_alone(ctx: Context, here: Here) -> bool:
    if here.alone:
        return all(sample.kind == "audio" for sample in ctx.snapshot.samples)
    return ctx.datasets.audio_only


def _causal(ctx: Context, here: Here) -> None:
    settings = ctx.recipe.encode
    if not (settings.vae_enable_patch_conv or settings.vae_enable_temporal_roll):
        return
    try:
        causal = ctx.source.config("vae").get("encoder_causal", True)
    except ModelError:
        return
    if not causal:
        raise ModelError(
            "encode.vae_enable_patch_conv and vae_enable_temporal_roll cut clips along time, but this video "
            "VAE's encoder is not causal; leave them out, and write encode.vae_enable_tiling: true"
        )


def _token(ctx: Context, here: Here) -> None:
    if ctx.recipe.hub.push_to_hub and here.hub_token is not None:
        require_token(here.hub_token())


CHECKS: Final[tuple[Check, ...]] = (
    Check("datasets", ("evaluation.eval_datasets",), (PROBE,), _datasets),
    Check(
        "model",
        ("model.pretrained_model_name_or_path", "model.model_flavour", "model.text_encoder"),
        MODELS,
        _model,
    ),
    Check(
        "precision of the transformer",
        ("model.base_model_precision",),
        (TRAIN, RENDER),
        _transformer_library,
        "machine",
    ),
    Check("precision of Gemma", ("model.text_encoder_1_precision",), (TEXT,), _text_library, "machine"),
    Check("causal VAE", ("encode.vae_enable_patch_conv",), (LATENTS,), _causal),
    Check(
        "reading of Gemma",
        ("memory.ramtorch_text_encoder", "memory.group_offload_use_stream", "model.text_encoder_loading"),
        (TEXT,),
        check_text_encoder,
        "machine",
    ),
    Check(
        "strategy",
        ("memory.ramtorch", "memory.group_offload_use_stream", "model.base_model_precision"),
        (TRAIN, RENDER),
        check_strategy,
        "machine",
    ),
    Check(
        "blocks", ("memory.musubi_blocks_to_swap", "memory.resident_blocks"), (TRAIN, RENDER), check_blocks
    ),
    Check("group files", ("memory.group_offload_to_disk_path",), (TRAIN,), check_group_files, "machine"),
    Check("compilation", ("training.torch_compile", "memory.strategy"), (TRAIN,), check_compilation),
    Check("processes", ("processes.count",), (TRAIN,), check_processes, "machine"),
    Check("regularisation", ("processes.accelerate_config",), (TRAIN,), check_regularisation),
    Check("preservation", ("preservation.class_prompt",), (TRAIN,), check_preservation),
    Check("optimizer", ("training.optimizer",), (TRAIN,), _optimizer, "machine"),
    Check("targets", ("lora.lora_targets", "lora.lycoris_config"), (TRAIN,), check_targets_of),
    Check("LoRA to go on from", ("lora.init_from",), (TRAIN,), check_first_lora),
    Check("checkpoint", ("training.resume_from_checkpoint",), (TRAIN,), check_checkpoint),
    Check("TREAD", ("tread.routes",), (TRAIN,), _tread),
    Check("CREPA", ("crepa.crepa_enabled", "crepa.crepa_block_index"), (FRAMES, TRAIN), _crepa),
    Check("teacher", ("crepa.crepa_encoder_path",), (FRAMES,), _teacher),
    Check("size of renderings", ("validation.validation_resolution",), (RENDER,), check_size),
    Check("STG", ("validation.validation_stg_blocks",), (RENDER,), check_stg_blocks),
    Check("names of renderings", ("validation.validation_adapter_config",), (RENDER,), check_names),
    Check("decoder", ("validation.decoder", "model.diffusion_decoder"), (RENDER,), check_decoder),
    Check("pictures of prompts", ("validation.validation_keyframes",), (RENDER,), check_keyframes),
    Check("second stage", ("validation.upscale", "model.latent_upsampler"), (RENDER,), check_upscale),
    Check(
        "adapters",
        (
            "validation.validation_adapter_path",
            "validation.validation_adapter_config",
            "validation.upscale_lora",
        ),
        (RENDER,),
        check_adapters,
    ),
    Check("champion", ("promotion.model",), (JUDGE,), check_champion, "machine"),
    Check("token", ("hub.push_to_hub",), (), _token, "machine"),
)


def refusals(ctx: Context, here: Here, stages: Collection[Stage] | None = None) -> list[Refusal]:
    """What makes a job impossible, as far as it is known by now.

    Args:
        ctx: recipe, datasets and workspace.
        here: the machine.
        stages: those that will run. Default: all that the recipe asks for, and what comes after them.

    Raises:
        ConfigError: the dataset file is wrong.
    """
    return list(_said(ctx, here, stages))


def _said(ctx: Context, here: Here, stages: Collection[Stage] | None) -> Iterator[Refusal]:
    if not here.alone:
        _ = ctx.datasets
    wanted = {stage.name for stage in (_running(ctx) if stages is None else stages)}
    messages: set[str] = set()
    for check in CHECKS:
        concerned = {stage.name for stage in check.stages}
        if (concerned and not concerned & wanted) or (not concerned and stages is not None):
            continue
        try:
            check.look(ctx, here)
        except REFUSALS as error:
            # Two checks may meet the same fault, such as a package that two stages lack.
            if str(error) not in messages:
                messages.add(str(error))
                yield Refusal(check, str(error))


def check_stage(ctx: Context, stage: Stage) -> None:
    """Refuse a stage that would end badly, before it loads anything.

    Where it has no snapshot yet it is not judged: it says itself which stage makes one.

    Raises:
        JobRefused: with all faults.
        ConfigError: the dataset file is wrong, which probe-media alone reads.
    """
    if stage is not PROBE:
        try:
            _ = ctx.snapshot
        except UnknownSnapshot:
            return
    check_job(ctx, Here(alone=stage is not PROBE), (stage,))


def check_clips(ctx: Context) -> None:
    """Refuse what only turns out when the clips are known, before the long stages begin.

    Raises:
        ConfigError: all clips are held out, or none.
        BucketTooSmall, UndecidedBatchSize: a bucket fills no batch, or has no size.
        OverBudget: a stage that has work to do has no plan within the host memory that it may take. Of a
            device's memory each stage judges itself: what is free there just now says nothing yet.
    """
    check_held_out(ctx)
    _check_buckets(ctx)
    for stage in _running(ctx):
        if stage.models and not _is_done(stage, ctx):
            _check_memory(stage, ctx)


def _check_buckets(ctx: Context) -> None:
    settings = ctx.recipe.training
    if settings.train_batch_size == AUTO:
        return
    apart = held_out_ids(ctx.recipe.evaluation, ctx.snapshot.samples)
    entries = batch_entries(learnable(ctx.snapshot.samples, ctx.recipe.given), apart)
    check_buckets(entries, settings)
    batch_sizes(entries, settings.train_batch_size)


def _check_memory(stage: Stage, ctx: Context) -> None:
    if likely_device() == "cpu":
        choose(ctx, stage, "cpu")
    else:
        check_host(stage.name, host_limit_bytes(ctx, stage))


def _is_done(stage: Stage, ctx: Context) -> bool:
    try:
        return find_result(stage, ctx)[1] is not None
    except MissingInput:
        return False


def check_job(ctx: Context, here: Here, stages: Collection[Stage] | None = None) -> None:
    """Refuse a job that some stage would refuse later.

    Raises:
        JobRefused: with all faults.
        ConfigError: the dataset file is wrong.
    """
    found = refusals(ctx, here, stages)
    if found:
        raise JobRefused(found)


def _running(ctx: Context) -> list[Stage]:
    """The stages that have work for a recipe: nothing is rendered where validation is off."""
    off = ctx.recipe.validation.validation_disable
    return [stage for stage in asked_stages(ctx.recipe) if stage is not RENDER or not off]
