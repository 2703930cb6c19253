"""The two LoRAs that are compared, the clips that they are compared on, and what either was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltxcore.config.errors import ConfigError, Problem
from ltxcore.config.lora_files import COMFYUI_FILE, DIFFUSERS_FILE
from ltxcore.config.promotion_settings import PromotionSettings
from ltxcore.config.recipe import Recipe
from ltxcore.judging.champions import Champion, ChampionError, Champions, Lineage, made_by
from ltxcore.judging.frozen_clips import FrozenClip, FrozenClips, freeze
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import JUDGE, TRAIN, MissingInput
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.base.stamp import OutputFile, Stamp, find_stamp, request_fingerprint
from ltxcore.pipeline.data.held_out import held_out
from ltxcore.pipeline.data.learnable import learnable
from ltxcore.stages.train_lora.request import request as train_lora_request

RECIPE, KEY = "the recipe", "promotion.model"


@dataclass(frozen=True)
class Challenger:
    """A finished training's LoRA."""

    training: Stamp
    files: tuple[OutputFile, ...]
    """For diffusers and for ComfyUI."""
    directory: Path

    @property
    def hashes(self) -> dict[str, str]:
        """Name -> sha256."""
        return {Path(file.path).name: file.sha256 for file in self.files}


def promotion_of(recipe: Recipe) -> PromotionSettings:
    """The gate of a recipe.

    Raises:
        ConfigError: it has none.
    """
    if recipe.promotion is None:
        message = "is not there, so nothing says what to compare; write promotion: {model: my-lora}"
        raise ConfigError(RECIPE, [Problem("promotion", message)])
    return recipe.promotion


def challenger_of(ctx: Context) -> Challenger:
    """The LoRA of a context's training.

    Raises:
        MissingInput: the training is not finished.
    """
    ctx.require_snapshot(JUDGE)
    asked = train_lora_request(ctx)
    stamp = find_stamp(ctx.workspace, TRAIN, asked)
    if stamp is None:
        raise MissingInput(JUDGE, f"the LoRA of training {request_fingerprint(TRAIN, asked)[:16]}", TRAIN)
    files = tuple(f for f in stamp.outcome.files if Path(f.path).name in (DIFFUSERS_FILE, COMFYUI_FILE))
    return Challenger(stamp, files, (ctx.workspace.root / files[0].path).parent)


def opponent_of(ctx: Context, training: str, base: str) -> Champion | None:
    """Whom a training's LoRA is compared with; None: there is no champion yet.

    Args:
        training: its fingerprint.
        base: fingerprint of the transformer.

    Raises:
        ConfigError: the champion is damaged, or is of another base.
    """
    settings = promotion_of(ctx.recipe)
    try:
        found = Champions(ctx.workspace, settings.model).opponent(training)
    except ChampionError as error:
        raise ConfigError(RECIPE, [Problem(KEY, str(error))]) from error
    if found is not None and found.record.lineage.base != base:
        message = (
            f"names {settings.model}, whose version {found.record.version} is of another base model: the two "
            "cannot be put on one. Write another name, under which the LoRAs of this base are compared"
        )
        raise ConfigError(RECIPE, [Problem(KEY, message)])
    return found


def check_champion(ctx: Context, here: Here) -> None:
    """Refuse a champion with which nothing can be compared, before the long stages begin.

    Raises:
        ConfigError: see `opponent_of`.
    """
    if ctx.recipe.promotion is None:
        return
    try:
        base = ctx.source.fingerprint("transformer")
    except ModelError:
        return
    opponent_of(ctx, "", base)


def judged_clips(ctx: Context, training: str) -> list[FrozenClip]:
    """Tonight's held-out clips, each content once, as they were when they were first held out."""
    known = FrozenClips(Champions(ctx.workspace, promotion_of(ctx.recipe).model).directory)
    chosen = held_out(ctx.recipe.evaluation, ctx.snapshot)
    found: dict[str, FrozenClip] = {}
    for sample in sorted(learnable(ctx.snapshot.samples, ctx.recipe.given), key=lambda sample: sample.id):
        if sample.id in chosen and sample.media_id not in found:
            found[sample.media_id] = known.find(sample.media_id) or freeze(sample, training)
    return [found[media_id] for media_id in sorted(found)]


def lineage_of(ctx: Context, training: Stamp) -> Lineage:
    """What a training's LoRA was made of, with what the LoRA was made of that it goes on from."""
    request = training.request
    apart = {*request.get("held_out", ()), *request["quarantined"]}
    trained_on = {sample.media_id for sample in ctx.snapshot.samples if sample.id not in apart}
    begun = request.get("init_from")
    before = None if begun is None else made_by(ctx.workspace, begun)
    if before is not None:
        trained_on.update(before.trained_on)
    return Lineage(
        base=request["transformer"],
        snapshot=ctx.snapshot.id,
        trained_on=tuple(sorted(trained_on)),
        goes_on_from=begun,
        unknown_origin=begun is not None and (before is None or before.unknown_origin),
        recipe=ctx.recipe.fingerprint_data(),
    )
