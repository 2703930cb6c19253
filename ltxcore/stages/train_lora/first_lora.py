"""The LoRA that a training goes on from: its file, what of it counts, what speaks against it. No torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ltxcore.config.published import VERSION_OF
from ltxcore.models.errors import ModelError
from ltxcore.models.files.hashes import remembered_hashes
from ltxcore.models.lora.base_version import require_version
from ltxcore.models.lora.header import AdapterError, LoraHeader, read_header
from ltxcore.models.lora.locate import check_name, find_lora
from ltxcore.models.lora.names import DORA_SCALE, A, B, without_numbers
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.here import Here
from ltxcore.pipeline.data.batch_entries import batch_entries
from ltxcore.pipeline.data.held_out import held_out_ids
from ltxcore.pipeline.data.learnable import learnable
from ltxcore.store.fingerprint import hash_file
from ltxcore.training.targets import default_targets, fits

KEY = "lora.init_from"


def first_lora(ctx: Context) -> Path | None:
    """The file that a recipe begins with; None: it begins with none.

    Raises:
        ModelError: it is not on this machine.
    """
    name = ctx.recipe.lora.init_from
    return None if name is None else find_lora(name, ctx.workspace.models)


def first_lora_request(ctx: Context) -> dict[str, Any]:
    """What of it a training depends on: the content of its file. Nothing where there is none."""
    file = first_lora(ctx)
    if file is None:
        return {}
    return {"init_from": remembered_hashes([file], ctx.workspace.models)[file]}


def open_first_lora(ctx: Context, request: Mapping[str, Any]) -> LoraHeader | None:
    """The header of the file, which is still what the training's request says.

    Raises:
        AdapterError: it is another one by now, or does not fit.
    """
    file = first_lora(ctx)
    if file is None:
        return None
    if hash_file(file) != request["init_from"]:
        raise AdapterError(f"{KEY}: {file} was changed while the training was prepared; start it again")
    return _checked(ctx, read_header(file))


def check_first_lora(ctx: Context, here: Here) -> None:
    """Refuse a LoRA that the training could not go on from, as far as its header says.

    One that is still on the hub or in MLflow is looked at when it is here.

    Raises:
        ModelError: it is neither a file nor a name on the hub or in MLflow.
        AdapterError: it is of another kind, version or width, or changes layers that are not trained.
    """
    name = ctx.recipe.lora.init_from
    if name is None:
        return
    check_name(name)
    try:
        file = find_lora(name, ctx.workspace.models)
    except ModelError:
        return
    header = _checked(ctx, read_header(file))
    _require_targets(header, _targets(ctx, here))


def _checked(ctx: Context, header: LoraHeader) -> LoraHeader:
    if header.kind in ("lokr", "loha"):
        raise AdapterError(
            f"{KEY}: {header.path} is a {header.kind}, and a training goes on from a LoRA or DoRA"
        )
    if any(DORA_SCALE in layer.parts for layer in header.layers.values()):
        raise AdapterError(
            f"{KEY}: {header.path} is a DoRA for ComfyUI, whose lengths are of another kind; give its "
            "diffusers file"
        )
    if header.kind == "dora" and not ctx.recipe.lora.use_dora:
        raise AdapterError(f"{KEY}: {header.path} is a DoRA; write lora.use_dora: true, or give a plain LoRA")
    try:
        version, shapes = ctx.source.version.name, ctx.source.shapes("transformer")
    except ModelError:
        flavour = ctx.recipe.model.model_flavour
        if flavour is not None:
            require_version(header, VERSION_OF[flavour])
        return header
    require_version(header, version)
    for layer in header.layers.values():
        found = layer.parts[B].shape[0], layer.parts[A].shape[1]
        weight = shapes.get(f"{layer.name}.weight")
        if weight != found:
            known = "no such layer" if weight is None else list(weight)
            raise AdapterError(
                f"{KEY}: {header.path} is for another model: its {layer.name} is {list(found)}, and the "
                f"model here has {known}; give a LoRA of this model"
            )
    return header


def _require_targets(header: LoraHeader, targets: Collection[str]) -> None:
    left = sorted({without_numbers(n) for n in header.layers if not any(fits(n, t) for t in targets)})
    if left:
        wanted = sorted({without_numbers(name) for name in header.layers})
        raise AdapterError(
            f"{KEY}: {header.path} changes {', '.join(left[:3])}, which this training does not train and "
            f"would drop; write lora.lora_targets: [{', '.join(wanted)}]"
        )


def _targets(ctx: Context, here: Here) -> tuple[str, ...]:
    """The suffixes that are trained; before the clips are known, all that may be."""
    if ctx.recipe.lora.lora_targets is not None:
        return ctx.recipe.lora.lora_targets
    with_audio = with_video = True
    if here.alone:
        samples, settings = ctx.snapshot.samples, ctx.recipe.evaluation
        kept = learnable(samples, ctx.recipe.given)
        entries = batch_entries(kept, held_out_ids(settings, samples))
        with_audio, with_video = (any(e.has_audio for e in entries), any(e.has_video for e in entries))
    elif ctx.datasets.audio_only:
        with_video = False
    return default_targets(with_audio, with_video, ctx.recipe.given.frozen)
