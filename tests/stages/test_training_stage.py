"""train-lora and render-validation on real stages' outputs: files that load back, resume, and refusal."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.execution.execution import find_result, note_up_to_date
from ltxcore.execution.memory_plans import plan_stage
from ltxcore.jobs.estimate.estimate import estimate
from ltxcore.jobs.explain.explain import explain_stages
from ltxcore.memory.arrangement import StrategyUnavailable
from ltxcore.memory.plan import OverBudget
from ltxcore.pipeline.base.contract import RENDER, TRAIN, MissingInput
from ltxcore.pipeline.base.stamp import request_fingerprint, why_stale, write_stamp
from ltxcore.pipeline.data.prompts import validation_prompts
from ltxcore.pipeline.data.tables import as_csv, dataset_rows
from ltxcore.stages.probe_media.memo import Memo
from ltxcore.stages.render_validation.memory import rendering_workload
from ltxcore.stages.render_validation.request import request as render_validation_request
from ltxcore.stages.render_validation.session import Session
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.stored_samples import StoredSamples
from ltxcore.stages.train_lora.tracker import tracker
from ltxcore.stages.train_lora.training import Training
from ltxcore.training.batch_schedule import BucketTooSmall
from tests.stages.conftest import Bench


def train(bench: Bench, should_stop_after: int | None = None) -> Path:
    """Train as the stage does and stamp it. Returns the training's directory."""
    ctx = bench.ctx
    request = train_lora_request(ctx)
    directory = ctx.workspace.stages / "train-lora" / request_fingerprint(TRAIN, request)[:16]
    training = Training(ctx, directory, request, "cpu")
    training.plan()
    steps: list[int] = []
    result = training.run(lambda m: steps.append(m.step), lambda: len(steps) == should_stop_after)
    write_stamp(ctx.workspace, TRAIN, request, training.finish(result), 0.0, 0)
    return directory


def render(bench: Bench) -> Path:
    ctx = bench.ctx
    request = render_validation_request(ctx)
    directory = ctx.workspace.stages / "render-validation" / request_fingerprint(RENDER, request)[:16]
    session = Session(ctx, directory, "cpu")
    session.write(session.render(lambda what: None))
    write_stamp(ctx.workspace, RENDER, request, session.finish(), 0.0, 0)
    return directory


def with_training(bench: Bench, **changes: object) -> Bench:
    training = bench.recipe.training.model_copy(update=changes)
    return Bench(bench.root, bench.recipe.model_copy(update={"training": training}))


def test_samples_come_from_the_store_as_training_wants_them(bench: Bench) -> None:
    bench.prepare()
    source = StoredSamples(bench.ctx)
    entries = {entry.sample_id: entry for entry in source.entries()}
    assert len(entries) == 5
    silent = source.load("clips/orange-disc-silent.mp4", 0)
    assert (silent.audio, silent.audio_valid) == (None, 0)
    loud = source.load("clips/blue-box-up.mp4", 0)
    assert loud.audio is not None
    assert (loud.audio.shape, loud.audio_valid, loud.fps) == ((17, 8), 17, 25.0)
    assert torch.isfinite(loud.video.float()).all()
    assert len(source.load("clips/blue-box-up.mp4", None).features.video) == 1, "the empty caption is BOS"


def with_sizes(bench: Bench, sizes: str) -> Bench:
    validation = bench.recipe.validation.model_copy(update={"validation_resolution": sizes})
    return Bench(bench.root, bench.recipe.model_copy(update={"validation": validation}))


def edges(video: Path) -> tuple[int, int]:
    command = ["ffprobe", "-v", "error", "-show_entries", "stream=width,height", "-of", "json", str(video)]
    streams = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["streams"]
    return next((stream["width"], stream["height"]) for stream in streams if "width" in stream)


