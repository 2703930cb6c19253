"""One flipped bit in what a stage left: named, refused where it would be used, and made again to the bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.app import app
from ltxcore.execution.execution import find_result
from ltxcore.jobs.pipeline import training_turns
from ltxcore.jobs.publish.publication import publication
from ltxcore.models.errors import ModelError
from ltxcore.pipeline.base.contract import RENDER, TRAIN, Stage
from ltxcore.pipeline.base.outputs import DamagedOutput
from ltxcore.pipeline.base.stamp import ManifestEntry, stage_directory, write_manifest
from ltxcore.publishing.errors import HubRefused
from ltxcore.stages.render_validation.request import request as render_validation_request
from ltxcore.stages.render_validation.session import Session
from ltxcore.stages.train_lora.sample_steps import step_directory, waiting_steps
from ltxcore.store.blobs import DamagedFile
from ltxcore.store.fingerprint import FileIdentity
from ltxcore.store.locks import exclusive
from tests.stages.conftest import Bench, make_bench
from tests.stages.test_guidance_stages import render, small_pictures, some_share, train, with_section

LORA, AVERAGE = "lora/pytorch_lora_weights.safetensors", "lora/pytorch_lora_weights_ema.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """A training with an average, paused at step 4, sampled and finished; `paused` and `whole` are copies."""
    root = tmp_path_factory.mktemp("damaged")
    bench = make_bench(root, sample_clips, tiny_models)
    bench = small_pictures(
        with_section(bench, "evaluation", eval_share=some_share(bench), eval_step_interval=3)
    )
    bench = with_section(bench, "training", use_ema=True, ema_decay=0.5, ema_validation="comparison")
    bench = with_section(bench, "validation", validation_step_interval=4)
    bench.prepare()
    train(bench, pause_at=4)
    shutil.copytree(root / "workspace", root / "paused")
    render(replace(bench.ctx, step=4))
    train(bench)
    render(bench.ctx)
    shutil.copytree(root / "workspace", root / "whole")
    return bench


@pytest.fixture
def paused(made: Bench) -> Bench:
    return put_back(made, "paused")


@pytest.fixture
def finished(made: Bench) -> Bench:
    return put_back(made, "whole")


def put_back(made: Bench, copy: str) -> Bench:
    for part in ("stages", "snapshots"):
        shutil.rmtree(made.root / "workspace" / part)
        shutil.copytree(made.root / copy / part, made.root / "workspace" / part)
    return made


def place_of(stage: Stage, bench: Bench, step: int = 0) -> Path:
    ctx = replace(bench.ctx, step=step)
    return stage_directory(ctx.workspace, stage, find_result(stage, ctx)[0])


def flip(file: Path) -> bytes:
    """Flip one bit in the middle of a file. Returns what it was."""
    before = file.read_bytes()
    at = len(before) // 2
    file.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
    return before


def verify(bench: Bench, *more: str) -> Result:
    return CliRunner().invoke(app, ["verify", *more, "--workspace", str(bench.root / "workspace")])


def check_named(bench: Bench, files: Iterable[Path]) -> None:
    """`verify` names these files and no other, and ends with 1; `--repair` sets them aside."""
    result = verify(bench)
    assert result.exit_code == 1, result.output
    names = {str(file.relative_to(bench.root / "workspace")) for file in files}
    damaged = {line.split(" is not what was written")[0] for line in result.output.splitlines()}
    assert damaged & names == names
    assert f"{len(names)} files damaged" in result.output
    repaired = verify(bench, "--repair")
    assert repaired.exit_code == 0, repaired.output
    assert verify(bench).exit_code == 0, "what is set aside is not named again"


def refused_push(bench: Bench) -> str:
    """What `push` answers to a run of this training and gallery."""
    ctx, run = bench.ctx, bench.ctx.workspace.run("run")
    for stage in (TRAIN, RENDER):
        stamp = ctx.workspace.relative(place_of(stage, bench) / "stage.json")
        entry = ManifestEntry(
            stage=stage.name, stamp=stamp, up_to_date=False, seconds=1, process=1, counts={}, why=""
        )
        write_manifest(run, entry)
    with pytest.raises(HubRefused) as refused:
        publication(ctx, run)
    return str(refused.value)


def test_a_damaged_lora_is_neither_rendered_nor_pushed_and_is_exported_again(finished: Bench) -> None:
    training = place_of(TRAIN, finished)
    names = [LORA, AVERAGE, "lora/ltx2_lora_comfyui.safetensors", "loss.png", "metrics.jsonl"]
    files = [training / name for name in (*names, "evaluations.jsonl")]
    before = {file: flip(file) for file in files}
    assert find_result(TRAIN, finished.ctx)[1] is not None, "a stage is passed over by the sizes alone"
    message = refused_push(finished)
    assert all(str(training / name) in message for name in names[:3])
    assert "`ltx2 verify --repair`" in message
    session = Session(finished.ctx, place_of(RENDER, finished), "cpu")
    with pytest.raises(DamagedOutput, match=str(training / LORA)):
        session.render(lambda what: None)
    check_named(finished, files)
    assert (training / f"{LORA}.damaged").is_file()
    assert find_result(TRAIN, finished.ctx)[1] is None
    train(finished)
    for file, content in before.items():
        assert file.read_bytes() == content, f"{file.name} is not as it was"
    assert find_result(RENDER, finished.ctx)[1] is not None


def test_a_damaged_gallery_is_not_pushed_and_is_rendered_again(finished: Bench) -> None:
    gallery = place_of(RENDER, finished)
    shown = ["disc-lora.mp4", "disc-base.mp4", "contact-sheet.png"]
    files = [gallery / name for name in (*shown, "measures.json", "steps/step-000004/disc-ema.mp4")]
    before = {file: flip(file) for file in files}
    message = refused_push(finished)
    assert all(str(gallery / name) in message for name in shown)
    check_named(finished, files)
    assert find_result(RENDER, finished.ctx)[1] is None
    render(finished.ctx)
    for file, content in before.items():
        assert file.read_bytes() == content, f"{file.name} is not as it was"
    assert verify(finished).exit_code == 0


def test_damaged_samples_of_a_step_are_not_copied_into_the_gallery(finished: Bench) -> None:
    sample = place_of(RENDER, finished, step=4) / "disc-lora.mp4"
    flip(sample)
    shutil.rmtree(place_of(RENDER, finished))
    session = Session(finished.ctx, place_of(RENDER, finished), "cpu")
    with pytest.raises(DamagedOutput, match=str(sample)):
        session.write(session.render(lambda what: None))
    check_named(finished, [sample])
    # Its training is past that step: the gallery is without it, and says nothing that is not there.
    page = (render(finished.ctx) / "index.html").read_text()
    assert "disc-lora.mp4" in page
    assert "step-000004" not in page


def test_a_damaged_base_rendering_is_rendered_again(
    finished: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    (kept,) = (finished.root / "workspace/stages/render-validation").glob("base-*/rendering.safetensors")
    picture = (place_of(RENDER, finished) / "disc-base.mp4").read_bytes()
    flip(kept)
    gallery = render(finished.ctx)
    assert f"{kept} is not what was written" in caplog.text
    assert (gallery / "disc-base.mp4").read_bytes() == picture
    flip(kept)
    check_named(finished, [kept])
    assert (render(finished.ctx) / "disc-base.mp4").read_bytes() == picture


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_gives_the_same(finished: Bench) -> None:
    training = place_of(TRAIN, finished)
    moments, lora = training / "checkpoint-6/optimizer.safetensors", training / LORA
    flip(moments)
    before = flip(lora)
    with exclusive(training / "lock", "a training", wait_s=0):
        result = verify(finished)
        assert (result.exit_code, "is being written and was not checked" in result.output) == (0, True)
    check_named(finished, [moments, lora])
    assert (training / "checkpoint-6.damaged").is_dir()
    assert not (training / "checkpoint-6").exists()
    train(finished)
    assert lora.read_bytes() == before


def test_a_damaged_sample_of_a_pause_is_refused_and_left_again(paused: Bench) -> None:
    training = place_of(TRAIN, paused)
    sample = step_directory(training, 4) / Path(AVERAGE).name
    before = flip(sample)
    with pytest.raises(DamagedOutput, match=str(sample)):
        render(replace(paused.ctx, step=4))
    check_named(paused, [sample])
    assert waiting_steps(training) == []
    order: list[str] = []

    for turn in training_turns(paused.ctx):
        if turn.stage is RENDER:
            order.append(f"render {turn.ctx.step}")
            assert sample.read_bytes() == before
            render(turn.ctx)
        else:
            order.append(f"train to {turn.pause_at}")
            train(paused, turn.pause_at)
    assert order == ["train to 4", "render 4", "train to 8"], "it ends at step 6"
    whole = paused.root / "whole/stages/train-lora" / training.name
    assert (training / LORA).read_bytes() == (whole / LORA).read_bytes()


def test_a_damaged_snapshot_or_stamp_is_no_result(finished: Bench) -> None:
    snapshot = finished.root / f"workspace/snapshots/{finished.ctx.snapshot.id}.json"
    text = snapshot.read_text()
    snapshot.write_text(text.replace("disc", "disk", 1))
    with pytest.raises(DamagedFile, match=str(snapshot)):
        finished.ctx.snapshot  # noqa: B018
    check_named(finished, [snapshot])
    finished.probe()
    assert snapshot.read_text() == text
    stamp = place_of(TRAIN, finished) / "stage.json"
    stamp.write_text(stamp.read_text().replace('"last_loss": ', '"last_loss": 1', 1))
    assert find_result(TRAIN, finished.ctx)[1] is None
    check_named(finished, [stamp])


def test_an_adapter_that_changed_under_its_size_and_times_is_refused(finished: Bench) -> None:
    other = finished.root / "other.safetensors"
    shutil.copy2(place_of(TRAIN, finished) / LORA, other)
    bench = with_section(
        finished, "validation", validation_adapter_config=[{"name": "x", "path": str(other)}]
    )
    render_validation_request(bench.ctx)
    flip(other)
    # What a damaged disk does: other content, and nothing that tells of it.
    memory = finished.root / "workspace/models/fingerprints.json"
    known = json.loads(memory.read_text())
    known[str(other)]["identity"] = asdict(FileIdentity.of(other))
    memory.write_text(json.dumps(known))
    session = Session(bench.ctx, finished.root / "gallery", "cpu")
    with pytest.raises(ModelError, match=f"{other} has other content"):
        session.render(lambda what: None)
