"""render-validation: every prompt from the base and the shown LoRAs, as mp4 with sound, and a gallery."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.memory.plan import MemoryPlan
from ltxcore.models.vae_ways import LARGE_TILES, asked_way
from ltxcore.stages import embed_text, encode_latents, train_lora
from ltxcore.stages.base_renderings import BaseRenderings
from ltxcore.stages.context import Context
from ltxcore.stages.contract import RENDER, TEXT, MissingInput
from ltxcore.stages.embed_text import space_request
from ltxcore.stages.memory_plans import plan_stage
from ltxcore.stages.memory_record import memory_tags
from ltxcore.stages.prompts import validation_prompts
from ltxcore.stages.rendered_lora import RenderedLora, rendered_lora, samples_of, training_key
from ltxcore.stages.sample_steps import step_directory, waiting_steps
from ltxcore.stages.stamp import Outcome, Stamp, output_file
from ltxcore.stages.step_samples import ENDINGS, gather_samples, sample_files, steps_of, write_samples
from ltxcore.stages.validation_clips import HeldClips, given_clips, plan_of_clips
from ltxcore.stages.validation_runs import (
    ValidationRun,
    adapter_request,
    renderings,
    validation_runs,
)
from ltxcore.store.blobs import write_atomic
from ltxcore.validation.plan import Rendering, RenderPlan, plan_rendering

if TYPE_CHECKING:
    import torch

    from ltxcore.models.connecting import ConnectedCaption
    from ltxcore.stages.samples import StoredFeatures
    from ltxcore.validation.decoding import TiledOnDemand
    from ltxcore.validation.gallery import Entry, GalleryFacts, Side
    from ltxcore.validation.render import Renderer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rendered:
    """One prompt, from the base and from each LoRA that is shown."""

    base: Rendering
    loras: tuple[Rendering, ...]
    """In the order of `RenderedLora.shown`."""


GALLERY_TITLE = "LTX-2 LoRA validation"
CONTACT_SHEET, LOSS_PICTURE, PAGE, MEASURES = "contact-sheet.png", "loss.png", "index.html", "measures.json"


def request(ctx: Context) -> dict[str, Any]:
    """The training, the prompts and their text space, and what decodes."""
    return {
        "training": training_key(ctx),
        **({"step": ctx.step} if ctx.step else {}),
        "prompts": validation_prompts(ctx.recipe, ctx.snapshot),
        "validation": rendering_settings(ctx),
        **adapter_request(ctx),
        **space_request(ctx),
        **{name: ctx.source.fingerprint(name) for name in ("vae", "audio_vae", "vocoder")},
    }


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    latents = encode_latents.needs(ctx) if ctx.recipe.validation.validation_using_datasets else {}
    return embed_text.needs(ctx) | latents


def present(ctx: Context, stamp: Stamp) -> bool:
    """The stamp's files are all that a rendering leaves, and they are in place already."""
    return True


def rendering_settings(ctx: Context) -> dict[str, Any]:
    """The settings that a rendering depends on; how often there is one is not among them."""
    settings = ctx.recipe.validation.fingerprint_data()
    return {key: value for key, value in settings.items() if key != "validation_step_interval"}


def _tell_step(on_step: Callable[[str], None], what: str, done: int, total: int) -> None:
    on_step(what)