def test_the_pipeline_from_clips_to_gallery(bench: Bench) -> None:
    one_size, bench = bench, with_sizes(bench, "192x128,64x64")
    bench.prepare()
    expected = {stage.stage.name: stage.to_do for stage in estimate(bench.ctx).stages}[RENDER.name]
    reversed_sizes = with_sizes(bench, "64x64,192x128").ctx
    assert (
        rendering_workload(reversed_sizes).width,
        plan_stage(reversed_sizes, RENDER).activations_bytes,
    ) == (
        192,
        plan_stage(one_size.ctx, RENDER).activations_bytes,
    ), "memory is planned for the largest"
    trained = train(bench)
    assert [line["step"] for line in metrics(trained)] == [1, 2, 3, 4, 5, 6]
    assert {"loss", "video_loss", "audio_loss", "learning_rate", "step_s", "peak_rss_bytes"} <= set(
        metrics(trained)[0]
    )
    gallery = render(bench)
    page = (gallery / "index.html").read_text()
    prompts = validation_prompts(bench.recipe, bench.ctx.snapshot)
    assert len(prompts) == 2
    for name in prompts:
        assert f"{name}-base.mp4" in page
        assert f"{name}-lora.mp4" in page
        for side in ("base", "lora"):
            assert f"{name}-64x64-{side}.mp4" in page
            assert edges(gallery / f"{name}-{side}.mp4") == (192, 128), "the first size has the plain name"
            assert edges(gallery / f"{name}-64x64-{side}.mp4") == (64, 64)
    assert "192x128, 64x64" in page
    measures = json.loads((gallery / "measures.json").read_text())
    assert all(entry["differences"]["lora"] > 0 for entry in measures.values()), (
        "the LoRA must change the picture"
    )
    for stage in (TRAIN, RENDER):
        stamp = find_result(stage, bench.ctx)[1]
        assert stamp is not None, f"{stage.name} must be up to date now"
    assert stamp.outcome.counts["renderings"] == expected == 2 * 2 * len(prompts)
    alone = Session(one_size.ctx, gallery, "cpu")
    assert alone.bases.load() is not None, "what the base rendered at a size does not depend on the others"
    _check_mlflow(bench, trained)


