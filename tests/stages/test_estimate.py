"""ltx2 validate: counts from the memo, bytes from shapes, times from stamps, and exit codes."""

from __future__ import annotations

import os
import shutil
import struct
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from flows.cli.answer import size
from flows.cli.app import app
from ltxcore.jobs.estimate.estimate import MOST_HEADERS, Estimate, estimate
from ltxcore.jobs.estimate.figures import StageEstimate
from ltxcore.pipeline.base.contract import LATENTS, RENDER, TRAIN
from ltxcore.pipeline.base.progress import duration
from ltxcore.pipeline.base.stamp import Outcome, output_file, request_fingerprint, write_stamp
from ltxcore.pipeline.data.keys import waveform_key
from ltxcore.pipeline.plan.transformer_plan import workload_of
from ltxcore.stages.encode_latents.request import request as encode_latents_request
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.stages.render_validation.request import request as render_validation_request
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.training import Training
from ltxcore.store.latents import LatentStore
from ltxcore.store.waveforms import WaveformStore
from ltxcore.training.targets import default_targets
from tests.stages.conftest import DATASETS, Bench
from tests.unit.media.files import tone


def of(found: Estimate, name: str) -> StageEstimate:
    return next(stage for stage in found.stages if stage.stage.name == name)


def validate(bench: Bench, *more: str) -> Result:
    root = bench.root
    places = ["--workspace", str(root / "workspace"), "--datasets", str(root / "datasets.yaml")]
    return CliRunner().invoke(app, ["validate", *places, *more])


def test_before_anything_has_run_headers_tell_what_the_probe_would(bench: Bench) -> None:
    found = estimate(bench.ctx)
    assert (found.files, found.looked_at, found.headers) == (5, 5, 5)
    assert not (bench.ctx.workspace.root / "snapshots").exists(), "nothing is written"
    bench.look()
    after = estimate(bench.ctx)
    assert after.headers == 0
    assert (of(found, "probe-media").to_do, of(after, "probe-media").to_do) == (5, 0)
    for name in ("split-audio", "encode-latents", "embed-text", "train-lora", "render-validation"):
        before, now = of(found, name), of(after, name)
        assert (before.to_do, before.disk_bytes) == (now.to_do, now.disk_bytes), name
        assert before.seconds is not None, name
    assert found.seconds is not None


def test_of_many_files_some_headers_speak_for_all(bench: Bench, sample_clips: Path) -> None:
    for number in range(3 * MOST_HEADERS):
        (bench.clips / f"more-{number:02}.mp4").write_bytes((sample_clips / "twin.mp4").read_bytes())
        (bench.clips / f"more-{number:02}.txt").write_text(f"clip {number}")
    found = estimate(bench.ctx)
    assert found.headers <= MOST_HEADERS
    assert found.files == 5 + 3 * MOST_HEADERS
    assert of(found, "encode-latents").to_do == pytest.approx(9 + 6 * MOST_HEADERS, rel=0.15)
    assert any("of the files" in note for note in of(found, "encode-latents").notes)


def test_what_is_counted_adds_up_before_and_after_the_probe(bench: Bench) -> None:
    sizes = {"validation_resolution": "64x64,96x64", "validation_using_datasets": False}
    validation = bench.recipe.validation.model_copy(update=sizes)
    bench = Bench(bench.root, bench.recipe.model_copy(update={"validation": validation}))
    (bench.clips / "strange.xyz").write_text("x")
    (bench.clips / "out.mp4").symlink_to("/etc/hostname")
    (bench.clips / "alone.txt").write_text("a caption without a clip")
    before = estimate(bench.ctx)
    assert (before.files, before.looked_at, before.taken, before.rejected) == (8, 8, 5, 3)
    snapshot, _ = bench.probe()
    after = estimate(bench.ctx)
    assert (after.files, after.looked_at, after.taken, after.rejected) == (8, 8, 5, 3)
    assert after.files == len(snapshot.samples) + len(snapshot.rejections)
    assert "8 files, 8 looked at: 5 taken, 3 rejected" in validate(bench).output
    assert of(before, "render-validation").to_do == of(after, "render-validation").to_do
    shutil.copy(bench.clips / "twin.mp4", bench.clips / "new.mp4")
    (bench.clips / "new.txt").write_text("one more")
    partly = estimate(bench.ctx)
    assert (partly.files, partly.looked_at, partly.headers, partly.rejected) == (9, 9, 1, 3)


