"""embed-frames and a training with CREPA on real clips: features, keys, faults, resume, refusals."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ltxcore.config.crepa_settings import PROJECTOR_FILE, CrepaSettings
from ltxcore.config.errors import ConfigError
from ltxcore.config.processes_settings import ProcessSettings
from ltxcore.execution.execution import find_result
from ltxcore.execution.memory_plans import plan_rows, plan_stage
from ltxcore.execution.strategies import AS_ASKED, strategies
from ltxcore.jobs.estimate.estimate import estimate
from ltxcore.jobs.explain.explain import explain_clip, explain_stages
from ltxcore.media.decode import decode_frames
from ltxcore.models.errors import ModelError
from ltxcore.models.teacher import prepare_teacher, resolve_teacher
from ltxcore.models.teacher_features import load_teacher, patch_tokens
from ltxcore.pipeline.base.contract import FRAMES, TRAIN, MissingInput, asked_stages
from ltxcore.pipeline.base.stamp import request_fingerprint, write_stamp
from ltxcore.stages.embed_frames.checks import check_crepa
from ltxcore.stages.embed_frames.request import all_keys as embed_frames_all_keys
from ltxcore.stages.embed_frames.request import quarantined as embed_frames_quarantined
from ltxcore.stages.embed_frames.request import request as embed_frames_request
from ltxcore.stages.embed_frames.teacher_backoff import FrameTeacher
from ltxcore.stages.embed_frames.teacher_space import TeacherSpace, frames_of_latents, grid_of
from ltxcore.stages.encode_latents.request import needs as encode_latents_needs
from ltxcore.stages.train_lora.request import needs as train_lora_needs
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.stored_samples import StoredSamples
from ltxcore.stages.train_lora.training import Training
from ltxcore.store.bf16 import from_bits
from ltxcore.store.compact import Compacted, compact
from ltxcore.store.latents import LatentStore, chunk_of
from ltxcore.store.verify import forget_broken, verify
from tests.stages.conftest import Bench, do_all, make_bench, work_of

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

KEYS = {
    "crepa_enabled": True,
    "crepa_encoder": "tiny",
    "crepa_encoder_image_size": 56,
    "crepa_block_index": 1,
}
ROOT = Path(__file__).parents[2]
CLIP = "clips/blue-box-up.mp4"


def with_crepa(bench: Bench, **keys: Any) -> Bench:
    crepa = CrepaSettings(**{**KEYS, **keys})
    aligned = Bench(bench.root, bench.recipe.model_copy(update={"crepa": crepa}))
    prepare_teacher(crepa, aligned.ctx.workspace.models)
    return aligned


def without_crepa(bench: Bench, **keys: Any) -> Bench:
    return Bench(bench.root, bench.recipe.model_copy(update={"crepa": CrepaSettings(**keys)}))


def embed(bench: Bench) -> int:
    """embed-frames without Prefect; how many clips it embedded."""
    work = work_of(FRAMES, bench.ctx)
    do_all(work)
    return work.outcome().outcome.counts["done"]


def stamped(bench: Bench) -> None:
    ctx = bench.ctx
    outcome = work_of(FRAMES, ctx).outcome().outcome
    write_stamp(ctx.workspace, FRAMES, embed_frames_request(ctx), outcome, 0.0, 0)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """A bench with everything that a training with CREPA needs. Tests work on copies of it."""
    aligned = with_crepa(make_bench(tmp_path_factory.mktemp("aligned"), sample_clips, tiny_models))
    aligned.prepare()
    embed(aligned)
    return aligned


@pytest.fixture
def prepared(template: Bench, tmp_path: Path) -> Bench:
    """A copy of the template, with its clips beside it."""
    root = tmp_path / "bench"
    shutil.copytree(template.root, root)
    copy = Bench(root, template.recipe)
    moved = copy.ctx.snapshot.model_copy(update={"roots": {"clips": str(copy.clips)}})
    copy.ctx.workspace.save_snapshot(moved)
    return copy


def features_of(bench: Bench, clip: str = CLIP) -> torch.Tensor:
    ctx = bench.ctx
    sample = next(s for s in ctx.snapshot.samples if s.id == clip)
    return from_bits(LatentStore(ctx.store).read(TeacherSpace.of(ctx).key(sample).value))


def test_features_are_the_teachers_view_of_the_frames_of_the_latents(prepared: Bench) -> None:
    ctx = prepared.ctx
    sample = next(s for s in ctx.snapshot.samples if s.id == CLIP)
    frames = decode_frames(ctx.snapshot.file(sample), sample.frames, sample.geometry)
    # 17 frames are three latents: the first frame, and the middles of the two stretches of eight.
    teacher = load_teacher(ctx.teacher, "cpu")
    expected = patch_tokens(teacher, frames[[0, 5, 13]], 56, grid_of(sample)[1:])
    found = features_of(prepared)
    frames_, rows, columns = grid_of(sample)
    assert found.shape == (3, rows * columns, 32) == (frames_, rows * columns, ctx.teacher.width)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    assert frames_of_latents(sample.frames).indices == tuple(sample.frames.indices[k] for k in (0, 5, 13))
    assert not torch.allclose(found[0].float(), found[2].float(), atol=0.05), "the clip moves"
    latents = LatentStore(ctx.store)
    assert latents.index[TeacherSpace.of(ctx).key(sample).value].array.startswith("latents/teacher/")


def test_patch_tokens_lie_where_their_patches_are(prepared: Bench) -> None:
    """A picture that is bright at its right edge alone changes the tokens of that edge most."""
    teacher = load_teacher(prepared.ctx.teacher, "cpu")
    plain = np.zeros((1, 64, 128, 3), np.uint8)
    bright = plain.copy()
    bright[:, :, 96:] = 255
    before, after = (patch_tokens(teacher, frames, 56, (2, 4)).float() for frames in (plain, bright))
    changed = (after - before).norm(dim=-1).reshape(2, 4)
    assert (changed[:, 3] > 1.3 * changed[:, 0]).all()


def test_only_what_changed_is_embedded_again(prepared: Bench) -> None:
    everything = len(set(embed_frames_all_keys(prepared.ctx)))
    stamped(prepared)
    assert find_result(FRAMES, prepared.ctx)[1] is not None
    assert embed(prepared) == 0
    clip = prepared.clips / "blue-box-up.mp4"
    with clip.open("ab") as file:
        # Another file with the same pictures: a free box at the end.
        file.write(b"\0\0\0\x08free")
    prepared.probe()
    assert find_result(FRAMES, prepared.ctx)[1] is None
    assert embed(prepared) == 1
    assert embed(with_crepa(prepared, crepa_lambda=0.1, crepa_block_index=0, crepa_encoder_batch_size=1)) == 0
    assert embed(with_crepa(prepared, crepa_encoder_image_size=28)) == everything


def test_a_store_with_latents_keeps_both_through_compaction(prepared: Bench) -> None:
    ctx = prepared.ctx
    before = features_of(prepared)
    latents = encode_latents_needs(ctx)["latents"]
    compact(ctx.store, "latents", Compacted())
    store = LatentStore(prepared.ctx.store)
    assert not store.missing([*latents, *embed_frames_all_keys(prepared.ctx)])
    assert torch.equal(features_of(prepared), before)


def test_changed_features_are_found_and_made_again(prepared: Bench) -> None:
    good, ctx = features_of(prepared), prepared.ctx
    sample = next(s for s in ctx.snapshot.samples if s.id == CLIP)
    record = LatentStore(ctx.store).index[TeacherSpace.of(ctx).key(sample).value]
    chunk = ctx.workspace.root / "store" / chunk_of(record)
    data = bytearray(chunk.read_bytes())
    data[0] ^= 1
    chunk.write_bytes(data)
    found = verify(ctx.store).broken
    assert [broken.inputs["kind"] for broken in found] == ["teacher"]
    forget_broken(ctx.store, "latents", found)
    assert embed(prepared) == 1
    assert torch.equal(features_of(prepared), good)


def test_a_clip_that_cannot_be_read_is_quarantined_and_not_trained_on(
    prepared: Bench, undecodable: Callable[[str], None]
) -> None:
    undecodable("blue-box-up.mp4")
    prepared = with_crepa(prepared, crepa_encoder_image_size=28)
    embed(prepared)
    ctx = prepared.ctx
    assert set(embed_frames_quarantined(ctx, LatentStore(ctx.store))) == {CLIP}
    assert len(StoredSamples(ctx).entries()) == 4
    assert train_lora_request(ctx)["crepa"]["quarantined"] == [CLIP]
    plain = StoredSamples(without_crepa(prepared).ctx)
    assert len(plain.entries()) == 5, "without CREPA its latents are good"


class Hungry:
    """A teacher that runs out of memory with more than so many frames."""

    def __init__(self, teacher: Any, most: int) -> None:
        self._teacher, self._most, self.config = teacher, most, teacher.config
        self.parameters = teacher.parameters

    def __call__(self, pixels: torch.Tensor) -> Any:
        if len(pixels) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._teacher(pixels)


def test_the_teacher_takes_fewer_frames_where_memory_ends(
    prepared: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = load_teacher(prepared.ctx.teacher, "cpu")
    frames = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    expected = FrameTeacher(teacher, 56, 8).features(frames, (2, 2))
    small = FrameTeacher(Hungry(teacher, 1), 56, 8)
    with caplog.at_level(logging.WARNING):
        found = small.features(frames, (2, 2))
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    assert len(small.steps) == 3
    assert "1 at once" in caplog.text
    with pytest.raises(MemoryError, match="not even one frame of 56x56"):
        FrameTeacher(Hungry(teacher, 0), 56, 8).features(frames, (2, 2))


def train(bench: Bench) -> Path:
    """Train as the stage does. Returns the training's directory."""
    ctx = bench.ctx
    request = train_lora_request(ctx)
    directory = ctx.workspace.stages / "train-lora" / request_fingerprint(TRAIN, request)[:16]
    training = Training(ctx, directory, request, "cpu")
    result = training.run(lambda metrics: None, lambda: False)
    write_stamp(ctx.workspace, TRAIN, request, training.finish(result), 0.0, 0)
    return directory