def metrics(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def _check_mlflow(bench: Bench, trained: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{bench.ctx.workspace.mlflow}/mlflow.db")
    run_id = tracker(bench.ctx, trained).run_id
    assert run_id is not None
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"tiny on clips, 6 steps ({trained.name[:6]})"
    assert (run.data.tags["model"], run.data.tags["dataset"]) == ("tiny", "clips")
    assert str(trained) in run.data.tags["mlflow.note.content"]
    assert run.data.params["training.learning_rate"] == "0.002"
    for stage in (TRAIN, RENDER):
        for figure in ("predicted", "measured", "budget"):
            assert float(run.data.tags[f"memory.{stage.name}.{figure}_gib"]) > 0
    for name in ("loss", "video_loss", "audio_loss", "learning_rate", "step_s", "peak_rss_bytes"):
        assert len(client.get_metric_history(run_id, name)) == sum(
            line[name] is not None for line in metrics(trained)
        ), name
    kept = {
        artifact.path
        for folder in client.list_artifacts(run_id)
        for artifact in client.list_artifacts(run_id, folder.path)
    }
    assert {
        "lora/pytorch_lora_weights.safetensors",
        "gallery/index.html",
        "report/dataset-report.csv",
    } <= kept
    # Frames a second as probe-media has measured them, which its own table says, too.
    snapshot = bench.ctx.snapshot
    table = dataset_rows(snapshot, rates=Memo(bench.ctx).rates(snapshot.samples))
    assert (trained / "dataset-report.csv").read_bytes() == as_csv(table)


def test_a_stopped_training_continues_to_the_same_bits(bench: Bench, tmp_path: Path) -> None:
    from ltxcore.training.loop import TrainingInterrupted

    bench.prepare()
    other = Bench(tmp_path / "other", bench.recipe)
    shutil.copytree(bench.root, other.root, ignore=shutil.ignore_patterns("other"))
    straight = train(other)
    with pytest.raises(TrainingInterrupted):
        train(bench, should_stop_after=3)
    found = next(report for report in explain_stages(bench.ctx) if report.stage == TRAIN.name)
    assert found.why == ["was stopped after step 3, and continues there"]
    resumed = train(bench)
    assert resumed.name == straight.name
    for file in ("pytorch_lora_weights.safetensors", "ltx2_lora_comfyui.safetensors"):
        ours, theirs = load_file(resumed / "lora" / file), load_file(straight / "lora" / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [m["loss"] for m in metrics(resumed)] == [m["loss"] for m in metrics(straight)]


def test_what_makes_a_training_stale_and_what_does_not(bench: Bench) -> None:
    bench.prepare()
    train(bench)
    assert find_result(TRAIN, with_training(bench, checkpoint_step_interval=1).ctx)[1] is not None
    (bench.clips / "bad.mp4").write_text("not a video")
    bench.probe()
    assert find_result(TRAIN, bench.ctx)[1] is not None, "a rejected file more is not other data"

    faster = with_training(bench, learning_rate=0.004)
    request, stamp = find_result(TRAIN, faster.ctx)
    assert stamp is None
    assert why_stale(faster.ctx.workspace, TRAIN, request) == "changed: training.learning_rate 0.002 -> 0.004"


def stamped(directory: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((directory / "stage.json").read_text())["outcome"]["facts"]
    return facts


def test_a_longer_training_and_a_new_trigger_continue_what_is_there(bench: Bench) -> None:
    bench.prepare()
    short = train(bench)
    assert stamped(short)["resume"] == {"step": 0, "notes": []}
    longer = train(with_training(bench, max_train_steps=8))
    assert longer != short
    assert stamped(longer)["resume"]["step"] == 6
    assert "training.max_train_steps: 6 -> 8" in stamped(longer)["resume"]["notes"][1]
    assert [m["step"] for m in metrics(longer)] == list(range(1, 9))
    lora = bench.recipe.lora.model_copy(update={"trigger": "a zork"})
    named = train(Bench(bench.root, bench.recipe.model_copy(update={"lora": lora})))
    assert stamped(named)["resume"]["step"] == 6
    for file in ("pytorch_lora_weights.safetensors", "ltx2_lora_comfyui.safetensors"):
        ours, theirs = load_file(named / "lora" / file), load_file(short / "lora" / file)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        with safe_open(named / "lora" / file, framework="pt") as opened:
            assert opened.metadata()["trigger"] == "a zork"


def test_a_broken_newest_checkpoint_is_reported_in_the_facts(bench: Bench) -> None:
    from ltxcore.training.loop import TrainingInterrupted

    bench.prepare()
    with pytest.raises(TrainingInterrupted):
        train(bench, should_stop_after=5)
    directory = next((bench.ctx.workspace.stages / "train-lora").iterdir())
    (directory / "checkpoint-5" / "optimizer.safetensors").write_bytes(b"")
    train(bench)
    resume = stamped(directory)["resume"]
    assert resume["step"] == 4
    assert "checkpoint-5 is broken and was passed over" in resume["notes"][0]


def test_another_recipe_begins_anew_and_a_named_checkpoint_of_it_is_refused(bench: Bench) -> None:
    from ltxcore.training.resume import ForeignCheckpoint

    bench.prepare()
    first = train(bench)
    faster = with_training(bench, learning_rate=0.004)
    second = train(faster)
    assert stamped(second)["resume"]["step"] == 0
    assert "training.learning_rate: 0.002 -> 0.004" in stamped(second)["resume"]["notes"][0]
    named = with_training(bench, learning_rate=0.01, resume_from_checkpoint=str(first / "checkpoint-6"))
    with pytest.raises(ForeignCheckpoint, match=r"training\.learning_rate: 0\.002 -> 0\.01"):
        train(named)


def test_the_average_is_written_and_rendered(bench: Bench) -> None:
    bench.prepare()
    beside = with_training(bench, use_ema=True, ema_decay=0.5, ema_validation="ema_only")
    directory = train(beside)
    names = {path.name for path in (directory / "lora").iterdir()}
    assert names == {
        "pytorch_lora_weights.safetensors",
        "pytorch_lora_weights_ema.safetensors",
        "ltx2_lora_comfyui.safetensors",
        "ltx2_lora_ema_comfyui.safetensors",
    }
    ctx = beside.ctx
    session = Session(ctx, directory, "cpu")
    assert session.lora.file.name == "pytorch_lora_weights_ema.safetensors"
    average = load_file(session.lora.file)
    last = load_file(directory / "lora" / "pytorch_lora_weights.safetensors")
    assert any(not torch.equal(average[name], last[name]) for name in last)
    instead = train(with_training(bench, use_ema=True, ema_decay=0.5, ema_export="instead"))
    assert len(list((instead / "lora").iterdir())) == 2
    only = load_file(instead / "lora" / "pytorch_lora_weights.safetensors")
    assert all(torch.equal(only[name], average[name]) for name in only)


def test_a_lokr_goes_from_clips_to_gallery(bench: Bench) -> None:
    bench.prepare()
    lycoris = {"algo": "lokr", "factor": 4, "full_matrix": True}
    lora = LoraSettings.model_validate({"lora_type": "lycoris", "lycoris_config": lycoris})
    kronecker = Bench(bench.root, bench.recipe.model_copy(update={"lora": lora}))
    train(kronecker)
    measures = json.loads((render(kronecker) / "measures.json").read_text())
    assert all(entry["differences"]["lora"] > 0 for entry in measures.values())


def test_a_bucket_below_the_batch_is_a_problem_before_the_run(bench: Bench) -> None:
    bench.prepare()
    strict = with_training(bench, allow_small_buckets=False)
    (problem,) = estimate(strict.ctx).problems
    assert "train_batch_size is 2, but the bucket" in problem
    assert "`repeats: 1`" in problem
    with pytest.raises(BucketTooSmall):
        train(with_training(strict, learning_rate=0.5))


def test_a_deleted_output_is_made_again(bench: Bench) -> None:
    bench.prepare()
    directory = train(bench)
    (directory / "lora" / "ltx2_lora_comfyui.safetensors").unlink()
    request, stamp = find_result(TRAIN, bench.ctx)
    assert stamp is None
    assert why_stale(bench.ctx.workspace, TRAIN, request) == "outputs of its last run are missing"
    train(bench)
    assert (directory / "lora" / "ltx2_lora_comfyui.safetensors").exists()


def test_training_refuses_a_hole(bench: Bench) -> None:
    bench.prepare()
    chunk = min((bench.root / "workspace/store/latents/video").rglob("c.*"))
    shutil.rmtree(chunk.parent)
    with pytest.raises(
        MissingInput, match=r"train-lora needs the latents of \d+ .* run the stage encode-latents"
    ):
        train(bench)


def test_training_goes_on_without_a_quarantined_clip_and_knows_it(
    bench: Bench, undecodable: Callable[[str], None]
) -> None:
    bench.probe()
    bench.split()
    undecodable("blue-box-up.mp4")
    bench.encode()
    bench.embed()
    assert len(StoredSamples(bench.ctx).entries()) == 4
    assert train_lora_request(bench.ctx)["quarantined"] == ["clips/blue-box-up.mp4"]


def test_rendering_without_its_training_says_so(bench: Bench) -> None:
    bench.prepare()
    with pytest.raises(
        MissingInput, match=r"render-validation needs the LoRA .* run the stage train-lora first"
    ):
        find_result(RENDER, bench.ctx)


def test_a_budget_that_cannot_hold_the_training_is_refused_before_loading(bench: Bench) -> None:
    bench.prepare()
    memory = bench.recipe.memory.model_copy(update={"ram_gib": 0.5})
    small = Bench(bench.root, bench.recipe.model_copy(update={"memory": memory}))
    with pytest.raises(OverBudget, match=r"train-lora needs 0\.9 GiB .* memory\.ram_gib allows 0\.5"):
        train(small)


def with_memory(bench: Bench, root: Path, **keys: object) -> Bench:
    memory = bench.recipe.memory.model_copy(update=keys)
    return Bench(root, bench.recipe.model_copy(update={"memory": memory}))


def test_streamed_weights_train_the_same_adapter_and_ramtorch_needs_a_device(
    bench: Bench, tmp_path: Path
) -> None:
    bench.prepare()
    shutil.copytree(bench.root, tmp_path / "other", ignore=shutil.ignore_patterns("other"))
    streamed = train(with_memory(bench, tmp_path / "other", strategy="block_streaming"))
    resident = train(bench)
    assert streamed.name == resident.name, "where the weights are is no part of what is trained"
    file = "lora/pytorch_lora_weights.safetensors"
    ours, theirs = load_file(streamed / file), load_file(resident / file)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    with pytest.raises(StrategyUnavailable, match="this machine has none"):
        train(with_training(with_memory(bench, bench.root, ramtorch=True), learning_rate=0.1))


def test_up_to_date_counts_everything_as_hits(bench: Bench, tmp_path: Path) -> None:
    bench.prepare()
    train(bench)
    _, stamp = find_result(TRAIN, bench.ctx)
    assert stamp is not None
    entry = note_up_to_date(TRAIN, bench.ctx, stamp, tmp_path / "run")
    assert (entry.up_to_date, entry.counts["hits"], entry.counts["done"]) == (True, 6, 0)