def test_bytes_are_those_that_are_written(bench: Bench) -> None:
    length = {"max_train_steps": 0, "num_train_epochs": 1, "lr_warmup_steps": 0}
    training = bench.recipe.training.model_copy(update=length)
    bench = Bench(bench.root, bench.recipe.model_copy(update={"training": training}))
    bench.look()
    before = estimate(bench.ctx)
    assert (of(before, "split-audio").to_do, of(before, "encode-latents").to_do) == (4, 9)

    bench.split()
    bench.encode()
    bench.embed()
    ctx = bench.ctx
    waveforms, latents, spaces = (
        WaveformStore(ctx.store),
        LatentStore(ctx.store),
        spaces_of(ctx, LatentStore(ctx.store)),
    )
    sounds = [waveform_key(s.media_id, s.audio).value for s in ctx.snapshot.samples if s.audio]
    assert of(before, "split-audio").disk_bytes == sum(waveforms.read(key).nbytes for key in sounds)
    keys = [key for sample in ctx.snapshot.samples for key in spaces.keys(sample)]
    assert of(before, "encode-latents").disk_bytes == sum(latents.read(key).nbytes for key in keys)
    after = estimate(ctx)
    assert [of(after, name).to_do for name in ("split-audio", "encode-latents", "embed-text")] == [0, 0, 0]
    assert of(after, "encode-latents").in_place == 9

    directory = ctx.workspace.stages / "train-lora" / "here"
    run = Training(ctx, directory, train_lora_request(ctx), "cpu")
    result = run.run(lambda metrics: None, lambda: False)
    assert result.steps == of(after, "train-lora").to_do == run.recipe.training.max_train_steps
    written = sum(tensor_bytes(file) for file in directory.rglob("*.safetensors"))
    assert of(after, "train-lora").disk_bytes == pytest.approx(written, rel=0.01)


def tensor_bytes(file: Path) -> int:
    """Size without the header, which weighs in a tiny LoRA and in no other."""
    (header,) = struct.unpack("<Q", file.read_bytes()[:8])
    return file.stat().st_size - 8 - int(header)


def test_times_come_from_stamps_of_the_same_model(bench: Bench) -> None:
    bench.look()
    ctx = bench.ctx
    assert not of(estimate(ctx), "encode-latents").is_measured
    request = {**encode_latents_request(ctx), "data": "other clips"}
    write_stamp(ctx.workspace, LATENTS, request, Outcome(counts={"done": 10}), time.time() - 50, 0)
    found = of(estimate(ctx), "encode-latents")
    assert found.is_measured
    assert found.seconds == pytest.approx(45, rel=0.05)
    foreign = {**request, "vae": "another"}
    write_stamp(ctx.workspace, LATENTS, foreign, Outcome(counts={"done": 10}), time.time() - 5000, 0)
    assert of(estimate(ctx), "encode-latents").seconds == found.seconds
    for number in range(6):
        one = {**request, "data": f"one clip {number}"}
        write_stamp(ctx.workspace, LATENTS, one, Outcome(counts={"done": 1}), time.time() - 30, 0)
    assert of(estimate(ctx), "encode-latents").seconds == found.seconds, "a load is not paid for each clip"


def test_a_training_that_is_done_is_not_done_again(bench: Bench) -> None:
    bench.look()
    request = train_lora_request(bench.ctx)
    assert request_fingerprint(TRAIN, request)
    facts = {"seconds_a_step": 2.0}
    write_stamp(bench.ctx.workspace, TRAIN, request, Outcome(counts={"done": 6}, facts=facts), time.time(), 0)
    assert of(estimate(bench.ctx), "train-lora").to_do == 0
    longer = bench.recipe.training.model_copy(update={"max_train_steps": 100})
    other = Bench(bench.root, bench.recipe.model_copy(update={"training": longer}))
    assert of(estimate(other.ctx), "train-lora").seconds == 200.0
    # Of 32 s twelve were steps: the others are the load, which another training takes once, too.
    outcome = Outcome(counts={"done": 6}, facts=facts)
    write_stamp(bench.ctx.workspace, TRAIN, request, outcome, time.time() - 32, 0)
    assert of(estimate(other.ctx), "train-lora").seconds == pytest.approx(220.0, abs=0.5)


