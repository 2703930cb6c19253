"""Precisions that a recipe leaves open: float32 on a CPU, bf16 on a GPU, and what that makes again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.config.arithmetic import resolve_arithmetic
from ltxcore.config.recipe import Recipe
from ltxcore.jobs.explain.explain import explain_clip
from ltxcore.memory import device
from ltxcore.models.text.caption_encoder import CaptionEncoder, TextFeatures
from ltxcore.pipeline.base import context
from ltxcore.pipeline.base.context import Context, context_here
from ltxcore.stages.embed_text.request import request as embed_text_request
from ltxcore.stages.encode_latents.work import plan_batches as encode_latents_plan_batches
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.store.latents import LatentStore
from ltxcore.store.workspace import Workspace
from tests.stages.conftest import Bench


def left_open(bench: Bench) -> Bench:
    data = bench.recipe.model_dump()
    del data["encode"]["vae_dtype"], data["training"]["mixed_precision"], data["model"]["text_encoder_dtype"]
    return Bench(bench.root, Recipe.model_validate(data))


def on(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(context, "likely_device", lambda: kind)


def test_what_is_asked_for_is_never_changed() -> None:
    asked = Recipe.model_validate(
        {
            "encode": {"vae_dtype": "bf16"},
            "model": {"text_encoder_dtype": "bf16"},
            "training": {"mixed_precision": "bf16"},
        }
    )
    assert resolve_arithmetic(asked, "cpu") == (asked, "")


def test_a_context_decides_nothing_by_itself(tmp_path: Path) -> None:
    """Its keys would hold the word `auto`."""
    with pytest.raises(
        ValueError, match=r"leaves encode.vae_dtype, model.text_encoder_dtype, training.*open"
    ):
        Context(Workspace(tmp_path), Recipe())
    assert context_here(Workspace(tmp_path)).recipe.model.text_encoder_dtype in ("fp32", "bf16")


def test_quantised_gemma_keeps_the_type_that_it_is_quantised_for() -> None:
    quantised, _ = resolve_arithmetic(
        Recipe.model_validate({"model": {"text_encoder_1_precision": "int8-quanto"}}), "cpu"
    )
    assert quantised.model.text_encoder_dtype == "bf16"
    assert resolve_arithmetic(Recipe(), "cpu")[0].model.text_encoder_dtype == "fp32"
    assert resolve_arithmetic(Recipe(), "cuda")[0].model.text_encoder_dtype == "bf16"


def test_a_machine_is_judged_by_its_driver_and_its_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    for build, drivers, expected in (
        ("2.11.0+cpu", ("/dev/null",), "cpu"),
        ("2.11.0", ("/dev/null",), "cuda"),
        ("2.11.0+cu130", ("/dev/no-such-driver",), "cpu"),
    ):
        monkeypatch.setattr(device.metadata, "version", lambda name, build=build: build)
        monkeypatch.setattr(device, "_DRIVERS", drivers)
        device.device_here.cache_clear()
        assert device.likely_device() == expected
    device.device_here.cache_clear()


def test_latents_of_a_cpu_are_made_again_by_a_training_in_bf16_and_the_reason_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = left_open(bench)
    on(monkeypatch, "cpu")
    bench.look()
    bench.split()
    made = bench.encode()["video"]
    assert made == 5
    assert bench.ctx.recipe.encode.vae_dtype == "fp32"
    assert train_lora_request(bench.ctx)["training"]["mixed_precision"] == "no"
    assert bench.encode()["video"] == 0
    on(monkeypatch, "cuda")
    ctx = bench.ctx
    assert train_lora_request(ctx)["training"]["mixed_precision"] == "bf16"
    again = encode_latents_plan_batches(ctx, LatentStore(ctx.store))
    assert sum(len(batch.samples) for batch in again) == made
    why = " ".join(explain_clip(ctx, "red-disc-right.mp4").work)
    assert why.count("the VAE's dtype") == 2, "of the pictures and of the sound"
    assert bench.encode()["video"] == made


def test_captions_that_gemma_read_on_a_cpu_are_read_again_in_bf16_and_the_reason_is_said(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[torch.dtype] = []
    encode = CaptionEncoder.encode

    def watched(self: CaptionEncoder, captions: Sequence[str]) -> list[TextFeatures]:
        weights = [*self._text_model.parameters(), *self._extractor.parameters()]
        computed.extend({weight.dtype for weight in weights})
        return encode(self, captions)

    monkeypatch.setattr(CaptionEncoder, "encode", watched)
    bench = left_open(bench)
    on(monkeypatch, "cpu")
    bench.look()
    made = bench.embed()
    assert made > 0
    assert computed == [torch.float32]
    assert embed_text_request(bench.ctx)["text_encoder_dtype"] == "fp32"
    assert bench.embed() == 0
    asked = bench.ctx.recipe
    on(monkeypatch, "cuda")
    ctx = bench.ctx
    assert "text_encoder_dtype" not in embed_text_request(ctx), "bf16 has the keys that it always had"
    assert "the text encoder's dtype" in " ".join(explain_clip(ctx, "red-disc-right.mp4").work)
    assert bench.embed() == made
    assert computed == [torch.float32, torch.bfloat16]
    # What was decided is told once, also where a run has changed the recipe since.
    assert bench.ctx.with_recipe(asked).decided.startswith("encode.vae_dtype is bf16, model.text_encoder")


def test_explain_names_what_was_decided(bench: Bench) -> None:
    bench = left_open(bench)
    bench.look()
    result = CliRunner().invoke(
        app,
        [
            "explain",
            *("--workspace", str(bench.root / "workspace")),
            *("--datasets", str(bench.root / "datasets.yaml")),
        ],
    )
    assert (
        "encode.vae_dtype is fp32, model.text_encoder_dtype is fp32 and training.mixed_precision is no"
        in " ".join(result.stdout.split())
    )
    assert "no GPU" in result.stdout
