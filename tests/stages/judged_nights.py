"""A workspace whose trainings judge-lora compares, and what tests do with its nights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.config.promotion_settings import PromotionSettings
from ltxcore.config.recipe import Recipe, load_recipe
from ltxcore.execution.execution import find_result
from ltxcore.execution.runner import open_execution, run_work
from ltxcore.judging.champions import Champions
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.pipeline.base.stamp import Stamp, output_file, stage_directory, write_stamp
from ltxcore.stages.train_lora.request import request as train_lora_request
from tests.shared import made_once
from tests.stages.conftest import TINY, Bench, make_bench

HELD_OUT = """
- id: judged
  dataset_type: video
  instance_data_dir: judged
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 17}
"""
GATE: dict[str, Any] = {"model": "sea", "when": {"loss": "better", "sound_loss": {"not_worse_by": 0.05}}}


def trained(shared: Path, sample_clips: Path, tiny_models: Path) -> Path:
    """Two clips to train on, three held out, and trainings of 2 and of 16 steps: made once in a session."""

    def make(root: Path) -> None:
        bench = make_bench(root, sample_clips, tiny_models)
        (root / "judged").mkdir()
        for kind in ("blue-*", "red-*", "twin.mov*"):
            for file in bench.clips.glob(kind):
                file.rename(root / "judged" / file.name)
        datasets = root / "datasets.yaml"
        datasets.write_text(datasets.read_text() + HELD_OUT)
        bench = Bench(root, with_held_out(bench.recipe))
        bench.prepare()
        for steps in (2, 16):
            run_stage(gated(bench, steps), TRAIN)

    return made_once(shared, "judged-bench", make)


def with_held_out(recipe: Recipe) -> Recipe:
    """The recipe with the clips of one dataset held out."""
    evaluation = EvaluationSettings(eval_datasets=("judged",), eval_sigmas=(0.3, 0.7), eval_step_interval=99)
    return recipe.model_copy(update={"evaluation": evaluation})


def a_night(root: Path, sample_clips: Path, tiny_models: Path) -> Bench:
    """The same in a folder of a test's own."""
    shutil.copytree(trained(tiny_models.parent, sample_clips, tiny_models), root, symlinks=True)
    return Bench(root, with_held_out(load_recipe(TINY)))


def gated(bench: Bench, steps: int = 0, **gate: Any) -> Bench:
    """The bench with a gate, and with a training of so many steps."""
    training = bench.recipe.training
    recipe = bench.recipe.model_copy(
        update={
            "promotion": PromotionSettings.model_validate({**GATE, "min_clips": 3, **gate}),
            "training": training.model_copy(update={"max_train_steps": steps}) if steps else training,
        }
    )
    return Bench(bench.root, recipe)


def run_stage(bench: Bench, stage: Any) -> Stamp:
    """A stage as it is run anywhere, in a run of its own."""
    ctx = bench.ctx
    run = ctx.workspace.run(f"run-{stage.name}")
    execution = open_execution(stage, ctx, run)
    if execution is not None:
        assert isinstance(run_work(execution), Stamp)
    _, stamp = find_result(stage, ctx)
    assert stamp is not None
    return stamp


def training_of(bench: Bench) -> Stamp:
    """The bench's finished training."""
    stamp = find_result(TRAIN, bench.ctx)[1]
    assert stamp is not None
    return stamp


def pretend(bench: Bench, stamp: Stamp, factor: float = 1.0) -> Bench:
    """Let a training have come to another's weights, both factors of each layer that many times as large."""
    ctx = bench.ctx
    request = train_lora_request(ctx)
    directory = stage_directory(ctx.workspace, TRAIN, request)
    files = []
    for file in stamp.outcome.files:
        source = ctx.workspace.root / file.path
        if source.suffix != ".safetensors":
            continue
        with safe_open(source, framework="pt") as opened:
            header = opened.metadata()
        target = directory / "lora" / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor * factor for name, tensor in load_file(source).items()}, target, header)
        files.append(output_file(ctx.workspace, target))
    outcome = stamp.outcome.model_copy(update={"files": tuple(files)})
    write_stamp(ctx.workspace, TRAIN, request, outcome, 0.0, 0)
    return bench


def champions(bench: Bench) -> Champions:
    return Champions(bench.ctx.workspace, "sea")


def verdict(stamp: Stamp) -> str:
    return str(stamp.outcome.facts["verdict"])


def gate_of(bench: Bench, stamp: Stamp) -> list[dict[str, Any]]:
    """The table of a judgement."""
    table: list[dict[str, Any]] = json.loads(
        (bench.ctx.workspace.root / stamp.outcome.files[1].path).read_text()
    )["gate"]
    return table
