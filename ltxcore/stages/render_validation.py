"""render-validation: every prompt from the base and from the LoRA, as mp4 with sound, and a gallery."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.memory.plan import MemoryPlan
from ltxcore.models.vae_ways import LARGE_TILES, asked_way
from ltxcore.stages import embed_text, train_lora
from ltxcore.stages.context import Context
from ltxcore.stages.contract import RENDER, TEXT, TRAIN, MissingInput
from ltxcore.stages.embed_text import space_request
from ltxcore.stages.memory_plans import plan_stage
from ltxcore.stages.memory_record import memory_tags
from ltxcore.stages.prompts import validation_prompts
from ltxcore.stages.stamp import Outcome, Stamp, find_stamp, output_file, request_fingerprint
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

Pair = tuple[Rendering, Rendering]
GALLERY_TITLE = "LTX-2 LoRA validation"
CONTACT_SHEET, LOSS_PICTURE, PAGE, MEASURES = "contact-sheet.png", "loss.png", "index.html", "measures.json"


def request(ctx: Context) -> dict[str, Any]:
    """The training, the prompts and their text space, and what decodes."""
    training = training_stamp(ctx)
    return {
        "training": training.fingerprint,
        "prompts": validation_prompts(ctx.recipe, ctx.snapshot),
        "validation": ctx.recipe.validation.fingerprint_data(),
        **space_request(ctx),
        **{name: ctx.source.fingerprint(name) for name in ("vae", "audio_vae", "vocoder")},
    }


def needs(ctx: Context) -> dict[str, list[str]]:
    """The keys of the store that this request stands on."""
    return embed_text.needs(ctx)


def present(ctx: Context, stamp: Stamp) -> bool:
    """The stamp's files are all that a rendering leaves, and they are in place already."""
    return True


def training_stamp(ctx: Context) -> Stamp:
    """The stamp of the training that this context asks for.

    Raises:
        MissingInput: it has not been done.
    """
    ctx.require_snapshot(RENDER)
    asked = train_lora.request(ctx)
    stamp = find_stamp(ctx.workspace, TRAIN, asked)
    if stamp is None:
        wanted = request_fingerprint(TRAIN, asked)[:16]
        raise MissingInput(RENDER, f"the LoRA of training {wanted}", TRAIN)
    return stamp