def test_a_rendering_that_is_done_is_not_done_again(bench: Bench) -> None:
    bench.look()
    assert of(estimate(bench.ctx), "render-validation").to_do == 4
    facts = {"seconds_a_step": 2.0}
    outcome = Outcome(counts={"done": 6}, facts=facts)
    write_stamp(bench.ctx.workspace, TRAIN, train_lora_request(bench.ctx), outcome, time.time(), 0)
    assert of(estimate(bench.ctx), "render-validation").to_do == 4
    request = render_validation_request(bench.ctx)
    write_stamp(bench.ctx.workspace, RENDER, request, Outcome(), time.time(), 0)
    found = of(estimate(bench.ctx), "render-validation")
    assert (found.to_do, found.disk_bytes) == (0, 0)


def test_epochs_that_end_before_the_warm_up_are_refused_before_anything_loads(bench: Bench) -> None:
    bench.look()
    length = {"max_train_steps": 0, "num_train_epochs": 1, "lr_warmup_steps": 50}
    recipe = bench.recipe.model_copy(update={"training": bench.recipe.training.model_copy(update=length)})
    found = estimate(Bench(bench.root, recipe).ctx)
    assert found.problems == ("the recipe's 4 steps leave none after lr_warmup_steps 50",)


def test_exit_codes(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = validate(bench)
    assert done.exit_code == 0, done.output
    assert "are valid" in done.output
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {learning_rat: 1}")
    assert validate(bench, "--recipe", str(recipe)).exit_code == 2
    recipe.write_text("model: {pretrained_model_name_or_path: ./nowhere}")
    wrong_model = validate(bench, "--recipe", str(recipe))
    assert wrong_model.exit_code == 2
    assert "nor a directory on this machine" in wrong_model.output
    recipe.write_text("model: {pretrained_model_name_or_path: some/where-else}")
    bench.look()
    unknown = validate(bench, "--recipe", str(recipe))
    assert unknown.exit_code == 1, unknown.output
    assert "some/where-else is not on this machine" in unknown.output
    recipe.write_text("validation: {validation_resolution: 16x16}")
    assert validate(bench, "--recipe", str(recipe)).exit_code == 2
    for caption in bench.clips.glob("*.txt"):
        caption.unlink()
    rejected = validate(bench)
    assert rejected.exit_code == 1
    assert "files in" in rejected.output
    assert "no clip can be used" in rejected.output
    assert "not been looked at" not in rejected.output
    (bench.root / "datasets.yaml").write_text("- id: x\n")
    assert validate(bench).exit_code == 2


def test_what_keys_come_to_is_reported(bench: Bench) -> None:
    bench.root.joinpath("datasets.yaml").write_text(DATASETS.replace("17", "20, frame_interval: 5"))
    text = validate(bench).output
    assert "note  clips: num_frames 20 is used as 17: LTX-2 takes 8n+1 frames" in text
    assert "note  clips: video.frame_interval has no effect without" in text


def test_a_disk_that_is_too_small_is_reported_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.look()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    done = validate(bench)
    assert done.exit_code == 1
    assert "GB would be written" in done.output


def test_a_store_on_a_disk_of_its_own_is_held_against_that_disk(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.look()
    bench.ctx.workspace.use_store(str(tmp_path / "elsewhere/store"))
    bench.look()
    assert len(estimate(bench.ctx).disks) == 1, "one disk, as it is here"
    access, elsewhere = os.access, tmp_path / "elsewhere/store"
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK or path != elsewhere)
    assert [str(elsewhere) in problem for problem in estimate(bench.ctx).problems] == [True], "read-only"
    monkeypatch.setattr("os.access", access)
    monkeypatch.setattr("ltxcore.jobs.estimate.disks.device", hash)
    free = {tmp_path / "elsewhere/store": 1000}
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: type("Usage", (), {"free": free.get(path, 10**12)})()
    )
    found = estimate(bench.ctx)
    kept, stored = found.disks
    assert kept.needed_bytes + stored.needed_bytes == found.disk_bytes
    assert stored.needed_bytes == sum(
        of(found, name).disk_bytes or 0 for name in ("split-audio", "encode-latents", "embed-text")
    )
    assert [str(tmp_path / "elsewhere/store") in problem for problem in found.problems] == [True]
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    assert all("cannot be written" in problem for problem in estimate(bench.ctx).problems)


def test_units() -> None:
    assert [size(n) for n in (0, 999, 33_500, 1.8e6, 2.5e12)] == [
        "0 B",
        "999 B",
        "33.5 kB",
        "1.8 MB",
        "2.5 TB",
    ]
    assert [duration(s) for s in (1.23, 600, 36_000)] == ["1 s", "10 min", "10 h 00 min"]


