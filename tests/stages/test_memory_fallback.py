"""Trainings and renderings are equal to the bit in every arrangement, and after running out of memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ltxcore.execution.execution import Execution, find_result
from ltxcore.execution.memory_budget import StageOutOfMemory, memory_budget
from ltxcore.execution.memory_plans import plan_stage
from ltxcore.execution.strategies import AS_ASKED, NoPlanLeft, choose
from ltxcore.models.vae.ways import LARGE_TILES
from ltxcore.pipeline.base.contract import RENDER, TRAIN
from ltxcore.pipeline.base.stamp import request_fingerprint, write_stamp
from ltxcore.pipeline.plan.out_of_memory_record import MemoryRetry, OutOfMemoryRecord
from ltxcore.stages.render_validation.session import Session
from ltxcore.stages.train_lora.request import request as train_lora_request
from ltxcore.stages.train_lora.training import Training
from tests.stages.conftest import Bench, make_bench
from tests.stages.simulated_card import simulated_card

STEPS = 4
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """A bench with everything that training needs, and a training that was never disturbed."""
    bench = make_bench(tmp_path_factory.mktemp("prepared"), sample_clips, tiny_models)
    bench = changed(bench, "training", max_train_steps=STEPS, train_batch_size=2)
    bench = changed(
        bench,
        "validation",
        validation_prompts={"box": "A blue box."},
        validation_num_inference_steps=2,
        validation_num_video_frames=9,
    )
    bench.prepare()
    return bench


@pytest.fixture(scope="module")
def undisturbed(prepared: Bench) -> dict[str, torch.Tensor]:
    return trained(prepared, "undisturbed")


def changed(bench: Bench, section: str, **values: object) -> Bench:
    settings = getattr(bench.recipe, section).model_copy(update=values)
    return Bench(bench.root, bench.recipe.model_copy(update={section: settings}))


def trained(bench: Bench, folder: str) -> dict[str, torch.Tensor]:
    """The adapter of a training in a folder of its own."""
    training = Training(bench.ctx, bench.root / folder, train_lora_request(bench.ctx), "cpu")
    training.run(lambda metrics: None, lambda: False)
    return load_file(bench.root / folder / "lora" / "pytorch_lora_weights.safetensors")


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.parametrize(
    "memory",
    [
        {"text_connectors": "streamed"},
        {"text_connectors": "precomputed", "resident_blocks": 1},
        {"strategy": "block_streaming", "text_connectors": "precomputed"},
    ],
    ids=lambda memory: ", ".join(f"{key}: {value}" for key, value in memory.items()),
)
def test_every_arrangement_trains_the_same_adapter(
    prepared: Bench, undisturbed: dict[str, torch.Tensor], memory: dict[str, Any]
) -> None:
    bench = changed(prepared, "memory", **memory)
    assert train_lora_request(bench.ctx) == train_lora_request(prepared.ctx), "how it is placed is in no key"
    folder = "-".join(map(str, memory.values()))
    assert_equal(trained(bench, folder), undisturbed)
    assert not (bench.root / folder / "connected").exists(), "the connectors' outputs are deleted"


def test_captions_that_were_connected_before_are_not_connected_again(prepared: Bench, tmp_path: Path) -> None:
    from ltxcore.stages.train_lora import connected_captions

    captions = ["", *sorted(prepared.ctx.snapshot.captions())]
    first = connected_captions.ConnectedCaptions(prepared.ctx, tmp_path, torch.float32)
    first.compute(captions, "cpu")
    assert len(list((tmp_path / "connected").iterdir())) == len(captions)
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "connected").iterdir()}
    connected_captions.ConnectedCaptions(prepared.ctx, tmp_path, torch.float32).compute(captions, "cpu")
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "connected").iterdir()} == written
    other = connected_captions.ConnectedCaptions(prepared.ctx, tmp_path, torch.bfloat16)
    with pytest.raises(FileNotFoundError):
        other.load(captions[1])
    whole = [first.load(caption).video.clone() for caption in captions]
    for file in (tmp_path / "connected").iterdir():
        data = file.read_bytes()
        file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    for caption in captions:
        with pytest.raises(connected_captions.DamagedConnected, match="start the training again"):
            first.load(caption)
    connected_captions.ConnectedCaptions(prepared.ctx, tmp_path, torch.float32).compute(captions, "cpu")
    assert all(torch.equal(first.load(c).video, video) for c, video in zip(captions, whole, strict=True))


def opened(bench: Bench, stage: Any) -> Execution:
    ctx = bench.ctx
    return Execution(stage, ctx, find_result(stage, ctx)[0], bench.root / "run")


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let batch `number` of a training run out of memory."""
    from ltxcore.training import loop
    from ltxcore.training.step import batch_losses

    def losses(model: Any, connectors: Any, batch: Any, recipe: Any, at: int, *rest: Any) -> Any:
        if at == number:
            raise OUT_OF_MEMORY
        return batch_losses(model, connectors, batch, recipe, at, *rest)

    monkeypatch.setattr(loop, "batch_losses", losses)