def test_from_clips_to_a_lora_and_its_projector(prepared: Bench) -> None:
    with pytest.raises(MissingInput, match=r"teacher's features of \d clips; run the stage embed-frames"):
        train(with_crepa(prepared, crepa_encoder_image_size=28))
    short = prepared.recipe.training.model_copy(update={"max_train_steps": 2, "lr_warmup_steps": 0})
    prepared = Bench(prepared.root, prepared.recipe.model_copy(update={"training": short}))
    folder = train(prepared) / "lora"
    names = {"pytorch_lora_weights.safetensors", "ltx2_lora_comfyui.safetensors", PROJECTOR_FILE}
    assert {path.name for path in folder.iterdir()} == names
    assert set(load_file(folder / PROJECTOR_FILE)) == {
        "norm.weight", "norm.bias", "linear.weight", "linear.bias",
    }  # fmt: skip
    assert not any("crepa" in name for name in load_file(folder / "pytorch_lora_weights.safetensors"))
    with safe_open(folder / PROJECTOR_FILE, "pt") as file:
        header = file.metadata()
    assert header["teacher"] == prepared.ctx.teacher.fingerprint()
    assert json.loads(header["crepa_block_index"]) == 1
    line = json.loads((folder.parent / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"crepa_loss", "crepa_similarity"} <= set(line["measures"])
    assert find_result(TRAIN, prepared.ctx)[1] is not None
    assert find_result(TRAIN, with_crepa(prepared, crepa_lambda=0.25).ctx)[1] is None
    assert find_result(TRAIN, with_crepa(prepared, crepa_encoder_batch_size=2).ctx)[1] is not None
    needed = train_lora_needs(prepared.ctx)["latents"]
    assert set(embed_frames_all_keys(prepared.ctx)) < set(needed)


def test_off_crepa_is_in_no_key_and_no_list(prepared: Bench) -> None:
    plain = train_lora_request(without_crepa(prepared).ctx)
    assert "crepa" not in plain
    ctx = without_crepa(prepared, crepa_block_index=5, crepa_encoder="dinov2_vits14", crepa_lambda=2.0).ctx
    assert train_lora_request(ctx) == plain
    assert FRAMES not in asked_stages(ctx.recipe)
    assert "embed-frames" not in {row["stage"] for row in plan_rows(ctx)}
    assert "embed-frames" not in {report.stage for report in explain_stages(ctx)}
    assert "embed-frames" not in {stage.stage.name for stage in estimate(ctx).stages}
    with pytest.raises(ConfigError, match=r"crepa\.crepa_enabled: is false"):
        find_result(FRAMES, ctx)


def test_it_is_estimated_and_explained(prepared: Bench) -> None:
    # The copied files are other files until they have been looked at.
    prepared.probe()
    other = with_crepa(prepared, crepa_encoder_image_size=28)

    def of_frames() -> Any:
        return next(s for s in estimate(other.ctx).stages if s.stage is FRAMES)

    ctx = other.ctx
    keys = set(embed_frames_all_keys(ctx))
    before = of_frames()
    assert (before.to_do, before.in_place) == (len(keys), 0)
    changed = "teacher features, changed: the teacher's image size"
    assert f"{FRAMES.name}: {changed}" in explain_clip(ctx, CLIP).work
    report = next(report for report in explain_stages(ctx) if report.stage == FRAMES.name)
    assert (report.state, report.why[1:]) == (
        "stale", [f"{len(keys)} {changed.replace(',', ':')}"],
    )  # fmt: skip
    embed(other)
    stamped(other)
    after = of_frames()
    assert (after.to_do, after.in_place, after.disk_bytes) == (0, len(keys), 0)
    index = LatentStore(ctx.store).index
    chunks = [chunk_of(index[key]) for key in keys]
    assert before.disk_bytes == sum((ctx.workspace.root / "store" / c).stat().st_size for c in chunks)
    report = next(report for report in explain_stages(other.ctx) if report.stage == FRAMES.name)
    assert report.state == "up to date"


def test_its_memory_plan_shrinks_with_the_frames_at_once_and_training_counts_the_projector(
    prepared: Bench,
) -> None:
    ctx = prepared.ctx
    names = [strategy.name for strategy in strategies(FRAMES, ctx.recipe)]
    assert names == [AS_ASKED, "crepa.crepa_encoder_batch_size: 1"]
    single = with_crepa(prepared, crepa_encoder_batch_size=1)
    assert len(strategies(FRAMES, single.recipe)) == 1
    needs = [
        plan_stage(ctx.with_recipe(s.recipe), FRAMES).total_bytes for s in strategies(FRAMES, ctx.recipe)
    ]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] > needs[-1]
    plain = without_crepa(prepared).ctx
    with_it, without = plan_stage(ctx, TRAIN), plan_stage(plain, TRAIN)
    assert with_it.adapter_bytes - without.adapter_bytes == 16 * (2 * 64 + 64 * 32 + 32)
    assert with_it.activations_bytes > without.activations_bytes