@dataclass
class Session:
    """The renderings of one request."""

    ctx: Context
    directory: Path
    device: str
    memory_plan: MemoryPlan | None = None
    """The plan to work by. None: the first of the planner."""
    training: Stamp = field(init=False)
    prompts: dict[str, str] = field(init=False)
    plan: RenderPlan = field(init=False)
    decoding: TiledOnDemand | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.ctx = self.ctx.settled
        self.training = training_stamp(self.ctx)
        self.prompts = validation_prompts(self.ctx.recipe, self.ctx.snapshot)
        self.plan = plan_rendering(self.ctx.recipe.validation)
        for note in self.plan.notes:
            logger.info(note)

    @property
    def lora_file(self) -> Path:
        """The LoRA in diffusers' layout."""
        files = [self.ctx.workspace.root / file.path for file in self.training.outcome.files]
        return next(f for f in files if f.name == "pytorch_lora_weights.safetensors")

    @property
    def denoising_steps(self) -> int:
        return 2 * len(self.prompts) * self.plan.steps

    def render(self, on_step: Callable[[str], None]) -> list[Pair]:
        """Render all prompts from the base, and then all of them from the LoRA.

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
        base = self._render_all(renderer, captions, "base", on_step)
        with renderer.adapter(self.lora_file):
            lora = self._render_all(renderer, captions, "LoRA", on_step)
        return list(zip(base, lora, strict=True))

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
        label: str,
        on_step: Callable[[str], None],
    ) -> list[Rendering]:
        negative = captions[self.ctx.recipe.validation.validation_negative_prompt]

        def render(name: str, prompt: str) -> Rendering:
            return renderer.render(
                name, captions[prompt], negative, lambda done, total: on_step(f"{name}, {label}")
            )

        return [render(name, prompt) for name, prompt in self.prompts.items()]

    def write(self, pairs: list[Pair]) -> None:
        """Videos, posters, contact sheet and the page that shows them."""
        from ltxcore.validation.contact_sheet import write_contact_sheet
        from ltxcore.validation.gallery import write_gallery

        self.directory.mkdir(parents=True, exist_ok=True)
        entries = [self._entry(base, lora) for base, lora in pairs]
        write_contact_sheet(self.directory / CONTACT_SHEET, pairs, GALLERY_TITLE)
        picture = self.ctx.workspace.root / self.training.outcome.facts["directory"] / LOSS_PICTURE
        write_atomic(self.directory / LOSS_PICTURE, picture.read_bytes())
        write_gallery(self.directory, self._facts(), entries)
        measures = {
            entry.name: {
                "base": entry.base.measures.model_dump(),
                "lora": entry.lora.measures.model_dump(),
                "difference": entry.difference,
            }
            for entry in entries
        }
        write_atomic(self.directory / MEASURES, json.dumps(measures, indent=1).encode())

    def _entry(self, base: Rendering, lora: Rendering) -> Entry:
        from ltxcore.validation.gallery import Entry
        from ltxcore.validation.metrics import mean_difference

        return Entry(
            name=base.name,
            prompt=self.prompts[base.name],
            seed=base.seed,
            size=(self.plan.width, self.plan.height),
            base=self._side(base, "base"),
            lora=self._side(lora, "lora"),
            difference=mean_difference(base.frames, lora.frames),
        )

    def _side(self, rendering: Rendering, label: str) -> Side:
        from ltxcore.validation.gallery import Side, write_poster
        from ltxcore.validation.metrics import measure
        from ltxcore.validation.video_file import write_video

        video, poster = f"{rendering.name}-{label}.mp4", f"{rendering.name}-{label}.jpg"
        write_video(self.directory / video, rendering)
        write_poster(self.directory / poster, rendering)
        return Side(video=video, poster=poster, measures=measure(rendering))

    def _facts(self) -> GalleryFacts:
        from ltxcore.validation.gallery import GalleryFacts

        plan, facts, recipe = self.plan, self.training.outcome.facts, self.ctx.recipe
        loras = [f.path for f in self.training.outcome.files if f.path.endswith(".safetensors")]
        return GalleryFacts(
            title=GALLERY_TITLE,
            sampling=(
                ("Steps", str(plan.steps)),
                ("Guidance", f"{plan.guidance:g}"),
                ("Size", f"{plan.width}x{plan.height}"),
                ("Length", f"{plan.num_frames} frames at {plan.fps:g} fps"),
            ),
            run=(
                ("Model", recipe.model.pretrained_model_name_or_path),
                ("Snapshot", self.ctx.snapshot.id),
                ("Training", self.training.fingerprint[:16]),
                ("Steps", str(self.training.outcome.counts["steps"])),
                ("Loss", f"{facts['first_loss']:.4f} -> {facts['last_loss']:.4f}"),
                ("Rank", str(recipe.lora.lora_rank)),
                ("Learning rate", f"{recipe.training.learning_rate:g}"),
            ),
            lora_files=tuple(loras),
            notes=plan.notes,
            negative_prompt=recipe.validation.validation_negative_prompt,
            loss_picture=LOSS_PICTURE,
            contact_sheet=CONTACT_SHEET,
        )

    def finish(self) -> Outcome:
        """Give MLflow the gallery and say what was rendered."""
        names = [PAGE, CONTACT_SHEET, LOSS_PICTURE, MEASURES] if self.prompts else []
        names += [
            f"{name}-{side}.{kind}"
            for name in self.prompts
            for side in ("base", "lora")
            for kind in ("mp4", "jpg")
        ]
        files = [self.directory / name for name in names]
        if files:
            record = self.ctx.workspace.root / self.training.outcome.facts["directory"]
            tracker = train_lora.tracker(self.ctx, record)
            tracker.log_artifacts(files, "gallery")
            if self.memory_plan is not None:
                tracker.set_tags(memory_tags(self.ctx, self.memory_plan))
            tracker.finish("FINISHED")
        renderings = 2 * len(self.prompts)
        return Outcome(
            counts={"renderings": renderings, "done": renderings, "hits": 0},
            facts={
                "prompts": self.prompts,
                "vae_steps_down": [] if self.decoding is None else self.decoding.steps,
            },
            files=tuple(output_file(self.ctx.workspace, path) for path in files),
        )
