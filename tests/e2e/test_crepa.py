"""A pipeline with CREPA through Prefect: embed-frames has a process and a run of its own, and runs alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from ltxcore.config.crepa_settings import PROJECTOR_FILE
from ltxcore.config.recipe import load_recipe
from ltxcore.stages.contract import FRAMES, TRAIN, asked_stages
from ltxcore.stages.stamp import read_manifest, read_stamp
from tests.e2e.readme import ROOT
from tests.e2e.test_embedded import ltx2, newest, options
from tests.stages.conftest import DATASETS

pytestmark = pytest.mark.e2e
CLIPS = ("blue-box-up.mp4", "red-disc-right.mp4")


@pytest.fixture
def job(tmp_path: Path, sample_clips: Path) -> dict[str, str]:
    """Two clips, two steps, the tiny model and the tiny teacher."""
    (tmp_path / "clips").mkdir()
    for name in CLIPS:
        for file in sample_clips.glob(f"{Path(name).stem}*"):
            shutil.copy2(file, tmp_path / "clips" / file.name)
    (tmp_path / "datasets.yaml").write_text(DATASETS)
    recipe = yaml.safe_load((ROOT / "deploy/recipes/tiny.yaml").read_text())
    recipe["training"] |= {"max_train_steps": 2, "lr_warmup_steps": 0}
    recipe["validation"] = {"validation_disable": True}
    recipe["crepa"] = {
        "crepa_enabled": True,
        "crepa_encoder": "tiny",
        "crepa_encoder_image_size": 56,
        "crepa_block_index": 1,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "--workspace": str(tmp_path / "workspace"),
        "--datasets": str(tmp_path / "datasets.yaml"),
        "--recipe": str(tmp_path / "recipe.yaml"),
    }


def test_the_teachers_features_are_a_stage_of_the_run(job: dict[str, str], tmp_path: Path) -> None:
    first = ltx2("run", *options(job)).stdout
    workspace, run = newest(job)
    stages = asked_stages(load_recipe(Path(job["--recipe"])))
    assert FRAMES in stages
    entries = {stage.name: read_manifest(run, stage) for stage in stages}
    assert all(entry is not None and not entry.up_to_date for entry in entries.values())
    assert len({entry.process for entry in entries.values() if entry}) == len(stages)
    frames = entries[FRAMES.name]
    assert frames is not None
    assert (frames.counts["done"], frames.counts["quarantined"]) == (2, 0)
    assert "embed-frames" in first
    memory = read_stamp(workspace, frames).outcome.facts["memory"]
    assert 0 < memory["predicted_bytes"] <= memory["budget_bytes"]
    trained = entries[TRAIN.name]
    assert trained is not None
    files = {Path(file.path).name for file in read_stamp(workspace, trained).outcome.files}
    assert PROJECTOR_FILE in files
    assert PROJECTOR_FILE not in first, "the projector is no LoRA that one would load"

    alone = ltx2("stage", "embed-frames", *options(job)).stdout
    assert "up to date, 2 hits" in alone

    chunk = min((workspace.root / "store/latents/teacher").rglob("c.*"))
    chunk.unlink()
    ltx2("stage", "embed-frames", *options(job))
    assert chunk.exists(), "what is gone is made again, and it alone"

    recipe = Path(job["--recipe"])
    recipe.write_text(recipe.read_text().replace("crepa_block_index: 1", "crepa_block_index: 2"))
    refused = ltx2("validate", *options(job), check=False)
    assert refused.returncode == 2
    assert "crepa.crepa_block_index: is 2, but the model's last block is 1" in refused.stderr + refused.stdout
