"""Training and rendering of sound alone: the gallery has sounds that play."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import yaml

from ltxcore.config.recipe import Recipe
from tests.stages.conftest import Bench
from tests.stages.test_dataset_kinds import audio_set, make_sounds, write_sets
from tests.stages.test_guidance_stages import render, train

TEXT_TO_AUDIO = Path(__file__).parents[2] / "deploy/recipes/text-to-audio.yaml"


def test_sound_alone_is_rendered_and_shown(bench: Bench) -> None:
    make_sounds(bench, long=3.5, two=2.3)
    write_sets(bench, audio_set())
    data = bench.recipe.model_dump()
    # Neither the recipe nor this test says that sound is rendered: that follows from what is trained.
    data["validation"] = {
        **yaml.safe_load(TEXT_TO_AUDIO.read_text())["validation"],
        "validation_num_video_frames": 25,
        "validation_num_inference_steps": 2,
        "validation_guidance": 1,
        "validation_step_interval": 1,
    }
    data["training"] |= {"max_train_steps": 2, "lr_warmup_steps": 0}
    bench = Bench(bench.root, Recipe.model_validate(data))
    bench.prepare()
    train(bench, pause_at=1)
    during = render(replace(bench.ctx, step=1))
    for side in ("base", "lora"):
        assert sound_of(during / f"waves-{side}.mp4") > 0.9
    train(bench)
    gallery = render(bench.ctx)
    assert sound_of(gallery / "steps/step-000001/waves-lora.mp4") > 0.9
    measures = json.loads((gallery / "measures.json").read_text())
    assert measures.keys() == {"waves"}
    for name, found in measures.items():
        for side in ("base", "lora"):
            assert found[side]["brightness"] is None
            assert found[side]["audio_rms_dbfs"] is not None
            assert sound_of(gallery / f"{name}-{side}.mp4") > 0.9
        assert found["differences"] == {"lora": None}
    page = (gallery / "index.html").read_text()
    assert "sound alone" in page
    assert "levels" not in page
    # The base is rendered once: its sound comes back from the store.
    assert render_again(bench) == measures


def render_again(bench: Bench) -> dict[str, object]:
    return dict(json.loads((render(bench.ctx) / "measures.json").read_text()))


def sound_of(path: Path) -> float:
    """Seconds of the sound track."""
    command = ["ffprobe", "-v", "error", "-select_streams", "a", "-show_entries", "stream=duration"]
    shown = subprocess.run([*command, "-of", "csv=p=0", str(path)], check=True, capture_output=True)
    return float(shown.stdout)
