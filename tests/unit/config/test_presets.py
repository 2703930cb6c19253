"""Presets: each is valid by itself and together, and a card's preset trains and renders on that card."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ltxcore.config.arithmetic import resolve_arithmetic
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import load_recipe
from ltxcore.config.recipe_document import PRESETS, presets
from ltxcore.memory.planner.cards import card_like
from ltxcore.memory.planner.render_planner import RenderPlanner, RenderWorkload
from ltxcore.memory.planner.training_planner import Budget
from ltxcore.models.vae.ways import LARGE_TILES
from ltxcore.models.versions import TEXT_MAX_TOKENS, VERSIONS
from ltxcore.pipeline.plan.arrangements import forced_by
from ltxcore.pipeline.plan.transformer_plan import released_planner, workload
from ltxcore.validation.rendering_settings import settings_of_renderings

HOST_GIB = {
    "12gb": 30,
    "16gb": 30,
    "24gb": 46,
    "32gb": 30,
    "48gb": 62,
    "80gb": 62,
    "2x24gb": 94,
    "8x80gb": 250,
}
"""Host memory that each preset names, less what the system takes."""
CARDS = [file.stem for file in sorted((PRESETS / "cards").glob("*.yaml"))]
GOALS = [file.stem for file in sorted((PRESETS / "goals").glob("*.yaml"))]
CLIP_BYTES = 600_000_000
"""The video VAE's and the vocoder's weights while a rendering is decoded, rounded up."""


def written(tmp_path: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_table_of_cards_is_whole() -> None:
    assert set(HOST_GIB) == set(CARDS)
    assert list(presets()) == [*CARDS, *GOALS]


@pytest.mark.parametrize(("card", "goal"), itertools.product(CARDS, GOALS))
def test_every_goal_trains_and_renders_on_every_card(tmp_path: Path, card: str, goal: str) -> None:
    recipe, _ = resolve_arithmetic(load_recipe(written(tmp_path, f"extends: [{goal}, {card}]\n")), "cuda")
    machine = card_like(card, recipe.memory.vram_gib or 0.0, HOST_GIB[card] / recipe.processes.count)
    planner, budget = released_planner("2.0", machine, 2), Budget.of(machine)
    precision = recipe.model.base_model_precision
    forced = forced_by(recipe.memory, planner.sizes.blocks, precision, device="cuda")
    batch = recipe.training.train_batch_size
    assert isinstance(batch, int)
    frames = recipe.validation.validation_num_video_frames or 49
    edge = round((recipe.data.resolution or 512) / 32) * 32
    work = workload(
        recipe,
        batch=batch,
        width=edge,
        height=edge,
        frames=frames,
        fps=25.0,
        audio=True,
        text_tokens=TEXT_MAX_TOKENS,
    )
    plans = planner.plans(work, budget, precision, forced)
    assert any(plan.fits(budget) for plan in plans), [
        (plan.way, f"{plan.device_bytes / 2**30:.1f} and {plan.host_bytes / 2**30:.1f} GiB") for plan in plans
    ]
    size = max(settings_of_renderings(recipe.validation), key=lambda plan: plan.width * plan.height)
    rendering = RenderWorkload(
        size.width,
        size.height,
        size.num_frames,
        size.fps,
        guided=True,
        text_tokens=TEXT_MAX_TOKENS,
        rank=work.rank,
        targets=work.targets,
        tile_pixels=LARGE_TILES.size,
    )
    channels = VERSIONS["2.0"].video_vae["decoder_block_out_channels"][0]
    plan = RenderPlanner(planner, channels, CLIP_BYTES).choose(rendering, budget, precision, forced)
    assert plan.device_bytes <= budget.device_bytes


def test_a_recipe_says_only_what_differs(tmp_path: Path) -> None:
    text = (
        "extends: [character, 24gb]\ntraining:\n  seed: 7\nvalidation:\n  validation_prompts: {a: A cat.}\n"
    )
    recipe = load_recipe(written(tmp_path, text))
    assert recipe.training.seed == 7
    assert recipe.training.max_train_steps == 2000
    assert recipe.memory.vram_gib == 23
    assert recipe.evaluation.export == "best"


def test_a_later_one_wins_and_the_file_over_all(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "extends: [12gb, character]\n")).lora.lora_rank == 32
    assert load_recipe(written(tmp_path, "extends: [character, 12gb]\n")).lora.lora_rank == 16
    text = "extends: [character, 12gb]\nlora: {lora_rank: 4}\n"
    assert load_recipe(written(tmp_path, text)).lora.lora_rank == 4


def test_prompts_are_replaced_and_not_joined(tmp_path: Path) -> None:
    text = "extends: sound\nvalidation:\n  validation_prompts:\n    rain: Rain falls on a tin roof.\n"
    prompts = load_recipe(written(tmp_path, text)).validation.validation_prompts
    assert prompts == {"rain": "Rain falls on a tin roof."}


def test_an_empty_section_takes_nothing_away(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, "extends: 24gb\nmemory:\n"))
    assert recipe.memory.vram_gib == 23


def test_recipes_of_ones_own_are_extended_by_path_also_in_a_chain(tmp_path: Path) -> None:
    written(tmp_path, "extends: 80gb\ntraining: {seed: 5}\n", "base.yaml")
    (tmp_path / "nights").mkdir()
    recipe = load_recipe(written(tmp_path / "nights", "extends: ../base.yaml\nlora: {lora_rank: 8}\n"))
    assert (recipe.memory.vram_gib, recipe.training.seed, recipe.lora.lora_rank) == (78, 5, 8)


def test_what_is_wrong_in_the_extended_recipe_is_told_with_its_name_and_line(tmp_path: Path) -> None:
    written(tmp_path, "training:\n  seed: 5\n  steps: 8\n", "base.yaml")
    with pytest.raises(ConfigError, match=r"base\.yaml:3"):
        load_recipe(written(tmp_path, "extends: base.yaml\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: 24g\n", r"recipe\.yaml:1.*no preset: '24g' .*; did you mean `24gb`"),
        ("\nextends: other.yaml\n", r"recipe\.yaml:2.*no file .*other\.yaml"),
        ("extends: {card: 24gb}\n", r"write the name of a preset"),
        ("extends: recipe.yaml\n", r"would extend itself"),
        ("extends: back.yaml\n", r"back\.yaml:1.*would extend itself"),
    ],
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, text: str, message: str) -> None:
    written(tmp_path, "extends: recipe.yaml\n", "back.yaml")
    with pytest.raises(ConfigError, match=message):
        load_recipe(written(tmp_path, text))