@dataclass
class Session:
    """The renderings of one request."""

    ctx: Context
    directory: Path
    device: str
    memory_plan: MemoryPlan | None = None
    """The plan to work by. None: the first of the planner."""
    lora: RenderedLora = field(init=False)
    prompts: dict[str, str] = field(init=False)
    """Name -> prompt of every rendering."""
    runs: list[ValidationRun] = field(init=False)
    plan: RenderPlan = field(init=False)
    decoding: TiledOnDemand | None = field(default=None, init=False)
    held_clips: HeldClips = field(init=False)

    def __post_init__(self) -> None:
        self.ctx = self.ctx.settled
        self.lora = rendered_lora(self.ctx)
        self.prompts = renderings(self.ctx, validation_prompts(self.ctx.recipe, self.ctx.snapshot))
        self.runs = validation_runs(self.ctx)
        self.plan = plan_of_clips(self.ctx, plan_rendering(self.ctx.recipe.validation))
        self.held_clips = HeldClips(self.ctx)
        for note in self.plan.notes:
            logger.info(note)

    @property
    def denoising_steps(self) -> int:
        prompts = len(validation_prompts(self.ctx.recipe, self.ctx.snapshot))
        return (1 + len(self.lora.shown)) * prompts * sum(run.plan(self.plan).steps for run in self.runs)

    def render(self, on_step: Callable[[str], None]) -> list[Rendered]:
        """Render all prompts from the base, where that was not done before, and from each LoRA.

        Raises:
            OverBudget: it needs more memory than it may use; nothing is loaded then.
            MissingInput: a prompt has no text features.
        """
        from ltxcore.stages.samples import StoredFeatures

        # Made before anything loads: later the weights themselves would count against what is free.
        plan = self.memory_plan = self.memory_plan or plan_stage(self.ctx, RENDER, self.device)
        plan.check()
        features = StoredFeatures(self.ctx)
        negative = self.ctx.recipe.validation.validation_negative_prompt
        missing = features.missing([*self.prompts.values(), negative])
        if missing:
            raise MissingInput(RENDER, f"the text features of {len(missing)} prompts", TEXT)
        captions = self._connected(features, [*self.prompts.values(), negative])
        renderer = self._load(plan)
        settings = {**rendering_settings(self.ctx), **given_clips(self.ctx, self.plan)}
        bases = BaseRenderings(self.ctx, settings, self.prompts)
        base = bases.load()
        if base is None:
            base = bases.save(self._render_all(renderer, captions, None, "base", on_step))
        loras = [
            self._render_all(renderer, captions, file, side.label, on_step) for side, file in self.lora.shown
        ]
        for step in self._waiting_steps():
            for side, file in samples_of(self.ctx, self.lora.record, step):
                told = f"step {step}, {side.label}"
                samples = self._render_all(renderer, captions, file, told, on_step)
                write_samples(self.directory, step, side.kind, samples)
        return [Rendered(one, tuple(others)) for one, *others in zip(base, *loras, strict=True)]

    def _waiting_steps(self) -> list[int]:
        """The steps of a finished training that nobody has rendered while it went on."""
        return waiting_steps(self.lora.record) if self.lora.finished else []

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        return torch.bfloat16 if self.ctx.recipe.training.mixed_precision == "bf16" else torch.float32

    def _connected(self, features: StoredFeatures, texts: list[str]) -> dict[str, ConnectedCaption]:
        """Every text through the connectors, which are gone before the transformer is loaded."""
        from ltxcore.memory.out_of_memory import release_memory
        from ltxcore.memory.placement import place_connectors
        from ltxcore.models.connecting import ConnectedCaption, connect
        from ltxcore.models.loading import load_connectors

        connectors, slots = (
            load_connectors(self.ctx.source, self._dtype, "cpu"),
            self.ctx.source.text_max_tokens,
        )
        place_connectors(connectors, self.device, streamed=False)
        found = {}
        for text in texts:
            video, audio = connect(connectors, [features.load(text)], slots)
            found[text] = ConnectedCaption(video[0].cpu(), audio[0].cpu())
        del connectors
        release_memory()
        return found

    def _load(self, plan: MemoryPlan) -> Renderer:
        import torch

        from ltxcore.models.connecting import PrecomputedConnectors
        from ltxcore.validation.decoding import decode_within_memory
        from ltxcore.validation.render import Renderer, load_components

        done = PrecomputedConnectors(torch.device(self.device), self._dtype)
        components = load_components(self.ctx.source, self._dtype, self.device, plan.arrangement, done)
        tiles = LARGE_TILES if plan.tiled else asked_way(self.ctx.recipe.encode).tiles
        self.decoding = decode_within_memory(components.vae, tiles)
        return Renderer(components, self.plan)

    def _render_all(
        self,
        renderer: Renderer,
        captions: dict[str, ConnectedCaption],
        lora: Path | None,
        label: str,
        on_step: Callable[[str], None],
    ) -> list[Rendering]:
        """Every prompt in every run, with a LoRA or from the base; in the order of `prompts`."""
        negative = captions[self.ctx.recipe.validation.validation_negative_prompt]
        found = []
        for run in self.runs:
            with renderer.adapter(*([] if lora is None else [lora]), *run.adapters):
                for name, prompt in validation_prompts(self.ctx.recipe, self.ctx.snapshot).items():
                    shown = run.name(name)
                    told = partial(_tell_step, on_step, f"{shown}, {label}")
                    with renderer.holding(self.held_clips.of(name, renderer.vae)):
                        rendering = renderer.render(
                            name, captions[prompt], negative, told, run.plan(self.plan)
                        )
                    found.append(replace(rendering, name=shown))
        return found

    def write(self, rendered: list[Rendered]) -> None:
        """Videos, posters, contact sheet and the page that shows them."""
        from ltxcore.training.plot import plot_losses
        from ltxcore.validation.contact_sheet import BASE, write_contact_sheet
        from ltxcore.validation.gallery import write_gallery

        self.directory.mkdir(parents=True, exist_ok=True)
        if self.lora.finished:
            gather_samples(self.ctx, self.directory, list(self.prompts), self.lora.trained_steps)
        entries = [self._entry(one) for one in rendered]
        labels = [BASE, *(side.label for side, _ in self.lora.shown)]
        strips = [list(zip(labels, (one.base, *one.loras), strict=True)) for one in rendered]
        write_contact_sheet(self.directory / CONTACT_SHEET, strips, GALLERY_TITLE)
        losses = [self.lora.record / name for name in ("metrics.jsonl", "evaluations.jsonl")]
        plot_losses(losses[0], self.directory / LOSS_PICTURE, losses[1])
        write_gallery(self.directory, self._facts(), entries)
        measures = {
            entry.name: {
                "base": entry.base.measures.model_dump(),
                **{lora.kind: lora.side.measures.model_dump() for lora in entry.loras},
                "differences": {lora.kind: lora.difference for lora in entry.loras},
            }
            for entry in entries
        }
        write_atomic(self.directory / MEASURES, json.dumps(measures, indent=1).encode())

    def _entry(self, rendered: Rendered) -> Entry:
        from ltxcore.validation.gallery import Compared, Entry
        from ltxcore.validation.metrics import mean_difference

        base, shown = rendered.base, [side for side, _ in self.lora.shown]
        return Entry(
            name=base.name,
            prompt=self.prompts[base.name],
            seed=base.seed,
            size=(self.plan.width, self.plan.height),
            base=self._side(base, "base"),
            loras=tuple(
                Compared(
                    side.kind,
                    side.label,
                    self._side(lora, side.kind),
                    mean_difference(base.frames, lora.frames),
                )
                for side, lora in zip(shown, rendered.loras, strict=True)
            ),
            steps=steps_of(self.directory, base.name, shown),
        )

    def _side(self, rendering: Rendering, kind: str) -> Side:
        from ltxcore.validation.gallery import Side, write_poster
        from ltxcore.validation.metrics import measure
        from ltxcore.validation.video_file import write_video

        video, poster = f"{rendering.name}-{kind}.mp4", f"{rendering.name}-{kind}.jpg"
        write_video(self.directory / video, rendering)
        write_poster(self.directory / poster, rendering)
        return Side(video=video, poster=poster, measures=measure(rendering))

    def _facts(self) -> GalleryFacts:
        from ltxcore.validation.gallery import GalleryFacts

        plan, lora, recipe = self.plan, self.lora, self.ctx.recipe
        return GalleryFacts(
            title=GALLERY_TITLE,
            sampling=(
                ("Steps", str(plan.steps)),
                ("Guidance", plan.told_guidance()),
                ("Size", f"{plan.width}x{plan.height}"),
                ("Length", f"{plan.num_frames} frames at {plan.fps:g} fps"),
            ),
            run=(
                ("Model", recipe.model.pretrained_model_name_or_path),
                ("Snapshot", self.ctx.snapshot.id),
                ("Training", lora.fingerprint[:16]),
                (
                    "Step",
                    f"{lora.step} of {lora.trained_steps}" if lora.finished else f"{lora.step}, it goes on",
                ),
                *([("Loss", lora.loss)] if lora.loss else []),
                ("Rank", recipe.lora.size_told),
                ("Learning rate", f"{recipe.training.learning_rate:g}"),
            ),
            lora_files=lora.files,
            notes=plan.notes,
            negative_prompt=recipe.validation.validation_negative_prompt,
            loss_picture=LOSS_PICTURE,
            contact_sheet=CONTACT_SHEET,
        )

    def forget_samples(self) -> None:
        """Drop the LoRAs that were left for these renderings: they are stamped, and each is large."""
        steps = [self.ctx.step] if self.ctx.step else waiting_steps(self.lora.record)
        for step in steps:
            shutil.rmtree(step_directory(self.lora.record, step), ignore_errors=True)

    def finish(self) -> Outcome:
        """Give MLflow the gallery and say what was rendered."""
        kinds = ["base", *(side.kind for side, _ in self.lora.shown)]
        names = [PAGE, CONTACT_SHEET, LOSS_PICTURE, MEASURES] if self.prompts else []
        names += [f"{name}-{kind}.{ending}" for name in self.prompts for kind in kinds for ending in ENDINGS]
        files = [*(self.directory / name for name in names), *sample_files(self.directory)]
        if files:
            tracker = train_lora.tracker(self.ctx, self.lora.record)
            place = f"samples/step-{self.ctx.step:06d}" if self.ctx.step else "gallery"
            # MLflow keeps a file under its bare name.
            for folder, group in groupby(files, key=lambda file: file.parent):
                below = folder.relative_to(self.directory).as_posix()
                tracker.log_artifacts(group, place if below == "." else f"{place}/{below}")
            if self.memory_plan is not None:
                tracker.set_tags(memory_tags(self.ctx, self.memory_plan))
            if self.lora.finished:
                tracker.finish("FINISHED")
        count = len(kinds) * len(self.prompts)
        return Outcome(
            counts={"renderings": count, "done": count, "hits": 0},
            facts={
                "prompts": self.prompts,
                "vae_steps_down": [] if self.decoding is None else self.decoding.steps,
            },
            files=tuple(output_file(self.ctx.workspace, path) for path in files),
        )
