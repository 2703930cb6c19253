"""What adapters and routes add to a step or take from it, against the peaks of real steps on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ltxcore.config.arithmetic import resolve_arithmetic
from ltxcore.config.conditioning_settings import VideoConditioning
from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.recipe import Recipe
from ltxcore.config.tread_settings import Route, Span, TreadSettings
from ltxcore.memory.planner.activations import Activations
from ltxcore.memory.planner.cards import CARDS
from ltxcore.memory.planner.sizes import Tokens, TransformerSizes
from ltxcore.memory.planner.training_planner import Planner, Workload
from ltxcore.memory.planner.tread_tokens import BlockTokens, tokens_by_block
from ltxcore.memory.planner.weight_changes import WeightChanges, smaller_factor
from ltxcore.pipeline.plan.transformer_plan import adapted, given_frames, workload
from ltxcore.training.lora import add_lora, lora_parameters, target_modules
from ltxcore.training.targets import default_targets
from ltxcore.training.tread import TokenRouting
from tests.unit.cuda_norms import cuda_norms
from tests.unit.toy_transformer import Inputs, make_transformer, velocity

BLOCKS = 4
TARGETS = default_targets(with_audio=True)
Length = tuple[int, int, int]
"""Tokens of video, of sound and of text."""
SHORT: Length = (4, 2, 4)
"""Hardly any activations, beside which the weights' changes would not be seen."""
LONG: Length = (256, 32, 16)


def lycoris(**config: object) -> LoraSettings:
    return LoraSettings.model_validate({"lora_type": "lycoris", "lycoris_config": config})


KINDS = {
    "low rank": lycoris(algo="lokr", factor=4, linear_dim=4),
    "whole": lycoris(algo="lokr", factor=16, full_matrix=True),
    "loha": lycoris(algo="loha", linear_dim=1),
}


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that `work` holds at once of what it has allocated itself."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    results: Any = record.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@cache
def measured(
    settings: LoraSettings | None, dtype: torch.dtype, recomputed: bool, length: Length, *spans: Span
) -> tuple[int, TransformerSizes, int]:
    """Peak of a step, the model's sizes, and its trained parameters. None: a LoRA of rank 1."""
    transformer = make_transformer(
        BLOCKS,
        dtype,
        attention_head_dim=64,
        cross_attention_dim=256,
        audio_attention_head_dim=32,
        audio_cross_attention_dim=128,
    )
    shapes = {name: tuple(p.shape) for name, p in transformer.named_parameters()}
    add_lora(
        transformer, settings or LoraSettings(lora_rank=1), target_modules(transformer, with_audio=True), 1
    )
    transformer.train()
    if recomputed:
        transformer.enable_gradient_checkpointing()
    inputs = batch(length, dtype)

    def step() -> None:
        with cuda_norms(), routed(transformer, spans), torch.autocast("cpu", enabled=dtype is torch.bfloat16):
            found = velocity(transformer, inputs)
            with torch.autocast("cpu", enabled=False):
                found.float().square().mean().backward()
        transformer.zero_grad(set_to_none=True)

    # The first step also builds what stays.
    step()
    trained = sum(p.numel() for p in lora_parameters(transformer).values())
    return peak_bytes(step), TransformerSizes(shapes, width=256, audio_width=128), trained


@contextmanager
def routed(transformer: Any, spans: tuple[Span, ...]) -> Iterator[None]:
    routing = TokenRouting(transformer, spans, seed=1)
    try:
        with routing.batch(0):
            yield
    finally:
        routing.remove()


