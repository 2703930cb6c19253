"""Stages within their budget: the plan that is chosen, what happens out of memory, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ltxcore.config.memory_settings import MemorySettings
from ltxcore.config.recipe import Recipe
from ltxcore.execution.execution import Execution, find_result
from ltxcore.execution.memory_budget import StageOutOfMemory, memory_budget
from ltxcore.execution.memory_plans import host_limit_bytes, plan_rows, plan_stage
from ltxcore.execution.runner import run_work
from ltxcore.execution.strategies import AS_ASKED, NoPlanLeft, choose, strategies
from ltxcore.memory.plan import GIB, OverBudget
from ltxcore.memory.watchdog import host_use_bytes
from ltxcore.models.files import loading
from ltxcore.models.files.source import resolve_model
from ltxcore.models.vae.ways import LARGE_TILES, SMALL_TILES, VaeWay
from ltxcore.pipeline.base.contract import LATENTS, PROBE, RENDER, TEXT, TRAIN
from ltxcore.pipeline.base.stamp import Stamp, write_stamp
from ltxcore.pipeline.data.keys import LatentSpaces
from ltxcore.pipeline.plan.out_of_memory_record import (
    MAX_FAILED_PLANS,
    FailedPlan,
    MemoryRetry,
    OutOfMemoryRecord,
)
from ltxcore.pipeline.plan.vae_room import VaeRoom
from ltxcore.stages.embed_text.memory import LAYERED_TOKENS
from ltxcore.stages.embed_text.request import keyed_texts
from ltxcore.stages.embed_text.request import to_do as embed_text_to_do
from ltxcore.stages.embed_text.work import Embedder
from ltxcore.stages.encode_latents.request import request as encode_latents_request
from ltxcore.stages.encode_latents.request import spaces_of
from ltxcore.stages.encode_latents.vae_backoff import VaeBackOff
from ltxcore.stages.encode_latents.work import Encoder
from ltxcore.stages.encode_latents.work import plan_batches as encode_latents_plan_batches
from ltxcore.stages.probe_media.request import request as probe_media_request
from ltxcore.store.latents import LatentStore
from ltxcore.store.texts import TextStore
from ltxcore.validation.decoding import decode_within_memory
from tests.stages.conftest import Bench, make_bench, work_of


def changed(bench: Bench, section: str, **values: object) -> Bench:
    settings = getattr(bench.recipe, section).model_copy(update=values)
    return Bench(bench.root, bench.recipe.model_copy(update={section: settings}))


def opened(bench: Bench, stage: Any = LATENTS) -> Execution:
    ctx = bench.ctx
    return Execution(stage, ctx, find_result(stage, ctx)[0], bench.root / "run")


def failed_plan(plan: str) -> FailedPlan:
    return FailedPlan(plan=plan, reason="it held too much", at_s=0.0)


class CappedDevice:
    """An allocator with a limit: the encoder's or decoder's input may hold so many values, and no more."""

    def __init__(self, module: torch.nn.Module, values: int) -> None:
        self.refused = 0
        self._values = values
        module.register_forward_pre_hook(self._allocate)

    def _allocate(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if args[0].numel() > self._values:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.fixture
def vae(tiny_models: Path) -> Any:
    source = resolve_model(Recipe().model, tiny_models)
    return loading.load_video_vae(source, torch.float32, "cpu")


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, sample_clips: Path, tiny_models: Path) -> Bench:
    """A bench with its clips probed and their sound split. Tests leave the store as it is."""
    bench = make_bench(tmp_path_factory.mktemp("probed"), sample_clips, tiny_models)
    bench.look()
    bench.split()
    return bench


def test_a_clip_that_does_not_fit_is_encoded_in_pieces_with_the_same_latents(vae: Any) -> None:
    clip = np.random.default_rng(0).integers(0, 256, (33, 64, 64, 3), dtype=np.uint8)
    ((whole, way),) = VaeBackOff(vae, VaeWay()).encode([clip])
    assert way == VaeWay()
    capped = CappedDevice(vae.encoder.conv_in, 12 * clip[0].size)
    backoff = VaeBackOff(vae, VaeWay())
    ((found, way),) = backoff.encode([clip])
    assert way == VaeWay(8)
    assert (found.float() - whole.float()).abs().max() <= 2**-7 * whole.float().abs().max()
    assert backoff.steps[-1] == (
        "33 frames of 64x64 did not fit as pieces of 16 frames; encoded as pieces of 8 frames"
    )
    # The next clip of that size begins where this one ended.
    refused = capped.refused
    backoff.encode([clip, clip])
    assert capped.refused == refused + 1, "two at once were tried"
    backoff.encode([clip, clip])
    assert capped.refused == refused + 1


def test_a_clip_that_fits_in_no_way_says_what_to_do(vae: Any) -> None:
    CappedDevice(vae.encoder, 1)
    with pytest.raises(MemoryError, match="even as pieces of 8 frames; allow more memory, or give"):
        VaeBackOff(vae, VaeWay()).encode([np.zeros((33, 64, 64, 3), np.uint8)])


def test_another_error_is_no_want_of_memory(vae: Any) -> None:
    with pytest.raises(ValueError, match="found 10 frames"):
        VaeBackOff(vae, VaeWay()).encode([np.zeros((10, 64, 64, 3), np.uint8)])


def test_pieces_and_batches_change_no_key_and_no_latent(bench: Bench) -> None:
    bench.look()
    bench.split()
    spaces = LatentSpaces.of(bench.ctx.source, bench.ctx.recipe)
    keys = [spaces.video_key(sample) for sample in bench.ctx.snapshot.samples]
    bench.encode()
    store = LatentStore(bench.ctx.store)
    whole = {key.value: store.read(key.value) for key in keys}

    small = changed(bench, "encode", vae_enable_temporal_roll=True, vae_batch_size=3, vae_enable_slicing=True)
    assert [
        k
        for sample in small.ctx.snapshot.samples
        for k in LatentSpaces.of(small.ctx.source, small.ctx.recipe).keys(sample)
        if k not in store.index
    ] == []
    import shutil

    shutil.rmtree(bench.root / "workspace" / "store" / "latents")
    assert small.encode() == {"video": 5, "audio": 4}
    again = LatentStore(small.ctx.store)
    for key, bits in whole.items():
        ours, theirs = (
            torch.from_numpy(b.copy()).view(torch.bfloat16).float() for b in (again.read(key), bits)
        )
        assert (ours - theirs).abs().max() <= 2**-6 * theirs.abs().max()


def test_tiles_are_found_under_their_own_key_and_are_part_of_the_request(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of 32 pixels: the clips of the bench are then larger than one tile."""
    from ltxcore.models.vae import ways

    tiles = ways.Tiles(32, 32)
    monkeypatch.setattr(ways, "WAYS", (VaeWay(), VaeWay(8, tiles)))
    monkeypatch.setattr("ltxcore.pipeline.data.keys.TILINGS", (tiles.name,))
    bench.look()
    bench.split()
    ctx = bench.ctx
    before = encode_latents_request(ctx)
    encoder = Encoder(ctx, "cpu")
    batches = encode_latents_plan_batches(ctx, encoder.store)
    CappedDevice(encoder.vae.encoder, 3 * 17 * 32 * 32)
    for batch in batches:
        encoder.commit_batch(batch, lambda: None)
    assert encoder.backoff.steps
    spaces = spaces_of(bench.ctx, LatentStore(bench.ctx.store))
    first = bench.ctx.snapshot.samples[0]
    assert spaces.video_key(first).inputs["tiling"] == "32/32"
    assert spaces.video_key(first).value in LatentStore(bench.ctx.store).index
    assert encode_latents_plan_batches(bench.ctx, LatentStore(bench.ctx.store)) == [], (
        "nothing is encoded again"
    )
    after = encode_latents_request(bench.ctx)
    assert set(after["tiled"]) == {sample.id for sample in bench.ctx.snapshot.samples}
    assert before == {name: value for name, value in after.items() if name != "tiled"}


