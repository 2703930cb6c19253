"""`ltx2 plan`: what a training takes of memory and time, on this machine and on cards that one might buy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.tables import table as empty_table
from ltxcore.config.arithmetic import resolve_arithmetic
from ltxcore.config.batch_size import AUTO
from ltxcore.config.crepa_settings import PATCH
from ltxcore.config.errors import ConfigError, nearest
from ltxcore.config.geometry import GEOMETRY
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.config.weight_precisions import NO_CHANGE
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.device import likely_device
from ltxcore.memory.plan import GIB, OverBudget, teacher_activations_bytes
from ltxcore.memory.planner.cards import CARDS, Card, card_like
from ltxcore.memory.planner.remedies import remedies
from ltxcore.memory.planner.render_planner import RenderPlanner, RenderWorkload
from ltxcore.memory.planner.training_planner import (
    CONTEXT_BYTES,
    RESERVE,
    Budget,
    Forced,
    Planner,
    TrainingPlan,
    Workload,
)
from ltxcore.models.shapes import full_shapes
from ltxcore.models.teacher import RELEASED
from ltxcore.models.vae.ways import LARGE_TILES, WAYS, ways_from
from ltxcore.models.version import Version
from ltxcore.models.versions import TEXT_MAX_TOKENS, VERSIONS
from ltxcore.pipeline.plan.arrangements import forced_by
from ltxcore.pipeline.plan.transformer_plan import released_planner, workload
from ltxcore.pipeline.plan.vae_room import VaeRoom
from ltxcore.validation.rendering_settings import DISTILLED_GUIDANCE, settings_of_renderings

console = Console()
errors = Console(stderr=True)

BAD_INPUT = 2


def plan(
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe file. Default: a recipe that sets no key.")
    ] = None,
    version: Annotated[str, typer.Option(help=f"LTX-2's version: one of {', '.join(VERSIONS)}.")] = "2.0",
    size: Annotated[str, typer.Option(help="Width x height of the clips, multiples of 32.")] = "768x512",
    frames: Annotated[int, typer.Option(help="Frames of a clip, 8n+1.")] = 49,
    batch: Annotated[
        int | None, typer.Option(help="Clips in a step. Default: the recipe's batch size.")
    ] = None,
    silent: Annotated[bool, typer.Option("--silent", help="The clips have no sound.")] = False,
    card: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(CARDS)}; may be repeated. Default: all.")
    ] = None,
    ram: Annotated[float | None, typer.Option(help="GiB of host memory beside each card.")] = None,
) -> None:
    """Predict memory and time of a training at full size, here and on named cards. Needs no GPU."""
    try:
        written = Recipe() if recipe is None else load_recipe(recipe)
        chosen, _ = resolve_arithmetic(written, "cuda")
        released = _version(version)
        cards = [_card(name, ram) for name in card or CARDS]
        width, height = _size(size)
        legal = GEOMETRY.legal_frames(frames)
        if frames != legal:
            raise typer.BadParameter(f"{frames} frames are not 8n+1; give {legal}")
        here = _this_machine(chosen)
        given = chosen.training.train_batch_size
        work = workload(
            chosen,
            batch=batch or (given if isinstance(given, int) else 1),
            width=width,
            height=height,
            frames=frames,
            fps=25.0,
            audio=not silent,
            text_tokens=TEXT_MAX_TOKENS,
        )
        _print_all(released, chosen, work, [*here, *cards])
    except (ConfigError, StrategyUnavailable) as error:
        errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None


def _print_all(released: Version, recipe: Recipe, work: Workload, cards: list[Card]) -> None:
    shapes = full_shapes(released.name)
    planners = [released_planner(released.name, card, work.value_bytes) for card in cards]
    forced = forced_by(recipe.memory, planners[0].sizes.blocks, _precision(recipe), device="cuda")
    console.print(
        f"LTX-{released.name}, {planners[0].sizes.values / 1e9:.1f}B parameters; {work}; "
        f"{work.tokens.video:,} video tokens, {work.tokens.audio} of sound; rank {work.rank}"
    )
    table, advice = _training_table(planners, work, recipe, forced)
    console.print(table)
    for line in advice:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(_stage_table(released, shapes, work, recipe, planners, forced))
    console.print("Seconds are estimates from the cards' rates; memory includes CUDA's own 0.7 GiB.")


def _training_table(
    planners: list[Planner], work: Workload, recipe: Recipe, forced: Forced
) -> tuple[Table, list[str]]:
    table = empty_table(
        {
            "card\n  weights": "words",
            "\nstrategy": "words",
            "blocks\nhere": "figures",
            "recom-\nputed": "figures",
            "GPU\nGiB": "figures",
            "host\nGiB": "figures",
            "\ns/step": "figures",
            "max\nbatch": "figures",
        },
        "train-lora",
    )
    advice: list[str] = []
    for planner in planners:
        budget = Budget.of(planner.card)
        given = _precision(recipe)
        # A card has a line of its own: its rows then fit into a narrow terminal.
        usable = f"{budget.device_bytes / GIB:.1f} GiB usable"
        table.add_row(Text(planner.card.name), usable, style="bold")
        for precision in dict.fromkeys((given, "int8-quanto")):
            plans = planner.plans(work, budget, precision, forced)
            fitting = [plan for plan in plans if plan.fits(budget)]
            best = min(fitting or plans, key=lambda plan: plan.step_s)
            table.add_row(*_cells(planner, best, budget, bool(fitting), work, forced))
            if not fitting and precision == given:
                changes = remedies(planner, work, budget, precision, forced)
                advice += [f"{planner.card.name} would do with {change}" for change in changes]
    return table, advice


def _cells(
    planner: Planner, best: TrainingPlan, budget: Budget, fits: bool, work: Workload, forced: Forced
) -> list[str]:
    blocks = planner.sizes.blocks
    largest = planner.largest_batch(work, budget, best.precision, forced) if fits else 0
    return [
        f"  {best.precision}",
        best.way if fits else f"[red]{best.way}\ndoes not fit[/]",
        f"{best.resident}/{blocks}",
        f"{best.checkpointed}/{blocks}",
        f"{best.device_bytes / GIB:.1f}",
        f"{best.host_bytes / GIB:.1f}",
        f"{best.step_s:.1f}",
        str(largest) if fits else "-",
    ]


def _stage_table(
    released: Version,
    shapes: Mapping[str, Any],
    work: Workload,
    recipe: Recipe,
    planners: list[Planner],
    forced: Forced,
) -> Table:
    """The other stages with models: the ways that they can run, and which card takes which."""
    rendering = _rendering(work, recipe)
    table = empty_table(
        {
            "\nstage": "name",
            "\nway": "words",
            "weights\nGiB": "figures",
            "work\nspace": "figures",
            "GPU\nGiB": "figures",
            "\ntaken on": "words",
        },
        f"other stages; renderings of {rendering}",
    )
    cards = [planner.card for planner in planners]
    for stage, ways in (
        ("encode-latents", _encoding(released, shapes, work)),
        ("embed-text", _embedding(released, shapes)),
        ("embed-frames", _teaching(recipe)),
    ):
        if not ways:
            continue
        taken: dict[str, list[str]] = {}
        for card in cards:
            room = (card.vram_gib * GIB - CONTEXT_BYTES) * (1 - RESERVE)
            fitting = [way for way, (weights, space) in ways.items() if weights + space <= room]
            taken.setdefault(fitting[0] if fitting else "", []).append(card.name)
        for way, (weights, space) in ways.items():
            cells = [f"{part / GIB:.1f}" for part in (weights, space, weights + space)]
            names = taken.get(way, [])
            table.add_row(stage, way, *cells, "all" if len(names) == len(cards) else ", ".join(names))
        if "" in taken:
            table.add_row(stage, "[red]fits in no way[/]", "", "", "", ", ".join(taken[""]))
    for planner in planners:
        _add_rendering(table, released, shapes, rendering, recipe, planner, forced)
    return table


def _encoding(released: Version, shapes: Mapping[str, Any], work: Workload) -> dict[str, tuple[float, float]]:
    """Way through the VAE -> bytes of weights and of work space, the fastest way first."""
    channels = released.video_vae["block_out_channels"][0]
    room, weights = VaeRoom(0, channels, 2), 2 * _values(shapes["vae"], "encoder.")
    size = work.frames, work.width, work.height
    ways = ways_from(WAYS[0], *size)
    return {way.name: (weights, room.work_bytes(way, size)) for way in ways}


def _embedding(released: Version, shapes: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    projection = _values(shapes["connectors"], "text_proj_in", "video_text_proj_in", "audio_text_proj_in")
    states = 2 * TEXT_MAX_TOKENS * released.connectors["caption_channels"] * 2
    gemma = released.text_encoder
    layers = 2 * gemma.values / gemma.layers
    return {
        "Gemma resident": (2 * (gemma.values + projection), states * (gemma.layers + 1)),
        "Gemma layer by layer": (2 * (layers + projection), 8 * states),
    }


def _teaching(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """The same of CREPA's teacher; nothing where there is none of a known size."""
    settings = recipe.crepa
    if not settings.crepa_enabled or settings.crepa_encoder not in RELEASED:
        return {}
    teacher = RELEASED[settings.crepa_encoder]
    patches = (settings.crepa_encoder_image_size // PATCH) ** 2 + 1
    return {
        f"{frames} frames at a time": (
            2 * teacher.values,
            teacher_activations_bytes(tokens=patches, width=teacher.width, frames=frames, value_bytes=2),
        )
        for frames in dict.fromkeys((settings.crepa_encoder_batch_size, 1))
    }


def _rendering(work: Workload, recipe: Recipe) -> RenderWorkload:
    """A rendering of the recipe's largest size."""
    size = max(settings_of_renderings(recipe.validation), key=lambda plan: plan.width * plan.height)
    return RenderWorkload(
        size.width,
        size.height,
        size.num_frames,
        size.fps,
        guided=size.guidance > DISTILLED_GUIDANCE,
        text_tokens=TEXT_MAX_TOKENS,
        rank=work.rank,
        targets=work.targets,
        tile_pixels=LARGE_TILES.size,
    )


def _add_rendering(
    table: Table,
    released: Version,
    shapes: Mapping[str, Any],
    rendering: RenderWorkload,
    recipe: Recipe,
    planner: Planner,
    forced: Forced,
) -> None:
    """The plan of a rendering on one card."""
    vae = released.video_vae
    rest = 2 * (_values(shapes["vae"], "") + released.sound_values)
    render_planner = RenderPlanner(planner, vae["decoder_block_out_channels"][0], rest)
    name, budget = planner.card.name, Budget.of(planner.card)
    try:
        plan = render_planner.choose(rendering, budget, _precision(recipe), forced)
    except OverBudget:
        table.add_row("render-validation", "[red]fits in no way[/]", "", "", "", name)
        return
    parts = (plan.weights_bytes, plan.work_bytes, plan.device_bytes)
    cells = [f"{part / GIB:.1f}" for part in parts]
    table.add_row("render-validation", plan.description, *cells, name)


def _precision(recipe: Recipe) -> str:
    """What the rows show first; `auto` would take the most exact one that fits."""
    given = recipe.model.base_model_precision
    return NO_CHANGE if given == AUTO else given


def _values(shapes: Mapping[str, tuple[int, ...]], *prefixes: str) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(prefixes))