def batch(length: Length, dtype: torch.dtype) -> Inputs:
    video, audio, text = length
    count = 2 if video > 64 else 1
    inputs = Inputs.random(0, dtype=dtype)
    edge = 8 if video > 64 else 2
    inputs.values["video"] = torch.randn(count, 16, video // edge**2, edge, edge).to(dtype)
    inputs.values["audio"] = torch.randn(count, audio, 8).to(dtype)
    for name in ("video_embeds", "audio_embeds"):
        inputs.values[name] = torch.randn(count, text, 48).to(dtype)
    for name in ("video_times", "audio_times", "video_sigma", "audio_sigma"):
        inputs.values[name] = inputs.values[name][:count]
    return inputs


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_changes_of_weights_are_counted_as_they_are_held(
    kind: str, dtype: torch.dtype, recomputed: bool
) -> None:
    settings = KINDS[kind]
    assert settings.lycoris is not None
    plain, sizes, few = measured(None, dtype, recomputed, SHORT)
    more, _, many = measured(settings, dtype, recomputed, SHORT)
    changes = WeightChanges.of(settings.lycoris, TARGETS, dtype.itemsize)
    # A gradient is a float32 value for each parameter, which the planner counts with the adapter.
    predicted = changes.step_bytes(sizes, BLOCKS if recomputed else 0) + 4 * (many - few)
    assert 1 <= predicted / (more - plain) < 1.3


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spans", [(), (Span(1, 2, 0.5),), (Span(0, 2, 0.75),)], ids=["none", "half", "most"])
def test_a_step_with_routes_keeps_within_what_is_predicted(
    dtype: torch.dtype, recomputed: bool, spans: tuple[Span, ...]
) -> None:
    found, sizes, _ = measured(None, dtype, recomputed, LONG, *spans)
    assert predicted_step(sizes, dtype, recomputed, *spans) >= found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("span", [Span(1, 2, 0.5), Span(0, 2, 0.75)], ids=["half", "most"])
def test_routes_save_what_is_predicted(dtype: torch.dtype, span: Span) -> None:
    whole, sizes, _ = measured(None, dtype, False, LONG)
    part, _, _ = measured(None, dtype, False, LONG, span)
    saved = predicted_step(sizes, dtype, False) - predicted_step(sizes, dtype, False, span)
    # In so small a model a part of each block does not depend on its tokens, so a little less is saved.
    assert 1 / 1.3 < saved / (whole - part) <= 1.04


def predicted_step(sizes: TransformerSizes, dtype: torch.dtype, recomputed: bool, *spans: Span) -> int:
    routes = tuple(
        Route(selection_ratio=s.ratio, start_layer_idx=s.start, end_layer_idx=s.end) for s in spans
    )
    activations = Activations(Tokens(*LONG), 2, dtype.itemsize, tread=TreadSettings(routes=routes))
    return activations.step_bytes(sizes, BLOCKS if recomputed else 0)


def test_tokens_of_every_block() -> None:
    found = tokens_by_block(100, 0, (Span(1, 2, 0.75), Span(4, 4, 0.5)), 6)
    assert [block.video for block in found] == [100, 25, 25, 100, 50, 100]
    assert [block.entry for block in found] == [False, True, False, False, True, False]
    assert tokens_by_block(100, 40, (Span(0, 0, 0.75),), 1)[0].video == 40, "what is given never passes by"
    assert tokens_by_block(100, 100, (Span(0, 0, 0.75),), 1) == (BlockTokens(100),)


def test_what_may_be_given_is_not_saved() -> None:
    def frames(*conditions: dict[str, object], **mode: object) -> int | None:
        return given_frames(VideoConditioning.model_validate({"conditions": conditions, **mode}))

    assert frames() == 0
    assert frames({"type": "first_frame"}, {"type": "prefix", "frames": [9, 17]}) == 1 + 3
    assert frames({"type": "suffix", "frames": 16}) == 2
    assert frames({"type": "mask"}) is frames({"type": "spatial_crop"}) is frames(mode="frozen") is None
    routes = TreadSettings(routes=(Route(selection_ratio=0.9, start_layer_idx=0, end_layer_idx=-1),))
    _, sizes, _ = measured(None, torch.float32, False, LONG)

    def step(**given: Any) -> int:
        work = Workload(256, 256, 25, tread=routes, **given)
        return work.activations.step_bytes(sizes, 0)

    assert step() < step(given_frames=1) < step(given_frames=2) < step(given_frames=None)
    assert step(given_frames=None) == Workload(256, 256, 25).activations.step_bytes(sizes, 0)


def test_kronecker_factors_are_split_as_peft_splits_them() -> None:
    from peft.tuners.lokr.layer import factorization

    for size in (127, 128, 256, 1024, 1536, 2048, 4096, 16384):
        for factor in (-1, 4, 7, 16, 1000):
            assert smaller_factor(size, factor) == factorization(size, factor)[0], (size, factor)


def test_a_recipe_plans_for_its_adapter_its_average_and_its_routes() -> None:
    _, sizes, _ = measured(None, torch.float32, False, LONG)
    planner = Planner(sizes, 0, CARDS["h100"], 0)

    def planned(**sections: Any) -> tuple[int, int]:
        work = workload(
            resolve_arithmetic(Recipe.model_validate(sections), "cpu")[0],
            batch=1,
            width=256,
            height=256,
            frames=25,
            fps=25,
            audio=True,
            text_tokens=16,
        )
        plan = planner.plan("resident", work, "no_change", BLOCKS, BLOCKS)
        return plan.adapter_bytes, plan.activations_bytes

    adapter, plain = planned()
    assert planned(training={"use_ema": True}) == (adapter * 20 // 16, plain)
    route = {"selection_ratio": 0.5, "start_layer_idx": 0, "end_layer_idx": -1}
    assert planned(tread={"routes": [route]})[1] < 0.8 * plain
    kronecker = {"lora_type": "lycoris", "lycoris_config": {"algo": "lokr", "full_matrix": True}}
    assert planned(lora=kronecker)[1] > plain


def test_a_presets_classes_are_planned_for() -> None:
    def targets(*classes: str) -> tuple[str, ...]:
        preset = {"target_module": classes}
        return adapted(lycoris(algo="loha", apply_preset=preset), ("default",))

    assert targets() == ("default",)
    assert "net.2" not in targets("LTX2Attention")
    assert targets("FeedForward") == ("net.0.proj", "net.2")
    assert set(targets("LTX2VideoTransformerBlock")) == {*targets("Attention"), *targets("FeedForward")}
