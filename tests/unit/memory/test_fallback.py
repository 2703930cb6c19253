"""After a plan that ran out of memory: the next one takes clearly less, whatever the memory and the stage."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ltxcore.memory.plan import GIB, OverBudget
from ltxcore.memory.planner.cards import CARDS
from ltxcore.memory.planner.fallback import SHARE, Exhausted, Kind, kind_of, next_plan
from ltxcore.memory.planner.render_planner import RenderPlanner, RenderWorkload
from ltxcore.memory.planner.sizes import Tokens
from ltxcore.memory.planner.training_planner import (
    CONTEXT_BYTES,
    HOST_FIXED_BYTES,
    Budget,
    Forced,
    Planner,
    Workload,
)
from ltxcore.models.shapes import full_shapes
from ltxcore.models.versions import VERSIONS
from ltxcore.pipeline.plan.transformer_plan import planner_for
from ltxcore.training.targets import default_targets

SEED = Workload(832, 480, 17, batch=2)
RENDERING = RenderWorkload(
    1280, 704, 49, 25.0, True, 1024, 16, default_targets(True), tile_pixels=512, tiled=False
)


@pytest.fixture(scope="module")
def planner() -> Planner:
    shapes = full_shapes("2.0")
    config = VERSIONS["2.0"].transformer
    return planner_for(shapes["transformer"], shapes["connectors"], config, CARDS["h100"], 2)


@pytest.fixture(scope="module")
def renderer(planner: Planner) -> RenderPlanner:
    return RenderPlanner(planner, decoder_channels=256, rest_bytes=int(1.6 * GIB))


def failed(plan: object, kind: Kind = "device") -> Exhausted:
    return Exhausted(kind, plan.device_bytes, plan.host_bytes)  # type: ignore[attr-defined]


def walk(planner: Planner, work: Workload, budget: Budget, forced: Forced, kind: Kind) -> list:
    """Every plan that is tried when each of them runs out of memory."""
    tried = [planner.choose(work, budget, "no_change", forced)]
    while True:
        plans = planner.variants(work, budget, "no_change", forced)
        found = next_plan(plans, budget, [failed(plan, kind) for plan in tried], last=False)
        if found is None:
            return tried
        tried.append(found)


def test_each_plan_takes_clearly_less_of_the_device_down_to_the_smallest(planner: Planner) -> None:
    budget = Budget.of(CARDS["h200"])
    tried = walk(planner, SEED, budget, Forced(), "device")
    assert (tried[0].way, tried[0].checkpointed) == ("resident", 0)
    ways = [(plan.way, plan.resident) for plan in tried]
    assert ("block_streaming", 0) in ways
    assert any(plan.way == "resident" and plan.checkpointed for plan in tried)
    assert any(0 < plan.resident < 48 for plan in tried)
    assert tried[-1].connectors != "resident"
    held = [plan.device_bytes - CONTEXT_BYTES for plan in tried]
    assert all(b < a for a, b in pairwise(held))
    assert all(b <= SHARE * a for a, b in pairwise(held[:-1]))
    plans = planner.variants(SEED, budget, "no_change", Forced())
    least = min(plans, key=lambda plan: plan.device_bytes)
    assert (least.way, tried[-1].device_bytes) == ("group_offload", least.device_bytes)
    assert tried[-2].way == "block_streaming", "hooks are the last resort"


def test_the_last_try_is_the_smallest_plan(planner: Planner) -> None:
    budget = Budget.of(CARDS["h200"])
    first = planner.choose(SEED, budget)
    plans = list(planner.variants(SEED, budget, "no_change", Forced()))
    found = next_plan(plans, budget, [failed(first)], last=True)
    assert found is not None
    own = [plan for plan in plans if plan.way != "group_offload"]
    assert found.device_bytes == min(plan.device_bytes for plan in own)


def test_short_of_host_memory_more_stays_on_the_device(planner: Planner) -> None:
    budget = Budget(60 * GIB, 64 * GIB)
    streamed = planner.plan("block_streaming", SEED, "no_change", 0, 48)
    plans = planner.variants(SEED, budget, "no_change", Forced())
    found = next_plan(plans, budget, [failed(streamed, "host")], last=False)
    assert found is not None
    assert found.resident > 0
    assert found.host_bytes - HOST_FIXED_BYTES <= SHARE * (streamed.host_bytes - HOST_FIXED_BYTES)
    assert found.fits(budget)


def test_a_forced_strategy_is_kept_and_ends_sooner(planner: Planner) -> None:
    tried = walk(planner, SEED, Budget.of(CARDS["h200"]), Forced("resident"), "device")
    assert {plan.way for plan in tried} == {"resident"}
    assert tried[-1].checkpointed >= 47


def test_renderings_are_placed_and_only_tiled_where_nothing_else_helps(renderer: RenderPlanner) -> None:
    def chosen(card: str) -> tuple[str, int, bool]:
        plan = renderer.choose(RENDERING, Budget.of(CARDS[card]), "no_change", Forced())
        assert plan.fits(Budget.of(CARDS[card]))
        return plan.way, plan.resident, plan.tiled

    assert chosen("h200") == ("resident", 48, False)
    way, resident, tiled = chosen("4090")
    assert (way, tiled) == ("block_streaming", False)
    assert 0 < resident < 48
    small = renderer.choose(RENDERING, Budget(8 * GIB, 64 * GIB), "no_change", Forced())
    assert (small.way, small.tiled) == ("block_streaming", True)
    with pytest.raises(OverBudget, match=r"does not fit: the smallest plan, .* lower validation_resolution"):
        renderer.choose(RENDERING, Budget(3 * GIB, 64 * GIB), "no_change", Forced())
    int8 = renderer.choose(RENDERING, Budget.of(CARDS["4090"]), "int8-quanto", Forced())
    assert int8.resident > resident


def test_a_rendering_out_of_memory_takes_less_next_time(renderer: RenderPlanner) -> None:
    budget = Budget.of(CARDS["h100"])
    first = renderer.choose(RENDERING, budget, "no_change", Forced())
    plans = renderer.variants(RENDERING, "no_change", Forced())
    second = next_plan(plans, budget, [failed(first)], last=False)
    assert second is not None
    assert (second.way, second.tiled) == ("block_streaming", False)
    assert second.device_bytes < first.device_bytes


def test_connectors_run_beforehand_where_captions_are_few_and_the_disk_has_room(planner: Planner) -> None:
    from dataclasses import replace

    budget = Budget.of(CARDS["h200"])
    many_steps = replace(SEED, captions=100, visits=4000)
    assert planner.choose(many_steps, budget).connectors == "precomputed"
    for work, allowed in (
        (SEED, budget),
        (replace(SEED, captions=100, visits=60), budget),
        (many_steps, replace(budget, disk_bytes=GIB)),
    ):
        assert planner.choose(work, allowed).connectors == "resident"
    assert planner.choose(many_steps, budget, forced=Forced(connectors="streamed")).connectors == "streamed"


def test_the_memory_that_an_error_speaks_of() -> None:
    assert (
        kind_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), on_device=True) == "device"
    )
    assert kind_of(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), on_device=True) == "device"
    assert kind_of(MemoryError(), on_device=True) == "host"
    message = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    assert kind_of(RuntimeError(message), on_device=True) == "host"
    assert kind_of(torch.OutOfMemoryError("out of memory"), on_device=False) == "host"


def counted_forward_bytes(tokens: tuple[int, int], text: int) -> int:
    """The most that is alive at once in a forward pass of the real class, weights included."""
    import weakref
    from typing import Any

    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from tests.unit.toy_transformer import Inputs, make_transformer, velocity

    class Alive(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.now = self.most = 0
            self.known: set[int] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            for value in tree_leaves(found):
                if isinstance(value, torch.Tensor):
                    self._count(value.untyped_storage())
            return found

        def _count(self, storage: torch.UntypedStorage) -> None:
            key, size = storage._cdata, storage.nbytes()
            if key in self.known:
                return
            self.known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._free, key, size)

        def _free(self, key: int, size: int) -> None:
            self.known.discard(key)
            self.now -= size

    widths = {"attention_head_dim": 64, "cross_attention_dim": 256}
    audio = {"audio_attention_head_dim": 32, "audio_cross_attention_dim": 128}
    transformer = make_transformer(2, torch.bfloat16, **widths, **audio)
    inputs = Inputs.random(0, dtype=torch.bfloat16)
    inputs.values["video"] = torch.randn(2, 16, tokens[0] // 64, 8, 8).bfloat16()
    inputs.values["audio"] = torch.randn(2, tokens[1], 8).bfloat16()
    for name in ("video_embeds", "audio_embeds"):
        inputs.values[name] = torch.randn(2, text, 48).bfloat16()
    with torch.no_grad(), Alive() as alive:
        velocity(transformer, inputs)
    return alive.most


def test_a_forward_pass_takes_what_is_predicted() -> None:
    from ltxcore.memory.planner.activations import Activations
    from ltxcore.memory.planner.sizes import TransformerSizes

    sizes = TransformerSizes({}, width=256, audio_width=128)

    def predicted(tokens: tuple[int, int], text: int) -> int:
        return Activations(Tokens(*tokens, text), batch=2).rendering_bytes(sizes)

    base = counted_forward_bytes((512, 32), 64)
    for tokens, text in (((1024, 32), 64), ((512, 64), 64), ((512, 32), 128)):
        grown = counted_forward_bytes(tokens, text) - base
        assert predicted(tokens, text) - predicted((512, 32), 64) == pytest.approx(grown, rel=0.05)
