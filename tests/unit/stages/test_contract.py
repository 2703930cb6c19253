"""The stage contract: one place, no cycles, and versions that reach everything downstream."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

import flows.stages
from flows.stages import STAGE_FLOWS
from ltxcore.config.crepa_settings import CrepaSettings
from ltxcore.config.recipe import Recipe
from ltxcore.execution.stage_code import NoPackage, Request, code_of, memory_of, placed_memory_of
from ltxcore.pipeline.base import contract
from ltxcore.pipeline.base.contract import (
    AUDIO,
    BY_NAME,
    FRAMES,
    LATENTS,
    PROBE,
    RENDER,
    STAGES,
    TEXT,
    TRAIN,
    asked_stages,
    stage_named,
    versions,
)
from ltxcore.pipeline.base.stamp import request_fingerprint
from ltxcore.pipeline.base.work import Work
from ltxcore.pipeline.plan.stage_plan import StageMemory, TransformerMemory


def test_stages_come_after_what_they_read() -> None:
    for position, stage in enumerate(STAGES):
        inputs = {*stage.inputs, *stage.inputs_if_asked}
        assert {BY_NAME[name] for name in inputs} <= set(STAGES[:position]), stage.name


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def test_the_package_of_every_stage_has_what_is_asked_of_it() -> None:
    """It is found by its name, so no type checker sees what is missing."""
    for stage in STAGES:
        asked: list[tuple[object, type]] = [(code_of(stage).request, Request)]
        asked += [(memory, StageMemory) for memory in [memory_of(stage)] if memory]
        asked += [(memory, TransformerMemory) for memory in [placed_memory_of(stage)] if memory]
        assert len(asked) == 1 + bool(stage.models) + ("transformer" in stage.models), stage.name
        for module, shape in asked:
            for name in (name for name in vars(shape) if not name.startswith("_")):
                assert parameters(getattr(module, name)) == parameters(getattr(shape, name)), (
                    stage.name,
                    name,
                )
        work = code_of(stage).load_work()
        assert issubclass(work, Work)
        assert work.__module__ == f"{stage.package}.work"


def test_a_stage_without_a_package_is_refused_by_name() -> None:
    with pytest.raises(NoPackage, match=r"measure needs its request.py; set `package`"):
        code_of(replace(PROBE, name="measure", package=""))


def test_every_stage_has_a_flow_that_a_deployment_can_name() -> None:
    assert list(STAGE_FLOWS) == [stage.name for stage in STAGES]
    for stage in STAGES:
        assert getattr(flows.stages, stage.name.replace("-", "_")) is STAGE_FLOWS[stage.name]


def test_what_writes_to_the_store_says_so() -> None:
    """A stage whose results are keys of the store has one writer at a time of the part that it writes."""
    parts = {stage.name: stage.writes for stage in STAGES if stage.writes}
    assert parts == {
        "probe-media": "media",
        "split-audio": "audio",
        "encode-latents": "latents",
        "embed-text": "text",
        "embed-frames": "latents",
    }


def test_a_new_version_makes_everything_downstream_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {stage.name: request_fingerprint(stage, {}) for stage in STAGES}
    monkeypatch.setitem(contract.BY_NAME, AUDIO.name, replace(AUDIO, version="next"))
    stale = {stage.name for stage in STAGES if request_fingerprint(stage, {}) != before[stage.name]}
    assert {LATENTS.name, TRAIN.name, RENDER.name} <= stale
    assert stale.isdisjoint({PROBE.name, TEXT.name, FRAMES.name})
    assert PROBE.name not in versions(RENDER)


def test_the_teachers_features_are_part_of_a_pipeline_with_crepa_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe()
    aligned = recipe.model_copy(update={"crepa": CrepaSettings(crepa_enabled=True)})
    assert set(asked_stages(aligned)) - set(asked_stages(recipe)) == {FRAMES}
    before = request_fingerprint(TRAIN, {})
    monkeypatch.setitem(contract.BY_NAME, FRAMES.name, replace(FRAMES, version="next"))
    assert request_fingerprint(TRAIN, {}) == before, "a training without CREPA has nothing of it in its key"


def test_no_two_stages_hold_gemma_and_the_transformer_together() -> None:
    for stage in STAGES:
        assert not {"text_encoder", "transformer"} <= set(stage.models)


def test_an_unknown_stage_names_the_nearest() -> None:
    with pytest.raises(contract.UnknownStage, match="did you mean `train-lora`"):
        stage_named("train-loras")


def test_what_a_parent_imports_holds_no_torch() -> None:
    code = (
        "import sys, flows.train, flows.embedded\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'peft', 'mlflow'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("stage", "foreign"),
    [
        (
            "train_lora",
            {"ltxcore.models.vae.video_latents", "ltxcore.media.decode", "ltxcore.validation.render"},
        ),
        (
            "encode_latents",
            {"ltxcore.training.loop", "ltxcore.models.text.caption_encoder", "ltxcore.validation.render"},
        ),
        (
            "embed_text",
            {"ltxcore.training.loop", "ltxcore.models.vae.video_latents", "ltxcore.models.predict_velocity"},
        ),
        (
            "embed_frames",
            {
                "ltxcore.training.loop",
                "ltxcore.models.vae.video_latents",
                "ltxcore.models.text.caption_encoder",
            },
        ),
    ],
)
def test_a_stage_does_not_import_what_other_stages_load(stage: str, foreign: set[str]) -> None:
    code = f"import sys, ltxcore.stages.{stage}.work\nassert not {foreign!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