def test_a_rendering_that_does_not_fit_is_decoded_in_tiles(vae: Any) -> None:
    latents = torch.randn(1, 16, 2, 20, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = vae.decode(latents, return_dict=False)[0]
    on_demand = decode_within_memory(vae)
    CappedDevice(vae.decoder, 16 * 2 * 10 * 10)
    with torch.no_grad():
        found = vae.decode(latents, return_dict=False)[0]
    assert found.shape == whole.shape
    assert [step.split("; ")[1] for step in on_demand.steps] == [
        "decoded in tiles of 512 pixels",
        "decoded in tiles of 256 pixels",
    ]
    assert not vae.use_slicing
    CappedDevice(vae.decoder, 1)
    with pytest.raises(torch.OutOfMemoryError):
        vae.decode(latents, return_dict=False)


def test_captions_layer_by_layer_give_the_stored_features_of_the_whole_model(bench: Bench) -> None:
    bench.look()
    layered = changed(bench, "model", text_encoder_loading="layer_by_layer")
    waiting = embed_text_to_do(bench.ctx, TextStore(bench.ctx.store))
    embedder = Embedder(layered.ctx, "cpu")
    assert [list(batch) for batch in embedder.batches(waiting)] == [waiting]
    embedder.embed_batch(waiting)
    assert layered.embed() == bench.embed() == 0, "how Gemma was loaded is in no key"
    store = TextStore(bench.ctx.store)
    assert all(store.read(key).video.size for key in keyed_texts(bench.ctx))


def test_strategies_are_the_recipes_own_keys(probed: Bench) -> None:
    names = [strategy.name for strategy in strategies(LATENTS, probed.recipe)]
    assert names == [
        AS_ASKED,
        "encode.vae_enable_patch_conv: true",
        "encode.vae_enable_patch_conv: true, encode.vae_enable_temporal_roll: true",
        "encode.vae_enable_patch_conv: true, encode.vae_enable_temporal_roll: true, "
        "encode.vae_enable_tiling: true",
    ]
    assert [s.name for s in strategies(TRAIN, probed.recipe)] == [
        AS_ASKED,
        "memory.text_connectors: precomputed",
    ]
    resident, layered = strategies(TEXT, probed.recipe)
    assert resident.recipe.model.text_encoder_loading == "resident"
    assert layered.recipe.model.text_encoder_loading == "layer_by_layer"
    forced = changed(probed, "model", text_encoder_loading="resident").recipe
    assert [s.name for s in strategies(TEXT, forced)] == [AS_ASKED]


def test_the_fastest_plan_that_fits_is_chosen(probed: Bench) -> None:
    ctx = changed(probed, "encode", vae_batch_size=4096).ctx
    rich = choose(ctx, LATENTS, "cpu")
    assert rich.strategy.name == AS_ASKED
    need = plan_stage(ctx, LATENTS).total_bytes
    poor = changed(probed, "memory", ram_gib=(need - 1) / GIB)
    poor = changed(poor, "encode", vae_batch_size=4096)
    choice = choose(poor.ctx, LATENTS, "cpu")
    assert choice.strategy.name == AS_ASKED, "fewer clips at once need no other recipe"
    assert choice.plan.total_bytes < need
    # What has failed is passed over, and the end of the list is an error.
    after = choose(poor.ctx, LATENTS, "cpu", [failed_plan(AS_ASKED)])
    assert after.strategy.name == after.plan.strategy == "encode.vae_batch_size: 1"
    last = strategies(LATENTS, poor.recipe)[-1].name
    with pytest.raises(NoPlanLeft, match=r"its smallest plan: .* allow more or use smaller clips"):
        choose(poor.ctx, LATENTS, "cpu", [failed_plan(last)])


def test_each_size_of_clip_goes_the_fastest_way_that_fits(vae: Any) -> None:
    small, large = (17, 64, 64), (121, 1280, 704)
    plenty = VaeRoom(200 * GIB, channels=256, value_bytes=2)
    assert plenty.way_for(VaeWay(), large) == VaeWay()
    pieces = VaeRoom(3 * GIB, channels=256, value_bytes=2)
    assert pieces.way_for(VaeWay(), large) == VaeWay(16)
    assert pieces.way_for(VaeWay(), small) == VaeWay()
    assert pieces.way_for(VaeWay(8), large) == VaeWay(8), "what the recipe asks for is where it begins"
    assert VaeRoom(GIB, channels=256, value_bytes=2).way_for(VaeWay(), large) == VaeWay(8, LARGE_TILES)
    assert VaeRoom(0, channels=256, value_bytes=2).way_for(VaeWay(), large) == VaeWay(8, SMALL_TILES)
    two = VaeRoom(2 * plenty.work_bytes(VaeWay(), small), channels=256, value_bytes=2)
    assert [two.clips_for(VaeWay(), small, asked) for asked in (1, 2, 5)] == [1, 2, 2]

    # Carried out: nothing that is not predicted to fit is tried.
    clips = list(np.random.default_rng(0).integers(0, 256, (3, 33, 64, 64, 3), dtype=np.uint8))
    whole = [latents for latents, _ in VaeBackOff(vae, VaeWay()).encode(clips)]
    room = VaeRoom(0, channels=8, value_bytes=4)
    room = VaeRoom(room.work_bytes(VaeWay(16), (33, 64, 64)), channels=8, value_bytes=4)
    seen: list[tuple[int, ...]] = []
    vae.encoder.conv_in.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    backoff = VaeBackOff(vae, VaeWay(), room)
    found = backoff.encode(clips)
    assert not backoff.steps
    assert {shape[0] for shape in seen} == {1}
    assert max(shape[2] for shape in seen) <= 16
    assert {way for _, way in found} == {VaeWay(16)}
    for (ours, _), theirs in zip(found, whole, strict=True):
        assert (ours.float() - theirs.float()).abs().max() <= 2**-7 * theirs.float().abs().max()


@pytest.mark.parametrize(("dtype", "value_bytes"), [("bf16", 2), ("fp32", 4)])
def test_the_layered_plan_counts_two_layers_and_one_pass_of_captions(
    probed: Bench, dtype: str, value_bytes: int
) -> None:
    model = {"text_encoder_loading": "layer_by_layer", "text_encoder_dtype": dtype}
    plan = plan_stage(changed(probed, "model", **model).ctx, TEXT)
    # 48 wide: the states and float32 sums of every token.
    assert plan.activations_bytes > LAYERED_TOKENS * 48 * (value_bytes + 4)
    # 2 layers of q, k, v, o, gate, up, down and norms, and the projection of 4 states, once in the dtype and
    # a layer's part in float32.
    layer = 48 * (48 + 24 + 24 + 48) + 3 * 48 * 96 + 4 * 48 + 2 * 12
    assert plan.weights_bytes == 2 * layer * value_bytes + 48 * 48 * 4 * value_bytes + 48 * 48 * 4
    assert plan.strategy == "layer by layer"


def test_weights_are_counted_as_they_are_computed_with(probed: Bench) -> None:
    for stage, section, half, whole in (
        (LATENTS, "encode", {"vae_dtype": "bf16"}, {"vae_dtype": "fp32"}),
        (RENDER, "training", {"mixed_precision": "bf16"}, {"mixed_precision": "no"}),
    ):
        ctxs = [changed(probed, section, **values).ctx for values in (half, whole)]
        small, large = (plan_stage(ctx, stage) for ctx in ctxs)
        assert large.weights_bytes == 2 * small.weights_bytes
        limits = [host_limit_bytes(ctx, stage) for ctx in ctxs]
        assert limits[1] - limits[0] == small.weights_bytes


def test_half_a_gibibyte_is_refused_before_anything_loads(probed: Bench) -> None:
    small = changed(probed, "memory", ram_gib=0.5)
    for stage in (LATENTS, TEXT):
        run = opened(small, stage)
        message = rf"{stage.name} needs 0\.9 GiB of host memory .* allows 0\.5"
        with pytest.raises(OverBudget, match=message), memory_budget(run):
            pytest.fail("the stage began")
        assert not (run.directory / "memory").exists()
    for stage in (TRAIN, RENDER):
        with pytest.raises(OverBudget, match=rf"{stage.name} needs 0\.9 GiB"):
            choose(small.ctx, stage, "cpu")


def test_a_stage_that_outgrows_its_budget_fails_and_the_next_process_takes_the_next_plan(
    bench: Bench,
) -> None:
    bench.look()
    bench.split()
    small = changed(bench, "memory", ram_gib=max(1.0, host_use_bytes() / GIB + 0.4))
    run = opened(small)
    record = OutOfMemoryRecord(run.directory, small.recipe.memory)
    retry = MemoryRetry(record)
    assert retry() is None, "it has not failed yet"

    held = []
    with pytest.raises(StageOutOfMemory, match=r"plan 'as the recipe says': .* GiB of host memory"):
        _outgrow(run, held)
    held.clear()
    assert [failed_plan.plan for failed_plan in record.all()] == [AS_ASKED]
    reason = retry()
    assert reason is not None
    assert reason.startswith("out of memory with as the recipe says (it held ")
    assert retry() is None, "one failed plan is one retry"

    again = opened(small)
    stamp = run_work(again)
    assert isinstance(stamp, Stamp)
    assert again.ctx.recipe.encode.vae_enable_patch_conv
    assert again.request == run.request
    assert stamp.outcome.facts["memory"]["strategy"] == "encode.vae_enable_patch_conv: true"
    assert stamp.outcome.facts["memory"]["predicted_bytes"] > 0
    assert again.why.endswith("because memory ran out: encode.vae_enable_patch_conv: true")
    # With another budget the fastest plan is tried again.
    with memory_budget(opened(bench)) as plan:
        assert plan is not None
        assert plan.strategy == "resident"


def _outgrow(run: Execution, held: list[np.ndarray]) -> None:
    with memory_budget(run):
        for _ in range(100):
            held.append(np.ones(50 << 20, dtype=np.uint8))
            time.sleep(0.05)


def test_an_error_of_the_device_is_a_failed_plan_and_another_is_not(probed: Bench) -> None:
    run = opened(probed)
    with pytest.raises(StageOutOfMemory, match="CUDA out of memory"), memory_budget(run):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore")
    with pytest.raises(ValueError, match="broken"), memory_budget(run):
        raise ValueError("broken")
    record = OutOfMemoryRecord(run.directory, probed.recipe.memory)
    assert [s.reason for s in record.all()] == ["CUDA out of memory. Tried to allocate 2.00 GiB"]
    retry = MemoryRetry(record)
    for _ in range(MAX_FAILED_PLANS):
        record.note("some plan", "again")
    assert retry() is None, "enough is enough"


def test_a_process_that_was_killed_full_counts_and_one_that_was_not_does_not(tmp_path: Path) -> None:
    record = OutOfMemoryRecord(tmp_path, MemorySettings(ram_gib=4))
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    for used, counted in ((3.8, 1), (1.0, 1)):
        record.begin("resident")
        record.used(int(used * GIB), 4 * GIB)
        record.settle()
        assert len(record.all()) < 2, "a process that is alive has not been killed"
        file = next((tmp_path / "memory").glob("*-running.json"))
        file.write_text(file.read_text().replace(f'"process":{os.getpid()}', f'"process":{child.pid}'))
        file.write_text(file.read_text().replace(f'"process": {os.getpid()}', f'"process": {child.pid}'))
        record.settle()
        assert len(record.all()) == counted
        assert not file.exists()
    assert record.all()[0].reason == "it was killed while it held 3.80 of 4.00 GiB of host memory"
    assert OutOfMemoryRecord(tmp_path, MemorySettings(ram_gib=8)).all() == []


def test_a_stage_without_models_is_watched_too(probed: Bench) -> None:
    ctx = probed.ctx
    run = Execution(PROBE, ctx, probe_media_request(ctx), probed.root / "run")
    held: list[np.ndarray] = []
    run.ctx = changed(probed, "memory", ram_gib=host_use_bytes() / GIB + 0.2).ctx
    with pytest.raises(StageOutOfMemory, match=r"probe-media ran out of memory"):
        _outgrow(run, held)


def test_predictions_stand_beside_what_was_measured(probed: Bench) -> None:
    rows = {row["stage"]: row for row in plan_rows(probed.ctx, {"encode-latents": GIB})}
    assert rows["encode-latents"]["measured GiB"] == 1.0
    assert rows["train-lora"]["measured GiB"] == ""
    run = opened(probed)
    with memory_budget(run):
        pass
    stamp = write_stamp(
        run.ctx.workspace,
        LATENTS,
        run.request,
        work_of(LATENTS, run.ctx).outcome().outcome,
        time.time(),
        0,
    )
    assert stamp.peak_rss_bytes > 0
