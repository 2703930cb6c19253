"""`ltx2 run` with `push_to_hub`: refused before anything is spent; what was not uploaded, a rerun uploads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from ltxcore.store.workspace import Workspace
from tests.e2e.readme import ROOT
from tests.hub_server import FakeHub, fake_hub
from tests.stages.conftest import make_bench

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as running:
        yield running


def ltx2(root: Path, hub: FakeHub, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": hub.token,
    }
    words = [sys.executable, "-m", "flows.cli", *command, "--workspace", str(root / "workspace")]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_bad_id_costs_nothing_and_a_rerun_does_nothing_but_upload(
    tmp_path: Path, sample_clips: Path, tiny_models: Path, hub: FakeHub
) -> None:
    bench = make_bench(tmp_path, sample_clips, tiny_models)
    for clip in bench.clips.glob("*"):
        if not clip.name.startswith("blue-box-up"):
            clip.unlink()
    recipe = bench.recipe.model_dump(mode="json")
    recipe["training"]["max_train_steps"] = 2
    recipe["training"]["lr_warmup_steps"] = 0
    recipe["validation"] |= {"validation_num_inference_steps": 2, "validation_step_interval": 0}
    recipe["validation"] |= {"validation_prompts": {"box": "A blue box."}, "validation_resolution": "64x64"}

    def run(repository: str) -> subprocess.CompletedProcess[str]:
        recipe["hub"] = {"push_to_hub": True, "hub_model_id": repository}
        (tmp_path / "recipe.json").write_text(json.dumps(recipe))
        job = ["--datasets", str(tmp_path / "datasets.yaml"), "--recipe", str(tmp_path / "recipe.json")]
        return ltx2(tmp_path, hub, "run", *job)

    refused = run("stranger/lora")
    assert refused.returncode == 1
    assert "who is no member of stranger; write me/…" in refused.stdout
    assert not Workspace(tmp_path / "workspace").stages.exists(), "no stage has begun"

    hub.fail("POST .*/commit/", 403)
    failed = run("my-lora")
    assert failed.returncode == 1
    assert "The LoRA is trained but not on the hub: the hub at" in failed.stdout
    assert "Running again does nothing but the upload" in failed.stdout

    again = run("my-lora")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("up to date") >= 6
    repo = hub.repositories["me/my-lora"]
    assert len(repo.commits) == 2
    assert f"Hub      {hub.url}/me/my-lora/commit/{repo.sha}" in again.stdout
    assert {"samples/box-lora.mp4", "samples/contact-sheet.png"} <= repo.files.keys()
    assert ModelCard(repo.files["README.md"].decode()).data.library_name == "diffusers"

    state = next((tmp_path / "workspace/stages/train-lora").glob("*/mlflow.json"))
    tags = json.loads(state.read_text())["delivered"]["tags"]
    assert (tags["hub.repo"], tags["hub.commit"]) == ("me/my-lora", repo.sha)

    pushed = ltx2(tmp_path, hub, "push")
    assert "me/my-lora: the hub has all of it already" in pushed.stdout, pushed.stdout + pushed.stderr
    assert len(repo.commits) == 2
    _check_no_token(tmp_path / "workspace", hub)


def _check_no_token(workspace: Path, hub: FakeHub) -> None:
    files = [file for file in workspace.rglob("*") if file.is_file()]
    assert len(files) > 50
    assert [file for file in files if hub.token.encode() in file.read_bytes()] == []