def with_recipe(bench: Bench, **sections: dict[str, object]) -> Bench:
    """The bench with other values in parts of its recipe."""
    changed = {
        name: type(getattr(bench.recipe, name)).model_validate(
            {**getattr(bench.recipe, name).model_dump(), **values}
        )
        for name, values in sections.items()
    }
    return Bench(bench.root, bench.recipe.model_copy(update=changed))


def test_what_does_not_fit_in_memory_is_reported_before_anything_is_spent(
    bench: Bench, tmp_path: Path
) -> None:
    bench.look()
    plenty = estimate(bench.ctx)
    assert plenty.problems == ()
    assert of(plenty, "train-lora").memory is not None
    assert of(plenty, "split-audio").memory is None
    short = estimate(with_recipe(bench, memory={"ram_gib": 0.5}).ctx)
    assert any(p.startswith("train-lora needs") and "memory.ram_gib allows 0.5" in p for p in short.problems)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("memory: {ram_gib: 0.5}")
    done = validate(bench, "--recipe", str(recipe))
    assert done.exit_code == 1
    assert "encode-latents needs" in done.output
    assert not (bench.ctx.workspace.root / "stages/train-lora").exists(), "nothing was spent"


def test_a_strategy_that_this_machine_cannot_have_is_reported_too(bench: Bench) -> None:
    bench.look()
    found = estimate(with_recipe(bench, memory={"musubi_blocks_to_swap": 40}).ctx)
    assert any(p.startswith("train-lora: musubi_blocks_to_swap is 40, but") for p in found.problems)


SOUNDS = """
- {id: sounds, dataset_type: audio, instance_data_dir: sounds, audio: {duration_interval: 0.5}}
- {id: text, dataset_type: text_embeds}
"""


def test_sound_alone_counts_neither_the_video_vae_nor_its_targets(bench: Bench) -> None:
    bench.look()
    with_pictures = estimate(bench.ctx)
    (bench.root / "sounds").mkdir()
    for name, hertz in (("one", 300), ("two", 400)):
        tone(bench.root / f"sounds/{name}.wav", 1.0, hertz)
        (bench.root / f"sounds/{name}.txt").write_text("a tone")
    (bench.root / "datasets.yaml").write_text(SOUNDS)
    bench.look()
    found = estimate(bench.ctx)
    assert of(found, "encode-latents").to_do == 2
    plan, before = of(found, "encode-latents").memory, of(with_pictures, "encode-latents").memory
    assert plan is not None
    assert before is not None
    source = bench.ctx.source
    value_bytes = {"bf16": 2, "fp32": 4}[bench.recipe.encode.vae_dtype]
    assert plan.weights_bytes == source.resident_bytes("audio_vae", value_bytes)
    assert before.weights_bytes == plan.weights_bytes + source.resident_bytes("vae", value_bytes)
    assert plan.activations_bytes == 0

    bench.split()
    assert bench.encode() == {"video": 0, "audio": 2}
    bench.embed()
    ctx = bench.ctx
    assert workload_of(ctx).targets == default_targets(with_audio=True, with_video=False)
    directory = ctx.workspace.stages / "train-lora" / "here"
    Training(ctx, directory, train_lora_request(ctx), "cpu").run(lambda metrics: None, lambda: False)
    written = sum(tensor_bytes(file) for file in directory.rglob("*.safetensors"))
    assert of(found, "train-lora").disk_bytes == pytest.approx(written, rel=0.01)


def test_every_kind_of_dataset_is_listed(bench: Bench) -> None:
    (bench.root / "stills").mkdir()
    with (bench.root / "datasets.yaml").open("a") as file:
        file.write("- {id: stills, dataset_type: image, instance_data_dir: stills}\n")
    text = validate(bench).output
    assert f"clips: video, {bench.clips}" in text
    assert f"stills: image, {bench.root / 'stills'}" in text


def test_videos_are_expected_to_take_what_those_of_the_newest_gallery_took(bench: Bench) -> None:
    bench.look()
    before = of(estimate(bench.ctx), "render-validation")
    assert before.disk_bytes
    assert any("as usual for H.264" in note for note in before.notes)
    ctx = bench.ctx
    video = ctx.workspace.root / "video.mp4"
    video.write_bytes(bytes(50_000))
    request = {"validation": ctx.recipe.validation.fingerprint_data()}
    outcome = Outcome(counts={"renderings": 2}, files=(output_file(ctx.workspace, video),))
    write_stamp(ctx.workspace, RENDER, request, outcome, time.time(), 0)
    after = of(estimate(ctx), "render-validation")
    assert after.disk_bytes == 25_000 * (after.to_do or 0)
