"""What of a finished run is published, and publishing it: LoRA files, samples of named prompts, a card."""

from __future__ import annotations

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ltxcore.config.crepa_settings import PROJECTOR_FILE
from ltxcore.config.hub_settings import HubSettings
from ltxcore.config.model_settings import TINY_MODEL, TOY_MODEL
from ltxcore.models.finding import may_be_hub_id
from ltxcore.publishing.card import CardFacts, CardSample, model_card
from ltxcore.publishing.errors import HubRefused
from ltxcore.publishing.hub import Hub, Pushed
from ltxcore.publishing.public_file import write_public
from ltxcore.stages import train_lora
from ltxcore.stages.context import Context
from ltxcore.stages.contract import RENDER, TRAIN
from ltxcore.stages.lora_sides import EMA_SUFFIX, LAST_SUFFIX, shown_sides
from ltxcore.stages.render_validation import CONTACT_SHEET
from ltxcore.stages.sample_steps import DIFFUSERS_FILE
from ltxcore.stages.stamp import Stamp, read_manifest, read_stamp
from ltxcore.stages.training_work import LORA_NAME
from ltxcore.store.blobs import TEMPORARY, read_json, write_json

logger = logging.getLogger(__name__)

SAMPLES: Final = "samples"
RECORD: Final = "hub.json"
COMFYUI_FILE: Final = f"{LORA_NAME}_comfyui.safetensors"
OURS: Final = re.compile(
    rf"{SAMPLES}/.*|pytorch_lora_weights({EMA_SUFFIX})?\.safetensors"
    rf"|{LORA_NAME}({EMA_SUFFIX})?_comfyui\.safetensors"
)
RELEASED: Final = {"2.0": "Lightricks/LTX-2", "2.3": "Lightricks/LTX-2.3"}
"""Version -> the repository of its base, for a base that lies in a directory of this machine."""


@dataclass(frozen=True)
class Publication:
    """A finished run as it is published."""

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
    """Upload what a finished run made and the hub lacks, and note in the run and in MLflow where it is.

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
    tracker = train_lora.tracker(ctx, found.training)
    tracker.set_tags({"hub.repo": pushed.repo, "hub.commit": pushed.commit, "hub.url": pushed.url})
    return pushed


def read_published(run: Path) -> Pushed | None:
    """Where a run's LoRA is on the hub, None where it is not."""
    file = run / RECORD
    return Pushed.model_validate(read_json(file)) if file.exists() else None


def lora_directory(ctx: Context, run: Path) -> Path:
    """Where a run's LoRA lies.

    Raises:
        HubRefused: it has none.
    """
    return _loras(ctx, _training(ctx, run))[0].parent


def publication(ctx: Context, run: Path) -> Publication:
    """What of a run is published.

    Raises:
        HubRefused: its training is not finished, or its files are gone.
    """
    training = _training(ctx, run)
    shown = _samples(ctx, run)
    samples = {place: file for sample, files in shown for place, file in files.items()}
    sheet = None
    if shown:
        sheet = f"{SAMPLES}/{CONTACT_SHEET}"
        samples[sheet] = next(iter(shown[0][1].values())).parent / CONTACT_SHEET
    return Publication(
        loras=_loras(ctx, training),
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
    """The LoRA's files, without what was left beside it: CREPA's projector, weights to compare with."""
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
    kind = next((side.kind for side in sides if not side.suffix), sides[0].kind)
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
        kind="lora" if recipe.lora.lycoris is None else recipe.lora.lycoris.algo,
        size=recipe.lora.size_told,
        steps=_step(training),
        trained_steps=training.outcome.counts["steps"],
        learning_rate=recipe.training.learning_rate,
        trigger=train_lora.trigger(ctx),
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
    """The base's name on the hub; a directory of this machine is nobody else's business."""
    name = ctx.recipe.model.pretrained_model_name_or_path
    if name in (TINY_MODEL, TOY_MODEL):
        return None
    return name if may_be_hub_id(name) else RELEASED.get(ctx.source.version.name)


def _pair(base: float | None, lora: float | None) -> tuple[float, float] | None:
    return None if base is None or lora is None else (base, lora)
