"""The whole pipeline from one combined file: plain, and scaled in the file and quantised in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltxcore.config.model_settings import ModelSettings
from ltxcore.execution.memory_plans import plan_stage
from ltxcore.models.errors import ModelError
from ltxcore.models.files.combined import Storage
from ltxcore.models.files.combined_writer import write_combined
from ltxcore.models.files.source import resolve_model
from ltxcore.pipeline.base.contract import TRAIN
from ltxcore.stages.train_lora.request import request as train_lora_request
from tests.stages.conftest import Bench
from tests.stages.test_training_stage import render, train


def combined_bench(bench: Bench, storage: Storage, **model: str) -> Bench:
    """The same clips with a combined file for a model, and Gemma from the tiny model's directory."""
    tiny = resolve_model(ModelSettings(), bench.ctx.workspace.models)
    file = bench.root / f"tiny-{storage}.safetensors"
    if not file.exists():
        write_combined(tiny, file, storage)
    settings = ModelSettings(pretrained_model_name_or_path=str(file), text_encoder=str(tiny.root), **model)
    training = bench.recipe.training.model_copy(update={"max_train_steps": 2})
    validation = bench.recipe.validation.model_copy(
        update={
            "validation_prompts": {"box": "A blue box."},
            "validation_num_inference_steps": 2,
            "validation_num_video_frames": 9,
        }
    )
    return Bench(
        bench.root,
        bench.recipe.model_copy(update={"model": settings, "training": training, "validation": validation}),
    )


@pytest.mark.parametrize(("storage", "precision"), [("bf16", "no_change"), ("fp4", "int8-quanto")])
def test_the_pipeline_runs_from_a_combined_file(bench: Bench, storage: Storage, precision: str) -> None:
    given = combined_bench(bench, storage, base_model_precision=precision, text_encoder_1_precision=precision)
    given.prepare()
    gallery = render_after_training(given)
    measures = json.loads((gallery / "measures.json").read_text())
    assert measures["box"]["differences"]["lora"] > 0, "the LoRA must change the picture"
    kept = sorted(
        p.name.split("-")[0] for p in (given.ctx.workspace.models / "quantised").glob("*.safetensors")
    )
    assert kept == ([] if precision == "no_change" else ["text_encoder", "transformer"])


def render_after_training(bench: Bench) -> Path:
    directory = train(bench)
    assert len((directory / "metrics.jsonl").read_text().splitlines()) == 2
    assert len(list((directory / "lora").glob("*.safetensors"))) == 2
    return render(bench)


def test_storage_and_precision_change_what_is_trained_and_embedded_but_no_latent(bench: Bench) -> None:
    plain, scaled = combined_bench(bench, "bf16"), combined_bench(bench, "fp8")
    plain.probe()
    plain.split()
    assert plain.encode() == {"video": 5, "audio": 4}
    assert scaled.encode() == {"video": 0, "audio": 0}
    assert plain.embed() > 0
    assert scaled.embed() == 0
    quantised = combined_bench(bench, "bf16", text_encoder_1_precision="int8-quanto")
    assert quantised.embed() > 0
    requests = [
        train_lora_request(b.ctx)["transformer"]
        for b in (plain, scaled, combined_bench(bench, "bf16", base_model_precision="int8-quanto"))
    ]
    assert len(set(requests)) == 3


def test_a_plan_counts_the_weights_of_either_layout_as_they_are_held(bench: Bench) -> None:
    bench.probe()
    plans = [
        plan_stage(b.ctx, TRAIN) for b in (bench, combined_bench(bench, "bf16"), combined_bench(bench, "fp4"))
    ]
    assert len({plan.weights_bytes for plan in plans}) == 1
    assert len({plan.adapter_bytes for plan in plans}) == 1
    small = plan_stage(combined_bench(bench, "bf16", base_model_precision="int4-quanto").ctx, TRAIN)
    assert small.weights_bytes < 0.7 * plans[0].weights_bytes


def test_a_damaged_file_stops_a_stage_before_it_loads(bench: Bench) -> None:
    given = combined_bench(bench, "bf16")
    given.probe()
    file = bench.root / "tiny-bf16.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="is cut short"):
        train_lora_request(given.ctx)
