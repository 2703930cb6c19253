"""One rendering of all prompts, from the base and the shown LoRAs, as mp4 with sound, and its gallery."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ltxcore.memory.plan import MemoryPlan
from ltxcore.models.vae.ways import LARGE_TILES, asked_way
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER, TEXT, MissingInput
from ltxcore.pipeline.base.outputs import require_whole_directory
from ltxcore.pipeline.base.stamp import Outcome, output_file
from ltxcore.pipeline.data.prompts import validation_prompts
from ltxcore.pipeline.data.rendering_size import settings_of_clips
from ltxcore.pipeline.plan.auto_settings import settle
from ltxcore.pipeline.plan.memory_tags import memory_tags
from ltxcore.stages.render_validation import memory
from ltxcore.stages.render_validation.base_renderings import BaseRenderings
from ltxcore.stages.render_validation.given_clips import GivenClips, given_clips
from ltxcore.stages.render_validation.prompt_keyframes import PromptKeyframes
from ltxcore.stages.render_validation.prompt_pictures import picture_contents
from ltxcore.stages.render_validation.rendered_lora import (
    RenderedLora,
    rendered_lora,
    samples_of,
)
from ltxcore.stages.render_validation.request import rendering_settings
from ltxcore.stages.render_validation.runs import (
    ValidationRun,
    renderings,
    require_unchanged_adapters,
    validation_runs,
)
from ltxcore.stages.render_validation.standalone_models import diffusion_decoder, upsampler
from ltxcore.stages.render_validation.step_samples import (
    ENDINGS,
    gather_samples,
    sample_files,
    steps_of,
    write_samples,
)
from ltxcore.stages.train_lora.sample_steps import step_directory, waiting_steps
from ltxcore.stages.train_lora.tracker import tracker as train_lora_tracker
from ltxcore.store.blobs import write_atomic
from ltxcore.validation.rendering_settings import Rendering, RenderSettings
from ltxcore.validation.sides import Kind, Sides
from ltxcore.validation.sound_picture import HEIGHT_PX, WIDTH_PX

if TYPE_CHECKING:
    import torch

    from ltxcore.models.text.text_connectors import ConnectedCaption
    from ltxcore.stages.train_lora.stored_samples import StoredFeatures
    from ltxcore.validation.decoding import TiledOnDemand
    from ltxcore.validation.gallery import Entry, GalleryFacts, Side
    from ltxcore.validation.render import Renderer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rendered:
    """One prompt, from the base and from each LoRA that is shown."""

    base: Rendering
    loras: Sides[Rendering]


GALLERY_TITLE = "LTX-2 LoRA validation"
CONTACT_SHEET, LOSS_PICTURE, PAGE, MEASURES = "contact-sheet.png", "loss.png", "index.html", "measures.json"


def _numbered(loras: Sides[list[Rendering]], number: int) -> Sides[Rendering]:
    return loras.map(lambda _, renderings: renderings[number])


def _tell_step(on_step: Callable[[str], None], what: str, done: int, total: int) -> None:
    on_step(what)


def _shown_size(plan: RenderSettings) -> tuple[int, int]:
    """Width and height of what is shown: the pictures, or the spectrogram of a sound made alone."""
    return (WIDTH_PX, HEIGHT_PX) if plan.modality == "audio" else plan.final_size


@dataclass
class Session:
    """The renderings of one request."""

    ctx: Context
    directory: Path
    device: str
    memory_plan: MemoryPlan | None = None
    """The plan to work by. None: the first of the planner."""
    run: str = ""
    """The name of the run that asks for it."""
    lora: RenderedLora = field(init=False)
    prompts: dict[str, str] = field(init=False)
    """Name -> prompt of every rendering."""
    runs: list[ValidationRun] = field(init=False)
    plans: tuple[RenderSettings, ...] = field(init=False)
    """One for each size that prompts are rendered at."""
    sized: dict[str, RenderSettings] = field(init=False)
    """Name of every rendering -> how it is made."""
    decoding: TiledOnDemand | None = field(default=None, init=False)
    given_clips_read: GivenClips = field(init=False)
    keyframes_read: PromptKeyframes = field(init=False)

    def __post_init__(self) -> None:
        self.ctx = settle(self.ctx)
        self.lora = rendered_lora(self.ctx)
        self.plans = settings_of_clips(self.ctx)
        prompts = validation_prompts(self.ctx.recipe, self.ctx.snapshot)
        self.prompts = renderings(self.ctx, prompts, self.plans)
        self.runs = validation_runs(self.ctx, self.plans)
        self.sized = {run.name(name): run.plan for run in self.runs for name in prompts}
        self.given_clips_read = GivenClips(self.ctx)
        self.keyframes_read = PromptKeyframes(self.ctx)

    @property
    def _notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(note for plan in self.plans for note in plan.notes))

    @property
    def denoising_steps(self) -> int:
        """Denoising steps of all renderings of one step's LoRA together."""
        prompts = len(validation_prompts(self.ctx.recipe, self.ctx.snapshot))
        return (1 + len(self.lora.shown)) * prompts * sum(run.plan.all_steps for run in self.runs)

    def render(self, on_step: Callable[[str], None]) -> list[Rendered]:
        """Render all prompts from the base, where that was not done before, and from each LoRA.

        Raises:
            DamagedOutput: a LoRA to render is not what the training wrote.
            ModelError: another LoRA that the recipe names is not what it was.
            OverBudget: it needs more memory than it may use; nothing is loaded then.
            MissingInput: a prompt has no text features.
        """
        from ltxcore.stages.train_lora.stored_samples import StoredFeatures

        for note in self._notes:
            logger.info(note)
        self.lora.require_whole(self.ctx.workspace)
        for step in self._waiting_steps():
            require_whole_directory(step_directory(self.lora.record, step))
        require_unchanged_adapters(self.ctx)
        # Made before anything loads: later the weights themselves would count against what is free.
        plan = self.memory_plan = self.memory_plan or memory.plan(self.ctx, self.device)
        plan.check()
        features = StoredFeatures(self.ctx)
        negative = self.ctx.recipe.validation.validation_negative_prompt
        missing = features.missing([*self.prompts.values(), negative])
        if missing:
            raise MissingInput(RENDER, f"the text features of {len(missing)} prompts", TEXT)
        captions = self._connected(features, [*self.prompts.values(), negative])
        renderer = self._load(plan)
        base = self.bases.load()
        if base is None:
            base = self.bases.save(self._render_all(renderer, captions, None, "base", on_step))
        loras = self.lora.shown.map(
            lambda _, shown: self._render_all(renderer, captions, shown.file, shown.label, on_step)
        )
        for step in self._waiting_steps():
            for kind, shown in samples_of(self.ctx, self.lora.record, step).items():
                shown_as = f"step {step}, {shown.label}"
                samples = self._render_all(renderer, captions, shown.file, shown_as, on_step)
                write_samples(self.directory, step, kind, samples)
        return [Rendered(one, _numbered(loras, number)) for number, one in enumerate(base)]

    @property
    def bases(self) -> BaseRenderings:
        """The base's renderings, by the settings on which each depends."""
        asked = rendering_settings(self.ctx)
        # A rendering depends on the pictures of its own prompt, and on no file's name.
        asked.pop("validation_keyframes", None)
        pictures = picture_contents(self.ctx)
        given = {run.name(name): {"keyframes": pictures[name]} for run in self.runs for name in pictures}
        settings = {
            name: {
                **asked,
                "validation_resolution": plan.resolution,
                **given_clips(self.ctx, plan),
                **given.get(name, {}),
            }
            for name, plan in self.sized.items()
        }
        return BaseRenderings(self.ctx, settings, self.prompts)

    def _waiting_steps(self) -> list[int]:
        """The steps of a finished training that were not rendered during it."""
        return waiting_steps(self.lora.record) if self.lora.finished else []

    @property
    def _dtype(self) -> torch.dtype:
        from ltxcore.models.torch_types import torch_type

        return torch_type(self.ctx.recipe.training.mixed_precision)

    def _connected(self, features: StoredFeatures, texts: list[str]) -> dict[str, ConnectedCaption]:
        """Run the connectors on every text, and free them before the transformer is loaded."""
        from ltxcore.stages.train_lora.connectors import text_connectors

        with text_connectors(self.ctx.source, self._dtype, self.device) as connected:
            return {text: connected(features.load(text)) for text in texts}

    def _load(self, plan: MemoryPlan) -> Renderer:
        import torch

        from ltxcore.models.text.text_connectors import PrecomputedConnectors
        from ltxcore.validation.components import load_components
        from ltxcore.validation.decoding import decode_within_memory
        from ltxcore.validation.render import Renderer

        done = PrecomputedConnectors(torch.device(self.device), self._dtype)
        components = load_components(
            self.ctx.source,
            self._dtype,
            self.device,
            plan.arrangement,
            done,
            upsampler(self.ctx),
            diffusion_decoder(self.ctx),
        )
        tiles = LARGE_TILES if plan.tiled else asked_way(self.ctx.recipe.encode).tiles
        self.decoding = decode_within_memory(components.diffusion_decoder or components.vae, tiles)
        return Renderer(components, self.plans[0])

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
            with renderer.adapter(*([] if lora is None else [lora]), *run.adapters, second=run.second):
                for name, prompt in validation_prompts(self.ctx.recipe, self.ctx.snapshot).items():
                    shown = run.name(name)
                    progress = partial(_tell_step, on_step, f"{shown}, {label}")
                    given = self.given_clips_read.of(name, renderer.vae)
                    given = given or self.keyframes_read.of(name, run.plan, renderer.vae)
                    with renderer.giving(given):
                        rendering = renderer.render(name, captions[prompt], negative, progress, run.plan)
                    found.append(replace(rendering, name=shown))
        return found

    def write(self, rendered: list[Rendered]) -> None:
        """Videos, posters, contact sheet and the page that shows them."""
        from ltxcore.training.plot import plot_losses
        from ltxcore.validation.contact_sheet import BASE, write_contact_sheet
        from ltxcore.validation.gallery import write_gallery

        self.directory.mkdir(parents=True, exist_ok=True)
        if self.lora.finished:
            training, last = self.lora.record, self.lora.trained_steps
            gather_samples(self.ctx, self.directory, list(self.prompts), training, last)
        entries = [self._entry(one) for one in rendered]
        labels = [BASE, *(shown.label for shown in self.lora.shown)]
        strips = [list(zip(labels, (one.base, *one.loras), strict=True)) for one in rendered]
        write_contact_sheet(self.directory / CONTACT_SHEET, strips, GALLERY_TITLE)
        losses = [self.lora.record / name for name in ("metrics.jsonl", "evaluations.jsonl")]
        plot_losses(losses[0], self.directory / LOSS_PICTURE, losses[1])
        write_gallery(self.directory, self._facts(), entries)
        measures = {
            entry.name: {
                "base": entry.base.measures.model_dump(),
                **{kind: lora.side.measures.model_dump() for kind, lora in entry.loras.items()},
                "differences": {kind: lora.difference for kind, lora in entry.loras.items()},
            }
            for entry in entries
        }
        write_atomic(self.directory / MEASURES, json.dumps(measures, indent=1).encode())

    def _entry(self, rendered: Rendered) -> Entry:
        from ltxcore.validation.gallery import Compared, Entry
        from ltxcore.validation.metrics import mean_difference

        base, labels = rendered.base, self.lora.shown.map(lambda _, shown: shown.label)
        label_of = dict(labels.items())

        def compared(kind: Kind, lora: Rendering) -> Compared:
            difference = mean_difference(base.frames, lora.frames) if base.has_pictures else None
            return Compared(label_of[kind], self._side(lora, kind), difference)

        return Entry(
            name=base.name,
            prompt=self.prompts[base.name],
            seed=base.seed,
            size=_shown_size(self.sized[base.name]),
            base=self._side(base, "base"),
            loras=rendered.loras.map(compared),
            steps=steps_of(self.directory, base.name, labels),
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

        plan, lora, recipe = self.plans[0], self.lora, self.ctx.recipe
        sizes = ", ".join("{}x{}".format(*sized.final_size) for sized in self.plans)
        return GalleryFacts(
            title=GALLERY_TITLE,
            sampling=(
                ("Steps", str(plan.steps)),
                ("Guidance", plan.shown_guidance()),
                ("Size", "sound alone" if plan.modality == "audio" else sizes),
                *([("Stages", f"2, the first at {plan.width}x{plan.height}")] if plan.upscale > 1 else []),
                *([("Decoder", "diffusion")] if plan.decoder == "diffusion" else []),
                *([("Sound", "none, pictures alone")] if plan.modality == "video" else []),
                ("Length", f"{plan.num_frames} frames at {plan.fps:g} fps"),
            ),
            run=(
                ("Date", f"{datetime.now():%Y-%m-%d %H:%M}"),
                *([("Run", self.run)] if self.run else []),
                ("Datasets", ", ".join(sorted(self.ctx.snapshot.roots))),
                ("Model", recipe.model.pretrained_model_name_or_path),
                ("Snapshot", self.ctx.snapshot.id),
                ("Training", lora.fingerprint[:16]),
                (
                    "Step",
                    f"{lora.step} of {lora.trained_steps}" if lora.finished else f"{lora.step}, it goes on",
                ),
                *([("Loss", lora.loss)] if lora.loss else []),
                ("Rank", recipe.lora.shown_size),
                ("Learning rate", f"{recipe.training.learning_rate:g}"),
            ),
            lora_files=tuple((file, self._beside(file)) for file in lora.files),
            notes=self._notes,
            negative_prompt=recipe.validation.validation_negative_prompt,
            loss_picture=LOSS_PICTURE,
            contact_sheet=CONTACT_SHEET,
        )

    def _beside(self, file: str) -> str:
        """A file of the workspace, as the gallery's directory reaches it."""
        return Path(os.path.relpath(self.ctx.workspace.root / file, self.directory)).as_posix()

    def forget_samples(self) -> None:
        """Delete the LoRAs that were left for these renderings, once the stamp is written; each is large."""
        steps = [self.ctx.step] if self.ctx.step else waiting_steps(self.lora.record)
        for step in steps:
            shutil.rmtree(step_directory(self.lora.record, step), ignore_errors=True)

    def finish(self) -> Outcome:
        """Log the gallery to MLflow, and return the outcome."""
        kinds = ["base", *(kind for kind, _ in self.lora.shown.items())]
        names = [PAGE, CONTACT_SHEET, LOSS_PICTURE, MEASURES] if self.prompts else []
        names += [f"{name}-{kind}.{ending}" for name in self.prompts for kind in kinds for ending in ENDINGS]
        files = [*(self.directory / name for name in names), *sample_files(self.directory)]
        if files:
            tracker = train_lora_tracker(self.ctx, self.lora.record)
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