def _this_machine(recipe: Recipe) -> list[Card]:
    """The device of this machine within the recipe's budget; a budget alone makes a row of its own."""
    memory = recipe.memory
    ram = memory.ram_gib or psutil.virtual_memory().total / GIB
    if likely_device() == "cuda":
        import torch

        if torch.cuda.is_available():
            found = torch.cuda.get_device_properties(0)
            vram = min(memory.vram_gib or found.total_memory / GIB, found.total_memory / GIB)
            return [card_like(found.name, vram, ram)]
    console.print(f"This machine has no CUDA device and {ram:.0f} GiB of memory: the tiny model trains here.")
    return [card_like("your budget", memory.vram_gib, ram)] if memory.vram_gib else []


def _version(name: str) -> Version:
    if name not in VERSIONS:
        raise typer.BadParameter(f"LTX-2 {name} is not known; give one of {', '.join(VERSIONS)}")
    return VERSIONS[name]


def _card(name: str, ram: float | None) -> Card:
    key = name.lower().replace(" ", "").replace("-", "")
    if key not in CARDS:
        raise typer.BadParameter(f"the card {name!r} is not known; {nearest(key, CARDS)}")
    return CARDS[key] if ram is None else replace(CARDS[key], ram_gib=ram)


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} is no size; write width x height, such as 768x512")
    width, height = int(parts[0]), int(parts[1])
    nearest_size = (GEOMETRY.nearest_edge(width), GEOMETRY.nearest_edge(height))
    if nearest_size != (width, height):
        edge = GEOMETRY.spatial_factor
        raise typer.BadParameter(
            f"{text} is no multiple of {edge}; the nearest is {nearest_size[0]}x{nearest_size[1]}"
        )
    return width, height
