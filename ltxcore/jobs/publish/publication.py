"""Publishes a finished run: LoRA files, samples of the recipe's prompts, and a model card."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltxcore.config.crepa_settings import PROJECTOR_FILE
from ltxcore.config.hub_settings import HubSettings
from ltxcore.config.lora_files import (
    COMFYUI_FILE,
    DIFFUSERS_FILE,
    EMA_SUFFIX,
    LAST_SUFFIX,
    comfyui_file,
    diffusers_file,
)
from ltxcore.config.model_settings import TINY_MODEL, TOY_MODEL
from ltxcore.config.published import LICENCE, LICENCE_LINK
from ltxcore.models.errors import ModelError
from ltxcore.models.files.locate_weights import may_be_hub_id
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER, TRAIN
from ltxcore.pipeline.base.outputs import REMEDY, faults_of
from ltxcore.pipeline.base.stamp import Stamp, read_manifest, read_stamp
from ltxcore.publishing.card import CardFacts, CardSample, model_card
from ltxcore.publishing.errors import HubRefused
from ltxcore.publishing.hub import Hub, Pushed
from ltxcore.publishing.public_file import write_public
from ltxcore.stages.render_validation.session import CONTACT_SHEET
from ltxcore.stages.train_lora.lora_sides import shown_sides
from ltxcore.stages.train_lora.request import trigger
from ltxcore.stages.train_lora.tracker import tracker as train_lora_tracker
from ltxcore.store.blobs import TEMPORARY, read_model, write_json

logger = logging.getLogger(__name__)

SAMPLES: Final = "samples"
RECORD: Final = "hub.json"
_LORAS: Final = tuple(
    named(suffix) for named in (diffusers_file, comfyui_file) for suffix in ("", EMA_SUFFIX)
)
OURS: Final = re.compile(rf"{SAMPLES}/.*|{'|'.join(map(re.escape, _LORAS))}")


@dataclass(frozen=True)
class Publication:
    """The files and facts of a finished run that are published."""

    loras: tuple[Path, ...]
    samples: dict[str, Path]
    """Path in the repository -> file."""
    facts: CardFacts
    message: str
    """Of the commit."""
    training: Path
    """The training's directory, where its MLflow run is noted."""


def publish(
    ctx: Context, run: Path, settings: HubSettings, token: str, endpoint: str | None = None
) -> Pushed:
    """Upload the results of a finished run that the hub lacks, and record their address in the run and in
    MLflow.

    Args:
        ctx: of the run, with its snapshot.
        run: the run's folder.
        settings: where to.
        token: of the hub.
        endpoint: Default: HF_ENDPOINT, or the public hub.

    Raises:
        HubRefused: the run has no LoRA, or the hub will not take it from this token.
        HubUnreachable: the hub does not answer, or has a fault.
    """
    found, hub = publication(ctx, run), Hub(settings, token, endpoint)
    with tempfile.TemporaryDirectory(dir=run, prefix=".hub-", suffix=TEMPORARY) as folder:
        loras = {path.name: write_public(path, Path(folder) / path.name) for path in found.loras}
        card = model_card(found.facts, hub.repo)
        pushed = hub.push(
            {**loras, **found.samples}, card, found.message, lambda name: OURS.fullmatch(name) is not None
        )
    write_json(run / RECORD, pushed.model_dump(mode="json"))
    tracker = train_lora_tracker(ctx, found.training)
    tracker.set_tags({"hub.repo": pushed.repo, "hub.commit": pushed.commit, "hub.url": pushed.url})
    return pushed


def read_published(run: Path) -> Pushed | None:
    """Where a run's LoRA is on the hub; None if it is not there."""
    file = run / RECORD
    return read_model(file, Pushed) if file.exists() else None


def lora_directory(ctx: Context, run: Path) -> Path:
    """The directory of a run's LoRA.

    Raises:
        HubRefused: it has none.
    """
    return _loras(ctx, _training(ctx, run))[0].parent


def publication(ctx: Context, run: Path) -> Publication:
    """Collect what is published of a run.

    Raises:
        HubRefused: its training is not finished, or a file of it is gone or not what was written.
        OSError: a file cannot be read.
    """
    training = _training(ctx, run)
    loras, shown = _loras(ctx, training), _samples(ctx, run)
    samples = {place: file for sample, files in shown for place, file in files.items()}
    sheet = None
    if shown:
        sheet = f"{SAMPLES}/{CONTACT_SHEET}"
        samples[sheet] = next(iter(shown[0][1].values())).parent / CONTACT_SHEET
    _require_whole(ctx, training, loras)
    if (rendering := read_manifest(run, RENDER)) is not None:
        _require_whole(ctx, read_stamp(ctx.workspace, rendering), samples.values())
    return Publication(
        loras=loras,
        samples=samples,
        facts=_facts(ctx, training, tuple(sample for sample, _ in shown), sheet),
        message=f"Run {run.name}: snapshot {ctx.snapshot.id}, step {_step(training)}",
        training=ctx.workspace.root / training.outcome.facts["directory"],
    )


