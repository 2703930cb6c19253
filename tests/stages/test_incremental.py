"""What is computed again after each kind of change: every line is counted, none is guessed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ltxcore.config.recipe import Recipe
from ltxcore.execution.execution import find_result
from ltxcore.jobs.explain.explain import explain_clip, explain_stages
from ltxcore.models.files.encoders import encoder_weights
from ltxcore.models.files.source import ModelSource, prepare_model
from ltxcore.models.tiny.model import write_tiny
from ltxcore.pipeline.base.context import context_here
from ltxcore.pipeline.base.contract import AUDIO, LATENTS, PROBE, TEXT
from tests.stages.conftest import DATASETS, Bench

NOTHING = (0, {"video": 0, "audio": 0}, 0)


def rerun(bench: Bench) -> tuple[int, dict[str, int], int]:
    """Sounds split, latents encoded, texts embedded."""
    bench.probe()
    return bench.split(), bench.encode(), bench.embed()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """Eight clips of different content, with everything that training needs. Copy before changing it."""
    root = tmp_path_factory.mktemp("prepared")
    (root / "datasets.yaml").write_text(DATASETS)
    (root / "clips").mkdir()
    for number in range(8):
        clip = root / "clips" / f"clip-{number:02d}.mp4"
        clip.write_bytes((sample_clips / "red-disc-right.mp4").read_bytes() + free_box(number))
        clip.with_suffix(".txt").write_text(f"clip {number}")
    shutil.copytree(tiny_models, root / "workspace" / "models")
    bench = Bench(root, Recipe())
    bench.prepare()
    return bench


def free_box(number: int) -> bytes:
    """Bytes at the end of an MP4 that players pass over."""
    return (12).to_bytes(4, "big") + b"free" + f"{number:04d}".encode()


@pytest.fixture
def many(prepared: Bench, tmp_path: Path) -> Bench:
    """A copy of the eight prepared clips and their workspace."""
    shutil.copytree(prepared.root, tmp_path / "many")
    bench = Bench(tmp_path / "many", prepared.recipe)
    bench.probe()
    return bench


def test_nothing_changed_is_nothing_done(many: Bench) -> None:
    assert rerun(many) == NOTHING


def test_one_of_many_replaced_by_another_of_its_name(many: Bench) -> None:
    clip = many.clips / "clip-07.mp4"
    clip.write_bytes(clip.read_bytes() + free_box(99))
    report = explain_clip(many.ctx, "clips/clip-07.mp4")
    assert report.verdict == "in"
    assert report.work[0] == "probe-media: the file was changed since it was looked at"
    assert {line.partition(",")[2].strip() for line in report.work[1:]} == {"changed: the file's content"}
    assert rerun(many) == (1, {"video": 1, "audio": 1}, 0)
    assert rerun(many) == NOTHING


def test_a_caption_edited_is_one_text_and_no_encode(many: Bench) -> None:
    (many.clips / "clip-07.txt").write_text("something else")
    assert explain_clip(many.ctx, "clip-07.mp4").work == [
        f"probe-media: its plan differs from the one in snapshot {many.ctx.snapshot.id}",
        "embed-text: text features, new: nothing was made of it before",
    ]
    assert rerun(many) == (0, {"video": 0, "audio": 0}, 1)


def test_a_clip_renamed_or_moved_is_nothing(many: Bench) -> None:
    (many.clips / "clip-07.mp4").rename(many.clips / "renamed.mp4")
    (many.clips / "clip-07.txt").rename(many.clips / "renamed.txt")
    (many.clips / "deeper").mkdir()
    for name in ("clip-05.mp4", "clip-05.txt"):
        (many.clips / name).rename(many.clips / "deeper" / name)
    assert rerun(many) == NOTHING
    gone = explain_clip(many.ctx, "clips/renamed.mp4")
    assert (gone.verdict, gone.work) == ("in", [])


def test_a_touched_clip_and_one_more_clip(many: Bench) -> None:
    (many.clips / "clip-07.mp4").touch()
    touched = explain_clip(many.ctx, str(many.clips / "clip-07.mp4"))
    assert touched.work == ["probe-media: the file was touched or moved; its content is the same"]
    shutil.copy2(many.clips / "clip-07.mp4", many.clips / "twin.mp4")
    (many.clips / "twin.txt").write_text("clip 7")
    assert rerun(many) == NOTHING


def test_another_extension_is_a_sample_of_its_own(many: Bench, sample_clips: Path) -> None:
    shutil.copy2(sample_clips / "twin.mov", many.clips / "clip-07.mov")
    (many.clips / "clip-07.mov.txt").write_text("clip 7")
    assert rerun(many) == (1, {"video": 1, "audio": 1}, 0)
    assert {s.id for s in many.ctx.snapshot.samples} >= {"clips/clip-07.mov", "clips/clip-07.mp4"}
    (many.clips / "clip-07.mp4").rename(many.clips / "clip-07.m4v")
    assert rerun(many) == NOTHING, "the same content under another extension"


def test_another_learning_rate_rank_or_prompt_is_no_encode(many: Bench) -> None:
    recipe = many.recipe.model_copy(
        update={
            "training": many.recipe.training.model_copy(update={"learning_rate": 3e-5, "max_train_steps": 9}),
            "lora": many.recipe.lora.model_copy(update={"lora_rank": 32}),
        }
    )
    changed = Bench(many.root, recipe)
    assert rerun(changed) == NOTHING
    validation = recipe.validation.model_copy(update={"validation_prompts": {"one": "a prompt of its own"}})
    prompted = Bench(many.root, recipe.model_copy(update={"validation": validation}))
    assert rerun(prompted) == (0, {"video": 0, "audio": 0}, 1)


def test_stages_are_explained_for_the_snapshot_that_a_run_would_make(many: Bench) -> None:
    file = many.root / "datasets.yaml"
    file.write_text(file.read_text().replace("num_frames: 17", "num_frames: 17, frame_rate: 16"))
    stages = {report.stage: report for report in explain_stages(many.ctx)}
    frames = "the frames shown (frame rate, number, or their times)"
    assert stages[LATENTS.name].why[1] == f"8 video latents: changed: {frames}"
    assert len(stages[TEXT.name].why) == 1, "no text"
    asked = context_here(many.ctx.workspace, many.recipe, file, many.ctx.snapshot.id)
    of_that_one = {report.stage: report for report in explain_stages(asked)}
    assert len(of_that_one[LATENTS.name].why) == 1, "of a snapshot by its id, nothing is to be encoded"


def test_another_vae_encodes_all_latents_and_no_text(bench: Bench, tmp_path: Path) -> None:
    bench.prepare()
    write_tiny(tmp_path / "other", seed=1)
    tiny = bench.ctx.source.root
    shutil.copytree(tiny, tmp_path / "mixed")
    for part in ("vae", "audio_vae"):
        shutil.rmtree(tmp_path / "mixed" / part)
        shutil.copytree(tmp_path / "other" / part, tmp_path / "mixed" / part)
    model = bench.recipe.model.model_copy(update={"pretrained_model_name_or_path": str(tmp_path / "mixed")})
    changed = Bench(bench.root, bench.recipe.model_copy(update={"model": model}))
    stages = {report.stage: report for report in explain_stages(changed.ctx)}
    assert stages[LATENTS.name].why[1:] == [
        "5 video latents: changed: VAE fingerprint",
        "4 audio latents: changed: VAE fingerprint",
    ]
    report = explain_clip(changed.ctx, "twin.mov")
    assert "encode-latents: video latents, changed: VAE fingerprint" in report.work
    assert rerun(changed) == (0, {"video": 5, "audio": 4}, 0)
    # Back again: what was encoded before is still there.
    assert rerun(bench) == NOTHING


def test_moving_on_to_a_version_with_the_same_encoders_encodes_no_latent(
    bench: Bench, tinies: dict[str, ModelSource], tmp_path: Path
) -> None:
    """As from 2.3 to 2.5: other decoders, another vocoder and another text encoder, the same encoders."""
    older = tinies["2.3"].root
    newer = tmp_path / "newer"
    shutil.copytree(tinies["2.5"].root, newer)
    for part in ("vae", "audio_vae"):
        (kept,) = tinies["2.3"].weight_files(part)
        (file,) = (newer / part).glob("*.safetensors")
        encoders = encoder_weights(load_file(kept))
        save_file(load_file(file) | encoders, file, {"format": "pt"})

    def on(root: Path) -> Bench:
        model = bench.recipe.model.model_copy(update={"pretrained_model_name_or_path": str(root)})
        return Bench(bench.root, bench.recipe.model_copy(update={"model": model}))

    on(older).prepare()
    assert on(older).ctx.source.fingerprint("vae") != on(newer).ctx.source.fingerprint("vae")
    _, encoded, embedded = rerun(on(newer))
    assert encoded == {"video": 0, "audio": 0}
    assert embedded > 0, "another text encoder makes other features"
    stages = {report.stage: report for report in explain_stages(on(newer).ctx)}
    assert len(stages[LATENTS.name].why) == 1, "no latent is to be encoded"


def test_two_workspaces_share_one_store(bench: Bench, tmp_path: Path, bucket: str) -> None:
    """On S3: the second workspace encodes nothing, and asks for nothing twice."""
    bench.ctx.workspace.use_store(bucket)
    bench.prepare()
    other = Bench(tmp_path / "second", bench.recipe)
    other.root.mkdir()
    (other.root / "datasets.yaml").write_text(DATASETS)
    shutil.copytree(bench.clips, other.clips)
    prepare_model(other.recipe.model, other.ctx.workspace.models)
    other.ctx.workspace.use_store(bucket)
    assert rerun(other) == NOTHING
    assert find_result(AUDIO, other.ctx)[1] is None, "a workspace has its own stamps"
    assert not (other.root / "workspace/store").exists()


def test_a_fresh_workspace_says_of_each_stage_what_it_waits_for(bench: Bench) -> None:
    before = {report.stage: report for report in explain_stages(bench.ctx)}
    assert (before[PROBE.name].state, before[PROBE.name].why) == ("stale", ["first run"])
    assert before[TEXT.name].state == "waits"
    assert "run the stage probe-media first" in before[TEXT.name].why[0]
