"""Publishing a finished run: what of it is uploaded, `ltx2 push`, `ltx2 validate`, and the tasks of a run."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from safetensors import safe_open
from typer.testing import CliRunner, Result

from flows.cli.app import app
from ltxcore.jobs.publish.finished_run import open_run
from ltxcore.jobs.publish.publication import publication, publish, read_published
from ltxcore.store.blobs import write_json
from tests.hub_server import FakeHub
from tests.published_run import CAPTION, CLIP, RUN, FinishedRun
from tests.stages.conftest import Bench

COMMIT = "POST /api/models/.*/commit/"


def upload(made: FinishedRun, hub: FakeHub) -> None:
    ctx, run = open_run(made.workspace)
    publish(ctx, run, ctx.recipe.hub, hub.token)


def ltx2_push(made: FinishedRun, *more: str) -> Result:
    return CliRunner().invoke(app, ["push", *more, "--workspace", str(made.workspace.root)])


@pytest.mark.parametrize(
    ("export", "validation", "kind"),
    [("beside", "ema_only", "ema"), ("beside", "comparison", "lora"), ("instead", "comparison", "ema")],
)
def test_the_samples_are_of_the_lora_that_is_published(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str], export: str, validation: str, kind: str
) -> None:
    training = {"use_ema": True, "ema_export": export, "ema_validation": validation}
    upload(FinishedRun(tmp_path, training=training), hub)
    files = hub.repositories["me/my-lora"].files
    videos = {name for name in files if name.startswith("samples/sea-")}
    assert videos == {"samples/sea-base.mp4", f"samples/sea-{kind}.mp4"}


def test_a_run_is_lora_samples_and_card_in_one_commit(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    made = FinishedRun(tmp_path)
    made.train(averaged=True, eval_loss=0.25, eval_loss_base=0.5, exported_step=300)
    upload(made, hub)
    repo = hub.repositories["me/my-lora"]
    assert sorted(repo.files) == [
        "README.md",
        "ltx2_lora_comfyui.safetensors",
        "ltx2_lora_ema_comfyui.safetensors",
        "pytorch_lora_weights.safetensors",
        "pytorch_lora_weights_ema.safetensors",
        "samples/contact-sheet.png",
        "samples/sea-base.mp4",
        "samples/sea-lora.mp4",
        "samples/wood-base.mp4",
        "samples/wood-lora.mp4",
    ]
    assert repo.commits[1:] == [f"Run {RUN}: snapshot {made.snapshot.id}, step 300"]
    card = ModelCard(repo.files["README.md"].decode())
    assert [entry["text"] for entry in card.data.widget] == ["A <sks> sea | at night.", "A sks wood."]
    assert card.data.instance_prompt == "sks"
    assert "| Loss on held-out clips | 0.2500 (the base: 0.5000) |" in card.text
    pushed = read_published(made.run)
    assert pushed is not None
    assert tags == {"hub.repo": "me/my-lora", "hub.commit": repo.sha, "hub.url": pushed.url}
    assert not list(made.run.glob(".hub-*")), "the copies are gone"


def test_nothing_of_the_data_and_the_machine_is_uploaded(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    made = FinishedRun(
        tmp_path, model={"pretrained_model_name_or_path": "tiny", "text_encoder": str(tmp_path)}
    )
    upload(made, hub)
    everything = b"".join(
        name.encode() + content for name, content in hub.repositories["me/my-lora"].files.items()
    )
    for private in (CAPTION, CLIP, str(tmp_path), "datasets.yaml", hub.token):
        assert private.encode() not in everything
    file = tmp_path / "downloaded.safetensors"
    file.write_bytes(hub.repositories["me/my-lora"].files["pytorch_lora_weights.safetensors"])
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["trigger"] == "sks"


def test_samples_of_the_users_captions_stay_here(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    upload(FinishedRun(tmp_path, validation={}), hub)
    files = hub.repositories["me/my-lora"].files
    assert sorted(files) == [
        "README.md",
        "ltx2_lora_comfyui.safetensors",
        "pytorch_lora_weights.safetensors",
    ]
    assert CAPTION not in files["README.md"].decode()
    assert "No samples are uploaded" in caplog.text


def test_the_same_run_again_is_no_commit_and_another_training_is_one(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    made = FinishedRun(tmp_path)
    made.train(averaged=True)
    for _ in range(2):
        upload(made, hub)
    assert hub.count(COMMIT) == 1
    made.train(2.0)
    (made.run / "render-validation.json").unlink()
    upload(made, hub)
    assert hub.count(COMMIT) == 2
    assert sorted(hub.repositories["me/my-lora"].files) == [
        "README.md",
        "ltx2_lora_comfyui.safetensors",
        "pytorch_lora_weights.safetensors",
    ], "what was of the first alone is gone"


def test_a_base_in_a_directory_is_named_by_its_version(tmp_path: Path, bench: Bench) -> None:
    model = bench.root / "workspace/models/tiny-ltx2"
    made = FinishedRun(tmp_path / "other", model={"pretrained_model_name_or_path": str(model)})
    assert publication(*open_run(made.workspace)).facts.base_model == "Lightricks/LTX-2"
    made = FinishedRun(tmp_path / "third", model={"pretrained_model_name_or_path": "me/finetune"})
    assert publication(*open_run(made.workspace)).facts.base_model == "me/finetune"


def test_ltx2_push_uploads_the_newest_run_and_says_where(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    made = FinishedRun(tmp_path, hub={})
    result = ltx2_push(made)
    assert result.exit_code == 2
    assert "say where to: `ltx2 push --hub-model-id my-name/my-lora`" in result.output
    assert "push_to_hub" not in result.output, "the recipe has no such key"
    done = ltx2_push(made, "--hub-model-id", "club/lora", "--public")
    assert done.exit_code == 0, done.output
    assert "club/lora: 8 files sent" in done.output
    assert hub.repositories["club/lora"].commits[-1] == f"Run {RUN}: snapshot {made.snapshot.id}, step 400"
    assert not hub.repositories["club/lora"].private
    again = ltx2_push(made, RUN, "--hub-model-id", "club/lora", "--public")
    assert "club/lora: the hub has all of it already" in again.output
    private = ltx2_push(made, "--hub-model-id", "club/lora")
    assert private.exit_code == 1
    assert "club/lora is public" in private.output


def test_ltx2_push_names_what_is_missing(tmp_path: Path, hub: FakeHub) -> None:
    nowhere = CliRunner().invoke(app, ["push", "--workspace", str(tmp_path / "wrong")])
    assert nowhere.exit_code == 2
    assert "there is no workspace at" in nowhere.output
    assert "has no run other" in ltx2_push(FinishedRun(tmp_path), "other").output


def test_ltx2_push_never_takes_a_run_that_was_cancelled(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    made = FinishedRun(tmp_path)
    cancelled = made.workspace.run("20260203-000000-beef")
    shutil.copytree(made.run, cancelled)
    (cancelled / "parent.json").unlink()
    write_json(made.workspace.runs / "newest.json", {"run": cancelled.name})
    refused = ltx2_push(made, cancelled.name)
    assert refused.exit_code == 2
    assert "has not come to its end" in refused.output
    assert hub.repositories == {}
    done = ltx2_push(made, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["files"] == len(hub.repositories["me/my-lora"].files)
    assert f"Run {RUN}:" in hub.repositories["me/my-lora"].commits[-1]
    (made.run / "parent.json").unlink()
    assert "has no finished run yet" in ltx2_push(made).output


def test_ltx2_push_needs_a_finished_training(tmp_path: Path, hub: FakeHub) -> None:
    made = FinishedRun(tmp_path)
    (made.run / "train-lora.json").unlink()
    assert f"the run {RUN} has no finished training" in ltx2_push(made).output


def test_validate_says_whether_there_is_a_token(
    bench: Bench, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.probe()
    recipe = bench.root / "recipe.json"
    hub_settings = bench.recipe.model_copy(update={"hub": FinishedRun(bench.root / "x").recipe.hub})
    recipe.write_text(hub_settings.model_dump_json())

    def validate() -> Result:
        places = [
            "--workspace",
            str(bench.root / "workspace"),
            "--datasets",
            str(bench.root / "datasets.yaml"),
        ]
        return CliRunner().invoke(app, ["validate", *places, "--recipe", str(recipe)])

    assert validate().exit_code == 0, validate().output
    monkeypatch.delenv("HF_TOKEN")
    result = validate()
    assert result.exit_code == 1
    assert "there is no token of the hub; set HF_TOKEN" in result.output
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids" in validate().output
    assert hub.requests == [], "the hub itself is not asked"


def test_ltx2_push_uploads_nothing_of_a_run_with_a_damaged_file(
    tmp_path: Path, hub: FakeHub, tags: dict[str, str]
) -> None:
    made = FinishedRun(tmp_path)
    (video,) = made.workspace.stages.glob("render-validation/*/sea-lora.mp4")
    whole = video.read_bytes()
    video.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    refused = ltx2_push(made)
    assert refused.exit_code == 1
    assert f"{video} is not what was written" in refused.output
    assert "`ltx2 verify --repair` sets it aside" in refused.output
    assert not hub.repositories
    video.write_bytes(whole)
    assert ltx2_push(made).exit_code == 0
