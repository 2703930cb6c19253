"""The whole pipeline on a version that differs from the usual tiny one, one of them made up."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ltxcore.models.files.source import ModelSource
from ltxcore.models.tiny.model import write_tiny
from ltxcore.models.versions import VERSIONS
from ltxcore.training.metrics import read_metrics
from tests.stages.conftest import Bench
from tests.stages.test_guidance_stages import render, train, with_section
from tests.stages.test_prompt_keyframes import picture
from tests.unit.validation.diffusion_decoders import tiny_decoder, write_decoder
from tests.unit.validation.upsamplers import tiny_upsampler, write_folder

# Wider streams, ungated, the newest's marker and text encoder.
MADE_UP = replace(
    VERSIONS["2.5"],
    name="9.9",
    transformer={
        **VERSIONS["2.0"].transformer,
        "num_attention_heads": 40,
        "cross_attention_dim": 5120,
        "audio_attention_head_dim": 80,
        "audio_cross_attention_dim": 2560,
        "caption_channels": 3200,
        "use_keyframes_abs_pos_embedding": True,
    },
    connectors=VERSIONS["2.0"].connectors,
    vocoder=VERSIONS["2.0"].vocoder,
    classes=VERSIONS["2.0"].classes,
)


@pytest.mark.parametrize("version", ["2.5", "9.9"])
def test_every_stage_runs_on_it(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setitem(VERSIONS, "9.9", MADE_UP)
    root = tmp_path_factory.mktemp("model") / "tiny"
    write_tiny(root, version)
    bench = on_model(bench, root)
    source = bench.ctx.source
    # Its own upsampler and diffusion decoder are found, without a key that names them.
    write_folder(tiny_upsampler(source), root)
    write_decoder(tiny_decoder(source), root)
    bench = with_section(
        bench,
        "validation",
        upscale=2,
        decoder="diffusion",
        validation_prompts={"disc": "A red disc."},
        validation_keyframes={
            "disc": {0: picture(bench.root / "a.png", "red"), -1: picture(bench.root / "b.png", "blue")}
        },
    )
    bench = with_section(
        bench, "conditioning", video={"conditions": [{"type": "keyframes", "at": [0, 8, -1]}]}
    )
    bench.prepare()
    assert source.version.name == version
    shapes = source.shapes("transformer")
    assert shapes["proj_in.weight"] == ((80, 16) if version == "9.9" else (64, 16))
    assert "keyframes_abs_pos_embedding" in shapes
    directory, stamp = train(with_section(bench, "training", max_train_steps=2, lr_warmup_steps=0))
    assert stamp is not None
    assert stamp.outcome.counts["steps"] == 2
    bench = with_section(bench, "training", max_train_steps=2, lr_warmup_steps=0)
    gallery = render(bench.ctx)
    measures = json.loads((gallery / "measures.json").read_text())
    assert all(found["lora"]["brightness"] is not None for found in measures.values())
    page = (gallery / "index.html").read_text()
    assert "128x128" in page
    assert "diffusion" in page
    assert (directory / "lora").is_dir()


def test_the_first_frame_s_marker_reaches_training_held_out_loss_and_samples(
    bench: Bench, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    """All three differ for a model whose marker is nothing."""
    shutil.copytree(tinies["2.5"].root, tmp_path / "unmarked")
    (file,) = (tmp_path / "unmarked/transformer").glob("*.safetensors")
    tensors = load_file(file)
    tensors["keyframes_abs_pos_embedding"].zero_()
    save_file(tensors, file, {"format": "pt"})
    found = []
    for root in (tinies["2.5"].root, tmp_path / "unmarked"):
        given = on_model(bench, root)
        given = with_section(given, "training", max_train_steps=2, lr_warmup_steps=0)
        given = with_section(given, "evaluation", eval_share=0.5, eval_step_interval=2)
        given.prepare()
        directory, stamp = train(given)
        assert stamp is not None
        losses = [metrics.loss for metrics in read_metrics(directory / "metrics.jsonl")]
        measures = json.loads((render(given.ctx) / "measures.json").read_text())
        brightness = [sides["base"]["brightness"] for sides in measures.values()]
        found.append((losses[0], stamp.outcome.facts["eval_loss_base"], brightness))
    assert all(marked != unmarked for marked, unmarked in zip(*found, strict=True))


def on_model(bench: Bench, root: Path) -> Bench:
    """The bench on another model, with as little to render as tells anything."""
    data = bench.recipe.model_dump()
    data["model"]["pretrained_model_name_or_path"] = str(root)
    data["validation"] |= {
        "validation_num_video_frames": 9,
        "validation_num_inference_steps": 2,
        "validation_resolution": "64x64",
    }
    return Bench(bench.root, type(bench.recipe).model_validate(data))