def test_a_training_out_of_memory_goes_on_from_its_checkpoint_with_smaller_plans(
    prepared: Bench, undisturbed: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(prepared.root, tmp_path / "bench")
    bench = Bench(tmp_path / "bench", prepared.recipe)
    plans, began_at = [], []

    def work(run: Execution) -> Training:
        steps: list[int] = []
        with memory_budget(run) as plan:
            assert plan is not None
            plans.append(plan)
            training = Training(run.ctx, run.directory, run.request, "cpu", plan)
            try:
                result = training.run(lambda metrics: steps.append(metrics.step), lambda: False)
            finally:
                began_at.append(steps[0] if steps else None)
            run.finish(training.finish(result))
        return training

    with simulated_card():
        retry = MemoryRetry(OutOfMemoryRecord(opened(bench, TRAIN).directory, bench.recipe.memory))
        fail_at(monkeypatch, 2)
        with pytest.raises(StageOutOfMemory, match=r"CUDA out of memory\. Tried"):
            work(opened(bench, TRAIN))
        reason = retry()
        assert reason is not None
        assert reason.endswith("it is started again with the next plan")
        fail_at(monkeypatch, -1)
        last = opened(bench, TRAIN)
        work(last)
    assert began_at == [1, 3], "it went on from the checkpoint of step 2"
    # Streaming two blocks through two places saves nothing; the full-size walk is in tests/unit.
    assert [plan.arrangement.strategy for plan in plans] == ["resident", "group_offload"]
    assert plans[1].total_bytes < plans[0].total_bytes
    assert last.why.endswith(f"because memory ran out: {plans[1].strategy}")
    stamp = find_result(TRAIN, bench.ctx)[1]
    assert stamp is not None
    memory = stamp.outcome.facts["memory"]
    assert memory["strategy"] == plans[1].strategy
    assert [line.split(": ")[0] for line in memory["setbacks"]] == [AS_ASKED]
    lora = load_file(last.directory / "lora" / "pytorch_lora_weights.safetensors")
    assert_equal(lora, undisturbed)


def test_plans_that_can_fail_come_to_an_end(prepared: Bench, tmp_path: Path) -> None:
    """Past the smallest plan there is none; a forced strategy that leaves nothing smaller says so."""
    record = OutOfMemoryRecord(tmp_path, prepared.recipe.memory)
    with simulated_card():
        for _ in range(2):
            plan = choose(prepared.ctx, TRAIN, "cpu", record.all()).plan
            record.note(plan.strategy, "CUDA out of memory", "device", plan)
        assert plan.arrangement.connectors != "resident"
        with pytest.raises(NoPlanLeft, match="no plan takes less; allow more memory or use"):
            choose(prepared.ctx, TRAIN, "cpu", record.all())
        forced = changed(prepared, "memory", strategy="resident").ctx
        with pytest.raises(NoPlanLeft, match=r"set memory\.strategy: auto instead of resident"):
            choose(forced, TRAIN, "cpu", record.all())


@pytest.fixture(scope="module")
def pictures(prepared: Bench, undisturbed: dict[str, torch.Tensor]) -> Any:
    """A stamp of the undisturbed training, and what is rendered of it with all weights resident."""
    ctx = prepared.ctx
    request = train_lora_request(ctx)
    folder = ctx.workspace.stages / "train-lora" / request_fingerprint(TRAIN, request)[:16]
    training = Training(ctx, folder, request, "cpu")
    write_stamp(
        ctx.workspace, TRAIN, request, training.finish(training.run(lambda m: None, lambda: False)), 0, 0
    )
    return rendered(prepared)


def rendered(bench: Bench, plan: Any = None) -> list[Any]:
    session = Session(bench.ctx, bench.root / "rendered", "cpu", plan)
    found = session.render(lambda what: None)
    return [rendering for prompt in found for rendering in (prompt.base, *prompt.loras)]


@pytest.mark.parametrize(
    "memory",
    [
        {"strategy": "block_streaming"},
        {"resident_blocks": 1},
        {"musubi_blocks_to_swap": 1},
        {"enable_group_offload": True},
        {"enable_group_offload": True, "group_offload_type": "leaf_level"},
    ],
    ids=lambda memory: ", ".join(f"{key}: {value}" for key, value in memory.items()),
)
def test_every_arrangement_renders_the_same_pictures_and_sound(
    prepared: Bench, pictures: list[Any], memory: dict[str, Any]
) -> None:
    found = rendered(changed(prepared, "memory", **memory))
    assert not np.array_equal(pictures[0].frames, pictures[1].frames), "the LoRA changes the picture"
    for ours, theirs in zip(found, pictures, strict=True):
        assert np.array_equal(ours.frames, theirs.frames)
        assert np.array_equal(ours.audio, theirs.audio)


def test_a_rendering_out_of_memory_is_placed_smaller(
    prepared: Bench, pictures: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltxcore.validation.render import Renderer

    with simulated_card():
        first = plan_stage(prepared.ctx, RENDER, "cuda")
        assert first.arrangement.strategy == "resident"
        with monkeypatch.context() as patch:
            patch.setattr(Renderer, "render", lambda *args, **more: (_ for _ in ()).throw(OUT_OF_MEMORY))
            run = opened(prepared, RENDER)
            with pytest.raises(StageOutOfMemory), memory_budget(run) as plan:
                rendered(prepared, plan)
        again = opened(prepared, RENDER)
        with memory_budget(again) as plan:
            assert plan is not None
            assert plan.total_bytes < first.total_bytes
            found = rendered(prepared, plan)
        assert again.failed_plans
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(found, pictures, strict=True))
    assert LARGE_TILES.size > 64, "the pictures are smaller than a tile"