def _training(ctx: Context, run: Path) -> Stamp:
    entry = read_manifest(run, TRAIN)
    if entry is None:
        raise HubRefused(f"the run {run.name} has no finished training; start it again with `ltx2 run`")
    return read_stamp(ctx.workspace, entry)


def _loras(ctx: Context, training: Stamp) -> tuple[Path, ...]:
    """The LoRA's files, without others beside them: CREPA's projector, weights for comparison."""
    files = [ctx.workspace.root / file.path for file in training.outcome.files]
    found = tuple(
        f
        for f in files
        if f.suffix == ".safetensors" and f.name != PROJECTOR_FILE and LAST_SUFFIX not in f.stem
    )
    missing = [str(file) for file in found if not file.is_file()]
    if missing or not found:
        raise HubRefused(
            f"the LoRA files of training {training.fingerprint[:16]} are gone"
            f"{': ' if missing else ''}{', '.join(missing)}; `ltx2 run` makes them again"
        )
    return found


def _require_whole(ctx: Context, stamp: Stamp, files: Iterable[Path]) -> None:
    """Compare files with the hashes in their stage's stamp before they are uploaded."""
    known = {ctx.workspace.root / file.path: file for file in stamp.outcome.files}
    faults = faults_of(ctx.workspace, [known[file] for file in files])
    if unreadable := [fault for fault in faults if not fault.readable]:
        raise OSError("\n".join(map(str, unreadable)))
    if faults:
        listed = "\n".join(map(str, faults))
        raise HubRefused(f"nothing is uploaded:\n{listed}\n{REMEDY}; `ltx2 push` then uploads it")


def _step(training: Stamp) -> int:
    return int(training.outcome.facts.get("exported_step", training.outcome.counts["steps"]))


def _samples(ctx: Context, run: Path) -> list[tuple[CardSample, dict[str, Path]]]:
    """The renderings of prompts that the recipe names, each with its files by their path in the repository.

    Other prompts are captions of the user's clips, and named like their files: these stay here.
    """
    entry, settings = read_manifest(run, RENDER), ctx.recipe.validation
    if entry is None or settings.validation_disable:
        return []
    if settings.validation_using_datasets or not settings.validation_prompts:
        logger.info(
            "No samples are uploaded: they are of the dataset's own captions. Prompts that may be seen are "
            "those of validation.validation_prompts"
        )
        return []
    folder = (ctx.workspace.root / entry.stamp).parent
    sides = shown_sides(ctx.recipe.training)
    # Of the file without a suffix, which is the one that the card names; else of the average beside it.
    kind = next((kind for kind, side in sides.items() if not side.suffix), "ema")
    found = []
    for name, prompt in read_stamp(ctx.workspace, entry).outcome.facts["prompts"].items():
        places = {side: f"{name}-{side}.mp4" for side in (kind, "base")}
        sample = CardSample(
            name, prompt, lora=f"{SAMPLES}/{places[kind]}", base=f"{SAMPLES}/{places['base']}"
        )
        found.append((sample, {f"{SAMPLES}/{file}": folder / file for file in places.values()}))
    return found


def _facts(
    ctx: Context, training: Stamp, samples: tuple[CardSample, ...], contact_sheet: str | None
) -> CardFacts:
    recipe, frozen = ctx.recipe, ctx.recipe.given.frozen
    facts: dict[str, Any] = training.outcome.facts
    pictures = any(sample.kind != "audio" for sample in ctx.snapshot.samples)
    return CardFacts(
        base_model=_base_model(ctx),
        licence=_licence(ctx),
        kind="lora" if recipe.lora.lycoris is None else recipe.lora.lycoris.algo,
        size=recipe.lora.shown_size,
        steps=_step(training),
        trained_steps=training.outcome.counts["steps"],
        learning_rate=recipe.training.learning_rate,
        trigger=trigger(ctx),
        makes_video=pictures and frozen != "video",
        makes_sound=ctx.snapshot.wants_audio and frozen != "audio",
        diffusers_file=DIFFUSERS_FILE,
        comfyui_file=COMFYUI_FILE,
        averaged_files=tuple(f.name for f in _loras(ctx, training) if EMA_SUFFIX in f.stem),
        held_out=_pair(facts.get("eval_loss_base"), facts.get("eval_loss")),
        samples=samples,
        contact_sheet=contact_sheet,
    )


def _base_model(ctx: Context) -> str | None:
    """The base's name on the hub; a local directory is not named."""
    name = ctx.recipe.model.pretrained_model_name_or_path
    if name in (TINY_MODEL, TOY_MODEL):
        return None
    return name if may_be_hub_id(name) else ctx.source.version.published.repository


def _licence(ctx: Context) -> tuple[str, str] | None:
    """That of the released weights; the tiny and the toy model are made here.

    A base that is no longer on this machine, and so of no known version, is an LTX-2 all the same.
    """
    if ctx.recipe.model.pretrained_model_name_or_path in (TINY_MODEL, TOY_MODEL):
        return None
    try:
        published = ctx.source.version.published
    except ModelError:
        return LICENCE, LICENCE_LINK
    return published.licence, published.licence_link


def _pair(base: float | None, lora: float | None) -> tuple[float, float] | None:
    return None if base is None or lora is None else (base, lora)