def test_a_block_that_the_model_has_not_and_data_without_pictures_are_refused(prepared: Bench) -> None:
    with pytest.raises(ConfigError, match=r"crepa_block_index: is 2, but the model's last block is 1"):
        find_result(FRAMES, with_crepa(prepared, crepa_block_index=2).ctx)
    with pytest.raises(ConfigError, match=r"crepa\.crepa_enabled: .* every dataset is sound alone"):
        check_crepa(prepared.ctx, audio_only=True)
    check_crepa(prepared.ctx, audio_only=False)
    shared = ProcessSettings(count=2, accelerate_config=ROOT / "deploy/accelerate/fsdp2.yaml")
    several = Bench(prepared.root, prepared.recipe.model_copy(update={"processes": shared}))
    with pytest.raises(ConfigError, match=r"crepa_enabled: .*processes\.accelerate_config shards"):
        check_crepa(several.ctx, audio_only=False)


def test_the_teacher_is_made_in_a_process_of_its_own_where_it_is_missing(prepared: Bench) -> None:
    from tasks.model import prepare_crepa

    ctx = prepared.ctx
    fingerprint = ctx.teacher.fingerprint()
    shutil.rmtree(ctx.teacher.root)
    ctx = prepared.ctx
    # A context that knows its model already, as the parent's does.
    assert ctx.source.version
    prepare_crepa.fn(ctx)
    assert ctx.teacher.fingerprint() == fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 99}, "'hidden_size': 99"),
        ({"model_type": "dinov2_with_registers"}, "dinov2_with_registers"),
        ({"patch_size": 16}, "'patch_size': 16"),
    ],
)
def test_weights_of_another_teacher_are_refused(
    prepared: Bench, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    root = tmp_path / "teacher"
    shutil.copytree(prepared.ctx.teacher.root, root)
    config = json.loads((root / "config.json").read_text())
    (root / "config.json").write_text(json.dumps({**config, "hidden_size": 384, **change}))
    settings = CrepaSettings(crepa_enabled=True, crepa_encoder="dinov2_vits14", crepa_encoder_path=str(root))
    with pytest.raises(ModelError, match=message):
        resolve_teacher(settings, tmp_path)
    # The right words over the wrong weights are found when they are loaded.
    (root / "config.json").write_text(json.dumps({**config, "hidden_size": 384}))
    with pytest.raises((ModelError, RuntimeError), match=r"mismatch|do not fit"):
        load_teacher(resolve_teacher(settings, tmp_path), "cpu")


def test_a_teacher_that_is_nowhere_says_what_to_write(tmp_path: Path) -> None:
    settings = CrepaSettings(crepa_encoder="dinov2_vits14", crepa_encoder_path="./nowhere")
    with pytest.raises(ModelError, match=r"crepa_encoder_path: \./nowhere is neither a directory"):
        resolve_teacher(settings, tmp_path)
    with pytest.raises(ModelError, match="tiny teacher is not in"):
        resolve_teacher(CrepaSettings(crepa_encoder="tiny"), tmp_path)
