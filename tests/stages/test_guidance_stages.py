"""Held-out clips, early stop, the best LoRA and samples of steps, through the stages on real files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ltxcore.config.errors import ConfigError
from ltxcore.config.evaluation_settings import EvaluationSettings
from ltxcore.execution.execution import find_result
from ltxcore.jobs.explain.explain import explain_clip
from ltxcore.jobs.report.dataset_report import gather
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER, TRAIN, MissingInput
from ltxcore.pipeline.base.stamp import Stamp, request_fingerprint, stage_directory, write_stamp
from ltxcore.pipeline.data.held_out import WHY, check_datasets, evaluation_set, held_out, held_out_ids
from ltxcore.stages.render_validation.request import request as render_validation_request
from ltxcore.stages.render_validation.session import Session
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.sample_steps import is_sample_step, reached_step, sample_steps, waiting_steps
from ltxcore.stages.train_lora.stored_samples import StoredSamples
from ltxcore.stages.train_lora.tracker import tracker
from ltxcore.stages.train_lora.training import Training
from ltxcore.training.checkpoints import BrokenCheckpoint, read_checkpoint
from ltxcore.training.early_stop import read_evaluations
from ltxcore.training.metrics import read_metrics
from tests.stages.conftest import Bench

LORA = "pytorch_lora_weights.safetensors"


def with_section(bench: Bench, section: str, **changes: object) -> Bench:
    settings = getattr(bench.recipe, section)
    parsed = type(settings).model_validate({**settings.model_dump(), **changes})
    return Bench(bench.root, bench.recipe.model_copy(update={section: parsed}))


def some_share(bench: Bench) -> float:
    """A share that holds out at least two of the clips and not all: ffmpegs differ, and so do their files."""
    bench.prepare()
    samples = bench.ctx.snapshot.samples
    shares = [number / 100 for number in range(1, 100)]
    held = {share: held_out_ids(EvaluationSettings(eval_share=share), samples) for share in shares}
    return next(share for share, ids in held.items() if 2 <= len(ids) < len(samples))


def small_pictures(bench: Bench) -> Bench:
    """One prompt, at the size that renders in a second."""
    return with_section(
        bench,
        "validation",
        validation_prompts={"disc": "A red disc."},
        validation_resolution="64x64",
        validation_num_video_frames=9,
        validation_num_inference_steps=2,
        validation_frame_rate=50,
        validation_guidance=1,
        validation_audio_guidance=1,
    )


def train(bench: Bench, pause_at: int = 0) -> tuple[Path, Stamp | None]:
    """Train as the stage does, stamped unless it has paused."""
    ctx = bench.ctx
    request = train_lora_request(ctx)
    directory = stage_directory(ctx.workspace, TRAIN, request)
    training = Training(ctx, directory, request, "cpu")
    result = training.run(lambda m: None, lambda: False, pause_at)
    if result is None:
        return directory, None
    return directory, write_stamp(ctx.workspace, TRAIN, request, training.finish(result), 0.0, 0)


def render(ctx: Context) -> Path:
    request = render_validation_request(ctx)
    directory = stage_directory(ctx.workspace, RENDER, request)
    session = Session(ctx, directory, "cpu")
    session.write(session.render(lambda what: None))
    write_stamp(ctx.workspace, RENDER, request, session.finish(), 0.0, 0, newest=not ctx.step)
    session.forget_samples()
    return directory


def trained_on(directory: Path) -> set[str]:
    return {name for m in read_metrics(directory / "metrics.jsonl") for name in m.sample_ids}


def test_held_out_clips_are_evaluated_and_never_trained_on(bench: Bench) -> None:
    bench = with_section(bench, "evaluation", eval_share=some_share(bench), eval_step_interval=3)
    bench.prepare()
    apart = set(held_out(bench.recipe.evaluation, bench.ctx.snapshot))
    everything = {sample.id for sample in bench.ctx.snapshot.samples}
    assert apart
    source = StoredSamples(bench.ctx)
    assert {entry.sample_id for entry in source.entries()} == everything - apart
    assert {clip.sample_id for clip in source.held_out()} == apart
    # twin.mp4 and twin.mov have names of their own and, being other files, each its own draw.
    directory, stamp = train(with_section(bench, "training", num_train_epochs=3, max_train_steps=0))
    assert stamp is not None
    assert trained_on(directory) == everything - apart
    record = read_evaluations(directory / "evaluations.jsonl")
    assert record[0].step == 0
    facts = stamp.outcome.facts
    assert facts["eval_loss_base"] == record[0].eval_loss
    assert facts["eval_loss"] == record[-1].eval_loss
    assert facts["eval_loss_best"] == min(e.eval_loss for e in record if e.step)
    assert facts["best_checkpoint"].endswith(f"/checkpoint-{facts['best_step']}")
    assert (bench.ctx.workspace.root / facts["best_checkpoint"]).is_dir()
    assert (directory / "evaluations.jsonl") in [
        bench.ctx.workspace.root / file.path for file in stamp.outcome.files
    ]
    _check_mlflow(bench, directory, len(record))
    _check_reports(bench, apart)


def _check_mlflow(bench: Bench, directory: Path, evaluations: int) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{bench.ctx.workspace.mlflow}/mlflow.db")
    run = tracker(bench.ctx, directory).run_id
    for name in ("eval_loss", "eval_video_loss", "eval_video_loss_sigma_0.4"):
        found = client.get_metric_history(run, name)
        assert found[0].step == 0
        assert len(found) == evaluations
    tags = client.get_run(run).data.tags
    assert tags["evaluation_set"] == evaluation_set(bench.recipe.evaluation, bench.ctx.snapshot)
    steps = len(read_metrics(directory / "metrics.jsonl"))
    for name in ("samples_per_s", "tokens_per_s", "data_wait_s"):
        assert len(client.get_metric_history(run, name)) == steps


def _check_reports(bench: Bench, apart: set[str]) -> None:
    report = gather(bench.ctx)
    assert report.facts()["Held out"] == str(len(apart))
    assert {clip.id for clip in report.clips if WHY in clip.remarks} == apart
    for sample in bench.ctx.snapshot.samples:
        assert (WHY in explain_clip(bench.ctx, sample.id).reason) == (sample.id in apart)


def test_what_is_held_out_is_a_matter_of_content(bench: Bench) -> None:
    settings = EvaluationSettings(eval_share=some_share(bench))
    before, _ = bench.probe()
    apart = set(held_out(settings, before))
    clip = bench.clips / "a-new-one.mp4"
    clip.write_bytes((bench.clips / "red-disc-right.mp4").read_bytes())
    clip.with_suffix(".txt").write_text("A copy under a name that sorts first.")
    after, _ = bench.probe()
    now = set(held_out(settings, after))
    assert now - {"clips/a-new-one.mp4"} == apart, "a clip more moves no other"
    copy, first = (f"clips/{name}.mp4" in now for name in ("a-new-one", "red-disc-right"))
    assert copy == first, "copies stay together"
    assert evaluation_set(settings, before) == evaluation_set(settings, bench.probe()[0]) or copy
    assert evaluation_set(settings, before) != evaluation_set(
        settings.model_copy(update={"eval_seed": 7}), before
    )


def test_a_whole_dataset_can_be_held_out_with_its_copies_elsewhere(bench: Bench) -> None:
    (bench.root / "held").mkdir()
    for name in ("twin.mp4", "twin.txt"):
        source = bench.clips / name
        (bench.root / "held" / name).write_bytes(source.read_bytes() if source.exists() else b"A twin.")
    datasets = bench.root / "datasets.yaml"
    more = datasets.read_text().split("- id: text")[0].replace("clips", "held")
    datasets.write_text(datasets.read_text() + more)
    snapshot, _ = bench.probe()
    settings = EvaluationSettings(eval_datasets=("held",))
    assert set(held_out(settings, snapshot)) == {"held/twin.mp4", "clips/twin.mp4"}
    check_datasets(settings, bench.ctx.datasets)
    with pytest.raises(ConfigError, match="`hled` is not a dataset in use; did you mean `held`"):
        check_datasets(EvaluationSettings(eval_datasets=("hled",)), bench.ctx.datasets)


def test_holding_out_nothing_or_everything_is_refused(bench: Bench) -> None:
    snapshot, _ = bench.probe()
    with pytest.raises(
        ConfigError, match=r"eval_share 1e-09: holds out none of the 5 clips; a share of"
    ) as caught:
        held_out(EvaluationSettings(eval_share=1e-9), snapshot)
    advised = float(str(caught.value).split("a share of ")[1].split(" ")[0])
    assert held_out(EvaluationSettings(eval_share=advised), snapshot)
    with pytest.raises(ConfigError, match="all 5 clips are held out"):
        held_out(EvaluationSettings(eval_datasets=("clips",)), snapshot)
    with pytest.raises(ConfigError, match="all 5 clips"):
        train_lora_request(with_section(bench, "evaluation", eval_datasets=["clips"]).ctx)


def test_evaluation_is_in_the_key_where_clips_are_held_out_and_nowhere_else(bench: Bench) -> None:
    bench.prepare()

    def key(**evaluation: Any) -> str:
        return request_fingerprint(
            TRAIN, train_lora_request(with_section(bench, "evaluation", **evaluation).ctx)
        )

    assert key() == key(eval_step_interval=7, eval_sigmas=(0.5,))
    share = some_share(bench)
    assert key() != key(eval_share=share)
    assert key(eval_share=share) != key(eval_share=share, early_stop_patience=3)
    sampled = with_section(bench, "validation", validation_step_interval=2)
    assert request_fingerprint(TRAIN, train_lora_request(sampled.ctx)) == key()


def test_the_best_lora_is_exported_where_that_is_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = with_section(
        bench, "evaluation", eval_share=some_share(bench), eval_step_interval=2, export="best"
    )
    bench.prepare()
    script = iter([9.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(
        "ltxcore.training.evaluation.Evaluation.__call__",
        lambda self, model, should_stop: {"eval_loss": next(script)},
    )
    directory, stamp = train(bench)
    assert stamp is not None
    facts = stamp.outcome.facts
    assert (facts["best_step"], facts["exported_step"], facts["eval_loss"]) == (2, 2, 4.0)
    best = read_checkpoint(directory / "checkpoint-2").lora
    last = read_checkpoint(directory / "checkpoint-6").lora
    written = load_file(directory / "lora" / LORA)
    assert all(torch.equal(written[f"transformer.{name}"], best[name]) for name in best)
    assert any(not torch.equal(best[name], last[name]) for name in best)
    # Without that checkpoint a damaged LoRA cannot be exported again, and the refusal says what can be done.
    shutil.rmtree(directory / "checkpoint-2")
    (directory / "lora" / LORA).unlink()
    with pytest.raises(BrokenCheckpoint, match=r"checkpoint-2 .*export: last.* or delete .*trains from the"):
        train(bench)


def test_steps_that_are_sampled() -> None:
    from itertools import islice

    from ltxcore.config.recipe import Recipe

    def recipe(**keys: object) -> Recipe:
        return Recipe.model_validate({"validation": keys})

    assert list(islice(sample_steps(recipe()), 3)) == [100, 200, 300]
    assert list(sample_steps(recipe(validation_step_interval=0))) == []
    assert list(sample_steps(recipe(validation_disable=True))) == []
    every = recipe(validation_step_interval=4)
    assert [s for s in range(1, 13) if is_sample_step(every, s, last=12)] == [4, 8]


def test_a_training_pauses_for_samples_and_ends_with_the_same_bits(bench: Bench, tmp_path: Path) -> None:
    import shutil

    bench = small_pictures(
        with_section(bench, "evaluation", eval_share=some_share(bench), eval_step_interval=2)
    )
    bench.prepare()
    other = Bench(tmp_path / "other", bench.recipe)
    shutil.copytree(bench.root, other.root, ignore=shutil.ignore_patterns("other"))
    # Where the weights are changes no loss either, be it of the training or of an evaluation.
    straight, _ = train(with_section(other, "memory", strategy="block_streaming"))

    bench = with_section(bench, "validation", validation_step_interval=2)
    directory, stamp = train(bench, pause_at=2)
    assert (stamp, waiting_steps(directory), reached_step(directory)) == (None, [2], 2)
    assert find_result(TRAIN, bench.ctx)[1] is None
    at_2 = replace(bench.ctx, step=2)
    page = (render(at_2) / "index.html").read_text()
    assert "2, it goes on" in page
    assert waiting_steps(directory) == [], "what is rendered is dropped"
    assert find_result(RENDER, at_2)[1] is not None

    # The last step is a multiple of the interval: that is the end, and no pause.
    _, stamp = train(bench, pause_at=6)
    assert stamp is not None
    ours, theirs = load_file(directory / "lora" / LORA), load_file(straight / "lora" / LORA)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [(e.step, e.eval_loss, e.measures) for e in read_evaluations(directory / "evaluations.jsonl")] == [
        (e.step, e.eval_loss, e.measures) for e in read_evaluations(straight / "evaluations.jsonl")
    ]
    # Step 4 was passed without a pause, as where the stage runs alone: the last rendering makes up for it.
    assert waiting_steps(directory) == [4]
    _check_gallery(bench, directory)


def _check_gallery(bench: Bench, training: Path) -> None:
    gallery = render(bench.ctx)
    page = (gallery / "index.html").read_text()
    for step in (2, 4):
        assert f"Step {step}<" in page
        for kind in ("mp4", "jpg"):
            assert (gallery / f"steps/step-{step:06d}/disc-lora.{kind}").stat().st_size > 0
    assert waiting_steps(training) == []
    clips = [(gallery / f"steps/step-{step:06d}/disc-lora.mp4").read_bytes() for step in (2, 4)]
    clips += [(gallery / f"disc-{side}.mp4").read_bytes() for side in ("base", "lora")]
    assert len(set(clips)) == 4, "each step has its own picture"
    bases = list((bench.ctx.workspace.stages / "render-validation").glob("base-*/rendering.safetensors"))
    assert len(bases) == 1, "the base was rendered once"

    _check_pictures_in_mlflow(bench, training)


def _check_pictures_in_mlflow(bench: Bench, training: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{bench.ctx.workspace.mlflow}/mlflow.db")
    run = tracker(bench.ctx, training).run_id
    assert "samples/step-000002/disc-lora.mp4" in _paths(client, run, "samples/step-000002")
    gallery = _paths(client, run, "gallery/steps")
    assert gallery == ["gallery/steps/step-000002", "gallery/steps/step-000004"]
    assert all(f"{folder}/disc-lora.mp4" in _paths(client, run, folder) for folder in gallery)


def _paths(client: Any, run: str | None, folder: str) -> list[str]:
    return [artifact.path for artifact in client.list_artifacts(run, folder)]


def test_weights_and_average_are_compared_in_the_end_and_while_it_trains(bench: Bench) -> None:
    bench = small_pictures(
        with_section(bench, "evaluation", eval_share=some_share(bench), eval_step_interval=3)
    )
    bench = with_section(bench, "validation", validation_step_interval=2)
    bench = with_section(bench, "training", use_ema=True, ema_decay=0.5, ema_validation="comparison")
    bench.prepare()
    directory, _ = train(bench, pause_at=2)
    at_2 = render(replace(bench.ctx, step=2))
    _check_three_sides(at_2)
    _, stamp = train(bench)
    assert stamp is not None
    assert waiting_steps(directory) == [4], "step 4 was passed without a pause"
    gallery = render(bench.ctx)
    assert waiting_steps(directory) == []
    page = _check_three_sides(gallery)
    for step in (2, 4):
        for label in ("last weights", "average"):
            assert f"Step {step}, {label}<" in page
    for kind in ("lora", "ema"):
        clip = gallery / f"steps/step-000002/disc-{kind}.mp4"
        assert clip.read_bytes() == (at_2 / f"disc-{kind}.mp4").read_bytes()
    assert find_result(RENDER, bench.ctx)[1] is not None, "nothing is rendered again"

    record = read_evaluations(directory / "evaluations.jsonl")
    facts = stamp.outcome.facts
    assert (facts["eval_loss"], facts["eval_loss_ema"]) == (record[-1].eval_loss, record[-1].ema)
    assert record[-1].ema != record[-1].eval_loss
    _check_average_in_mlflow(bench, directory, [e.ema for e in record])


def _check_three_sides(gallery: Path) -> str:
    clips = {kind: (gallery / f"disc-{kind}.mp4").read_bytes() for kind in ("base", "lora", "ema")}
    assert len(set(clips.values())) == 3
    measures = json.loads((gallery / "measures.json").read_text())["disc"]
    assert set(measures) == {"base", "lora", "ema", "differences"}
    assert all(measures["differences"][kind] > 0 for kind in ("lora", "ema"))
    page = (gallery / "index.html").read_text()
    for kind, label in (("base", "Base"), ("lora", "Last weights"), ("ema", "Average")):
        assert f'<figure class="{kind}">\n<figcaption><span class="tag">{label}<' in page
    assert "(last weights, average) with the same seed" in page
    return page


def _check_average_in_mlflow(bench: Bench, directory: Path, averages: list[float | None]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{bench.ctx.workspace.mlflow}/mlflow.db")
    run = tracker(bench.ctx, directory).run_id
    assert [m.value for m in client.get_metric_history(run, "ema")] == averages
    assert len(client.get_metric_history(run, "ema_eval_video_loss_sigma_0.4")) == len(averages)
    assert "gallery/disc-ema.mp4" in _paths(client, run, "gallery")


def test_last_weights_are_left_for_the_comparison_where_the_average_is_the_lora(bench: Bench) -> None:
    bench = small_pictures(bench)
    keys = {"use_ema": True, "ema_decay": 0.5, "ema_export": "instead"}
    bench = with_section(bench, "training", **keys, ema_validation="comparison")
    bench.prepare()
    directory, _ = train(bench)
    files = {file.name: load_file(file) for file in (directory / "lora").glob("pytorch*")}
    assert set(files) == {LORA, LORA.replace(".", "_last.")}
    checkpoint = read_checkpoint(directory / "checkpoint-6")
    assert checkpoint.ema is not None
    for name, weights in ((LORA, checkpoint.ema), (LORA.replace(".", "_last."), checkpoint.lora)):
        assert all(torch.equal(files[name][f"transformer.{n}"], weights[n]) for n in weights)
    _check_three_sides(render(bench.ctx))


def test_the_base_is_not_rendered_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = small_pictures(bench)
    bench.prepare()
    train(bench)
    first = render(bench.ctx)
    pictures = (first / "disc-base.mp4").read_bytes()
    messages: list[str] = []
    session = Session(bench.ctx, first, "cpu")
    session.render(messages.append)
    assert {what.split(", ")[1] for what in messages} == {"LoRA"}
    (base,) = (bench.ctx.workspace.stages / "render-validation").glob("base-*/rendering.safetensors")
    base.write_bytes(base.read_bytes()[:-9])
    messages.clear()
    session = Session(bench.ctx, first, "cpu")
    session.write(session.render(messages.append))
    assert {what.split(", ")[1] for what in messages} == {"base", "LoRA"}, "a broken one is made again"
    assert (first / "disc-base.mp4").read_bytes() == pictures


def test_samples_of_a_step_that_was_not_reached_are_refused(bench: Bench) -> None:
    bench.prepare()
    with pytest.raises(
        MissingInput, match=r"the LoRA of step 3 of training .* run the stage train-lora first"
    ):
        Session(replace(bench.ctx, step=3), bench.root, "cpu")


def test_adapters_of_others_are_rendered_beside_the_plain_prompt(bench: Bench) -> None:
    bench = small_pictures(bench)
    bench.prepare()
    directory, _ = train(bench)
    other = bench.root / "others-distilled.safetensors"
    other.write_bytes((directory / "lora" / LORA).read_bytes())
    bench = with_section(
        bench,
        "validation",
        validation_adapter_config=[{"name": "fast", "path": str(other), "scale": 40}],
    )
    session = Session(bench.ctx, bench.root / "gallery", "cpu")
    assert session.denoising_steps == 2 * (2 + 8), "a distilled LoRA renders in its eight steps"
    session.write(session.render(lambda what: None))
    measures = json.loads((bench.root / "gallery/measures.json").read_text())
    assert set(measures) == {"disc", "disc-fast"}
    assert (bench.root / "gallery/disc-base.mp4").read_bytes() != (
        bench.root / "gallery/disc-fast-base.mp4"
    ).read_bytes()
    before = render_validation_request(bench.ctx)
    other.write_bytes((directory / "lora" / LORA).read_bytes() + b"\0" * 0)
    assert render_validation_request(bench.ctx) == before, "the same content is the same adapter"
    assert list(before["adapters"]) == [str(other)]
