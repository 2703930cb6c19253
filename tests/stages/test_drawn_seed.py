"""`seed: -1`: drawn once for a run and kept with it; retries, stages and resumed runs have the same."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from ltxcore.config.recipe import load_recipe
from ltxcore.execution.drawn_seed import DRAWN_BITS, FILE, FINISHED, expected_seeds, with_seeds
from ltxcore.execution.execution import find_result
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import LATENTS, RENDER, TRAIN, MissingInput, Stage
from ltxcore.store.locks import in_use
from tasks import stage as tasks_stage
from tests.stages.conftest import Bench


def with_open_seeds(bench: Bench, **training: object) -> Bench:
    recipe = bench.recipe
    changed = {
        "training": recipe.training.model_copy(update={"seed": -1, **training}),
        "validation": recipe.validation.model_copy(update={"validation_seed": -1}),
    }
    return Bench(bench.root, recipe.model_copy(update=changed))


def drawn(bench: Bench, run: str) -> tuple[int, int]:
    recipe = with_seeds(bench.ctx, bench.ctx.workspace.run(run)).recipe
    return recipe.training.seed, recipe.validation.validation_seed


def test_a_run_keeps_what_was_drawn_and_the_next_one_draws_anew(bench: Bench) -> None:
    left_open, runs = with_open_seeds(bench), bench.ctx.workspace.runs
    first = drawn(left_open, "one")
    assert all(0 <= seed < 2**DRAWN_BITS for seed in first)
    assert first[0] != first[1]
    assert drawn(left_open, "one") == first, "a retry of the parent, and each of its stages"
    assert drawn(left_open, "two") == first, "the first one has not come to its end, and is taken up"
    assert json.loads((runs / "two" / FILE).read_text())["training"] == first[0]
    assert expected_seeds(left_open.ctx).recipe.training.seed == first[0], "what validate reckons with"
    assert drawn(with_open_seeds(bench, learning_rate=3e-3), "other")[0] != first[0]
    for name in ("one", "two"):
        (runs / name / FINISHED).write_text("{}")
    assert drawn(left_open, "three") != first
    assert drawn(left_open, "two") == first
    assert expected_seeds(with_open_seeds(bench, learning_rate=4e-3).ctx).recipe.training.seed == -1


def test_two_runs_at_once_have_seeds_of_their_own(bench: Bench) -> None:
    left_open, workspace = with_open_seeds(bench), bench.ctx.workspace
    with in_use(workspace.run_lock(workspace.run("one"))):
        first = drawn(left_open, "one")
        assert drawn(left_open, "two") != first
    (workspace.run("broken")).mkdir()
    (workspace.run("broken") / FILE).write_text('{"asked"')
    assert drawn(left_open, "broken"), "what a crash has cut is drawn anew"


def test_the_samples_of_a_step_belong_to_the_training_of_their_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent holds its run's lock while the step is rendered by another process."""
    left_open, workspace = with_open_seeds(bench), bench.ctx.workspace
    run = workspace.run("one")
    with in_use(workspace.run_lock(run)):
        parent = with_seeds(left_open.ctx, run)
        asked: list[Context] = []

        def open_execution(stage: Stage, ctx: Context, *rest: object, **more: object) -> None:
            asked.append(ctx)
            raise MissingInput(stage, "the LoRA", TRAIN)

        monkeypatch.setattr(tasks_stage, "open_execution", open_execution)
        monkeypatch.setattr(tasks_stage, "get_run_logger", lambda: logging.getLogger("test"))
        for step in (0, 5):
            with pytest.raises(MissingInput):
                tasks_stage.open_stage(RENDER, replace(left_open.ctx, step=step), "one")
    assert [ctx.recipe for ctx in asked] == [parent.recipe] * 2


def test_given_seeds_are_left_alone(bench: Bench) -> None:
    run = bench.ctx.workspace.run("given")
    assert with_seeds(bench.ctx, run).recipe == bench.recipe
    assert not run.exists()


def test_the_request_of_a_training_holds_the_drawn_seed_and_latents_have_none(bench: Bench) -> None:
    bench.prepare()
    left_open = with_open_seeds(bench)
    run = bench.ctx.workspace.run("one")
    ctx = with_seeds(left_open.ctx, run)
    assert find_result(TRAIN, ctx)[0]["training"]["seed"] == json.loads((run / FILE).read_text())["training"]
    assert find_result(LATENTS, ctx)[0] == find_result(LATENTS, bench.ctx)[0]


@pytest.mark.parametrize("written", ["-1", "'-1'", "-1.0"])
def test_a_seed_is_left_open_as_people_write_it(tmp_path: Path, written: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"training: {{seed: {written}}}")
    assert load_recipe(file).training.seed == -1
    (tmp_path / "config.json").write_text(json.dumps({"max_train_steps": 5, "seed": written.strip("'")}))
    assert load_recipe(tmp_path / "config.json").training.seed == -1
    file.write_text("training: {seed: -2}")
    with pytest.raises(ValueError, match="greater than or equal to -1"):
        load_recipe(file)
