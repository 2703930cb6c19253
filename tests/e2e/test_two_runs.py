"""Two pipelines at once on one workspace: each piece of work is done once, and both runs complete."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ltxcore.config.recipe import Recipe
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, PROBE, TEXT, TRAIN, asked_stages
from ltxcore.pipeline.base.stamp import ManifestEntry, read_manifest
from ltxcore.store.latents import LatentStore
from ltxcore.store.records import EncodedLatent
from ltxcore.store.workspace import Workspace
from tests.e2e.readme import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1800)]

# Of a recipe without CREPA.
STAGES = asked_stages(Recipe())
CLIPS = ("blue-box-up", "red-disc-right", "purple-box-irregular")
DATASETS = """
- {id: clips, dataset_type: video, instance_data_dir: clips, resolution: 64, resolution_type: pixel,
   video: {num_frames: 17}}
- {id: text, dataset_type: text_embeds}
"""
RECIPE = """
training: {max_train_steps: 3, lr_warmup_steps: 0}
lora: {lora_rank: 4}
validation: {validation_disable: true}
"""


def entries(run: Path) -> dict[str, ManifestEntry]:
    return {stage.name: entry for stage in STAGES if (entry := read_manifest(run, stage)) is not None}


def test_two_runs_at_once_share_the_work_and_both_complete(
    tmp_path: Path, sample_clips: Path, tiny_models: Path
) -> None:
    (tmp_path / "clips").mkdir()
    for name in CLIPS:
        for suffix in (".mp4", ".txt"):
            shutil.copy2(sample_clips / f"{name}{suffix}", tmp_path / "clips")
    shutil.copytree(tiny_models, tmp_path / "workspace" / "models")
    (tmp_path / "datasets.yaml").write_text(DATASETS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    places = {"workspace": "workspace", "datasets": "datasets.yaml", "recipe": "recipe.yaml"}
    options = [word for name, place in places.items() for word in (f"--{name}", str(tmp_path / place))]
    command = [sys.executable, "-m", "flows.cli", "run", *options]
    running = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(outputs)

    workspace = Workspace(tmp_path / "workspace")
    both = [entries(folder) for folder in workspace.runs.iterdir() if folder.is_dir()]
    assert [len(run) for run in both] == [len(STAGES), len(STAGES)]
    for stage in STAGES:
        one, other = (run[stage.name] for run in both)
        assert one.stamp == other.stamp, f"{stage.name} made two results"
        assert not (one.counts["done"] and other.counts["done"]), f"{stage.name} was done twice"
    done = {name: sum(run[name].counts["done"] for run in both) for name in both[0]}
    assert done[PROBE.name] == len(CLIPS)
    assert done[AUDIO.name] == len(CLIPS)
    assert done[LATENTS.name] == 2 * len(CLIPS)
    assert done[TRAIN.name] == 3
    assert done[TEXT.name] == both[0][TEXT.name].counts["captions"]
    rows = [
        (record.array, record.row)
        for _, record in LatentStore(workspace.store).index.items()
        if isinstance(record, EncodedLatent)
    ]
    assert len(rows) == len(set(rows)) == 2 * len(CLIPS)
