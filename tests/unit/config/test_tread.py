"""Routes in the recipe: how they count, what is refused and when, and which keys they are in."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.config.errors import ConfigError
from ltxcore.config.recipe import Recipe
from ltxcore.config.scheduled_sampling_settings import ScheduledSamplingSettings
from ltxcore.config.tread_settings import Route, Span, TreadSettings
from ltxcore.models.files.source import prepare_model
from ltxcore.pipeline.base.context import context_here
from ltxcore.stages.train_lora.checks import check_training
from ltxcore.stages.train_lora.request import techniques
from ltxcore.store.workspace import Workspace

LAYERS = 6


def settings(*routes: tuple[float, int, int]) -> TreadSettings:
    return TreadSettings(
        routes=tuple(Route(selection_ratio=r, start_layer_idx=a, end_layer_idx=b) for r, a, b in routes)
    )


def test_routes_count_from_the_end_as_well() -> None:
    assert settings((0.5, 2, -2)).spans(48) == (Span(2, 46, 0.5),)
    assert settings((0.5, -4, -3), (0.25, 0, 1), (0.1, -1, 5)).spans(LAYERS) == (
        Span(2, 3, 0.5),
        Span(0, 1, 0.25),
        Span(5, 5, 0.1),
    )
    assert not settings((0.0, 0, 5)).enabled
    assert settings((0.0, 0, 1), (0.5, 2, 5)).enabled


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ([(0.5, 0, 6)], r"tread\.routes\.0\.end_layer_idx: is 6, but the model has 6 blocks; give 0 to 5"),
        ([(0.5, 0, 1), (0.5, -7, 3)], r"tread\.routes\.1\.start_layer_idx: is -7, but the model has 6"),
        ([(0.5, 4, -4)], r"tread\.routes\.0\.end_layer_idx: end_layer_idx -4 comes before start_layer_idx 4"),
        ([(0.5, 0, 3), (0.5, 3, 5)], r"tread\.routes\.1\.start_layer_idx: .* overlaps tread\.routes\.0"),
        ([(0.5, 3, 5), (0.5, 0, -2)], r"tread\.routes\.1\.start_layer_idx: .* overlaps tread\.routes\.0"),
    ],
)
def test_routes_that_do_not_fit_the_model_are_refused(
    routes: list[tuple[float, int, int]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(*routes).spans(LAYERS)


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ((1.0, 0, 1), "less than 1"),
        ((-0.1, 0, 1), "greater than or equal to 0"),
        ((0.5, 3, 2), "end_layer_idx 2 comes before start_layer_idx 3"),
        ((0.5, -2, -3), "end_layer_idx -3 comes before start_layer_idx -2"),
    ],
)
def test_routes_that_fit_no_model_are_refused(route: tuple[float, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(route)


def test_what_needs_all_tokens_of_a_block_lies_outside_the_routes() -> None:
    routes = settings((0.5, 1, 3), (0.0, 4, 5))
    for block in (0, 3, 4, 5):
        routes.require_whole(block, LAYERS, "crepa.crepa_block_index")
    for block in (1, 2):
        with pytest.raises(ConfigError, match=r"crepa\.crepa_block_index: is .* \(tread\.routes\.0\)"):
            routes.require_whole(block, LAYERS, "crepa.crepa_block_index")


def test_a_recipe_is_checked_against_model_and_data_before_anything_is_spent(tmp_path: Path) -> None:
    job = Recipe(tread=settings((0.5, 0, 2)))
    ctx = context_here(Workspace(tmp_path), job)
    # Of a model that is not here yet nothing is known.
    check_training(ctx, audio_only=False)
    prepare_model(job.model, ctx.workspace.models)
    with pytest.raises(ConfigError, match=r"tread\.routes\.0\.end_layer_idx: is 2, but the model has 2"):
        check_training(context_here(Workspace(tmp_path), job), audio_only=False)
    fitting = context_here(Workspace(tmp_path), Recipe(tread=settings((0.5, 0, 1))))
    check_training(fitting, audio_only=False)
    with pytest.raises(ConfigError, match=r"tread\.routes: .* sound alone"):
        check_training(fitting, audio_only=True)


def test_routes_and_rollouts_are_in_the_key_of_a_training_only_where_they_do_something() -> None:
    assert techniques(Recipe()) == techniques(Recipe(tread=settings((0.0, 0, 1)))) == {}
    assert techniques(Recipe(tread=settings((0.5, 0, 1)))).keys() == {"tread"}
    idle = ScheduledSamplingSettings(scheduled_sampling_ramp_shape="cosine")
    assert techniques(Recipe(scheduled_sampling=idle)) == {}
    rolling = ScheduledSamplingSettings(scheduled_sampling_max_step_offset=3)
    assert techniques(Recipe(scheduled_sampling=rolling)).keys() == {"scheduled_sampling"}


def test_validate_refuses_routes_for_sound_alone_and_past_the_model(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    kinds = {"audio": "audio: {audio_only: true}", "video": "resolution: 64"}
    prepare_model(Recipe().model, Workspace(tmp_path / "workspace").models)
    for kind, message in (("audio", "tread.routes: "), ("video", "tread.routes.0.end_layer_idx: is 2")):
        datasets, recipe = tmp_path / f"{kind}.yaml", tmp_path / "recipe.yaml"
        datasets.write_text(
            f"- {{id: media, dataset_type: {kind}, instance_data_dir: media, {kinds[kind]}}}\n"
            "- {id: text, dataset_type: text_embeds}\n"
        )
        recipe.write_text("tread: {routes: [{selection_ratio: 0.5, start_layer_idx: 0, end_layer_idx: 2}]}\n")
        options = ["--workspace", str(tmp_path / "workspace"), "--datasets", str(datasets)]
        found = CliRunner().invoke(app, ["validate", *options, "--recipe", str(recipe)])
        assert found.exit_code == 2, found.output
        assert message in found.output
