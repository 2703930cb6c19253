"""Routes: which tokens pass by, that the others compute as if alone, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ltxcore.config.lora_settings import LoraSettings
from ltxcore.config.tread_settings import Span
from ltxcore.memory.arrangement import GroupSettings
from ltxcore.memory.streaming.block_streaming import BlockStreaming
from ltxcore.memory.streaming.group_offload import GroupOffloading
from ltxcore.models.modulation import install_cross_modulation
from ltxcore.models.predict_velocity import predict_velocity
from ltxcore.training.lora import add_lora, lora_parameters, target_modules
from ltxcore.training.tread import TokenRouting, keep_tokens
from tests.rounding import assert_alike, terms_of
from tests.unit.toy_transformer import Inputs, make_transformer

LAYERS, TOKENS = 6, 12
HALF = (Span(1, 4, 0.5),)
TWO = (Span(0, 1, 0.25), Span(3, 5, 0.5))


def conditioned(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Two samples, of which the first has its first latent frame given."""
    values = dict(Inputs.random(seed).values)
    times = values["video_sigma"][:, None].repeat(1, TOKENS)
    times[0, :4] = 0
    return {**values, "video_times": times, **changes}


def answer(transformer: Any, values: dict[str, Any]) -> torch.Tensor:
    """Both velocities as one flat tensor."""
    modulation = install_cross_modulation(transformer)
    try:
        velocities = predict_velocity(transformer, **values)
    finally:
        modulation.remove()
    return torch.cat([v.flatten() for v in velocities if v is not None])


def routed(
    transformer: Any, values: dict[str, Any], spans: tuple[Span, ...], number: int = 3
) -> torch.Tensor:
    routing = TokenRouting(transformer, spans, seed=1)
    try:
        with routing.batch(number):
            return answer(transformer, values)
    finally:
        routing.remove()


@pytest.mark.parametrize("values", [Inputs.random(0).values, conditioned()], ids=["per sample", "per token"])
def test_ratio_0_is_equal_to_the_bit(values: dict[str, Any]) -> None:
    expected = answer(make_transformer(LAYERS), values)
    assert torch.equal(routed(make_transformer(LAYERS), values, (Span(1, 4, 0.0),)), expected)
    assert torch.equal(routed(make_transformer(LAYERS), values, ()), expected)


def test_a_route_whose_tokens_are_all_kept_is_equal_to_none() -> None:
    # A ratio so small that it rounds to no token still is a route.
    values = conditioned()
    expected = answer(make_transformer(LAYERS), values)
    assert torch.equal(routed(make_transformer(LAYERS), values, (Span(0, 5, 0.01),)), expected)
    # With every token given there is nothing that may pass by.
    given = {**values, "video_times": torch.zeros(2, TOKENS)}
    expected = answer(make_transformer(LAYERS), given)
    assert torch.equal(routed(make_transformer(LAYERS), given, HALF), expected)


def explicit(
    transformer: Any, values: dict[str, Any], spans: tuple[Span, ...], kept: list[torch.Tensor]
) -> torch.Tensor:
    """The same by hand: sample by sample, each block of a route gets what belongs to the kept tokens."""
    streams: dict[int, torch.Tensor] = {}

    def by_hand(position: int, original: Callable[..., Any]) -> Callable[..., Any]:
        number = next((n for n, s in enumerate(spans) if s.start <= position <= s.end), None)

        def forward(**given: Any) -> Any:
            if number is None:
                return original(**given)
            if position == spans[number].start:
                streams[number] = given["hidden_states"]
            parts = [original(**one_sample(given, row, i)) for row, i in enumerate(kept[number])]
            video, audio = (torch.cat(part) for part in zip(*parts, strict=True))
            if position == spans[number].end:
                whole = streams[number].clone()
                for row, indices in enumerate(kept[number]):
                    whole[row, indices] = video[row]
                video = whole
            return video, audio

        return forward

    for position, block in enumerate(transformer.transformer_blocks):
        block.forward = by_hand(position, block.forward)
    return answer(transformer, values)


def one_sample(given: dict[str, Any], row: int, indices: torch.Tensor) -> dict[str, Any]:
    """A block's arguments for one sample and some of its video tokens."""
    one = {k: v[row : row + 1] if isinstance(v, torch.Tensor) else v for k, v in given.items()}
    for name in ("audio_rotary_emb", "ca_audio_rotary_emb"):
        one[name] = tuple(table[row : row + 1] for table in given[name])
    for name in ("video_rotary_emb", "ca_video_rotary_emb"):
        one[name] = tuple(table[row : row + 1, ..., indices, :] for table in given[name])
    for name in ("hidden_states", "temb", "temb_ca_scale_shift", "temb_ca_gate"):
        if one[name].shape[1] == TOKENS:
            one[name] = one[name][:, indices]
    return one


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"rope_type": "interleaved"},
        dict.fromkeys(("gated_attn", "audio_gated_attn", "cross_attn_mod", "audio_cross_attn_mod"), True),
    ],
    ids=["2.0", "interleaved", "2.3"],
)
@pytest.mark.parametrize("values", [Inputs.random(0).values, conditioned()], ids=["per sample", "per token"])
@pytest.mark.parametrize("spans", [HALF, TWO], ids=["one route", "two routes"])
def test_blocks_compute_on_the_kept_tokens_alone(
    config: dict[str, Any], values: dict[str, Any], spans: tuple[Span, ...]
) -> None:
    transformer = make_transformer(LAYERS, **config)
    routing = TokenRouting(transformer, spans, seed=1)
    with routing.batch(3):
        found = answer(transformer, values)
        kept = [kept_on(routing, number) for number in range(len(spans))]
    routing.remove()
    expected = explicit(transformer, values, spans, kept)
    assert_alike(found, expected, terms_of(transformer))
    everything = answer(make_transformer(LAYERS, **config), values)
    assert not torch.allclose(found, everything, atol=1e-3)


def kept_on(routing: TokenRouting, route: int) -> torch.Tensor:
    kept = routing.kept(route)
    assert kept is not None
    return kept


def test_given_tokens_are_kept_and_others_drawn_evenly() -> None:
    given = torch.zeros(400, 10, dtype=torch.bool)
    given[:, 7] = True
    kept = keep_tokens(given, 0.7, torch.Generator().manual_seed(0))
    assert kept.shape == (400, 3)
    assert (kept.diff(dim=1) > 0).all()
    often = torch.bincount(kept.flatten(), minlength=10)
    assert often[7] == 400
    others = often[torch.arange(10) != 7]
    assert others.sum() == 800
    assert others.min() > 60
    # One sample that is given more than the others: all of the batch keep as many.
    given[0, :6] = True
    assert keep_tokens(given, 0.7, torch.Generator().manual_seed(0)).shape == (400, 7)
    assert keep_tokens(given[1:], 0.99, torch.Generator().manual_seed(0)).shape == (399, 1)


def test_draws_belong_to_seed_batch_and_route() -> None:
    transformer, values = make_transformer(LAYERS), Inputs.random(0).values

    def kept(seed: int, number: int, route: int) -> list[list[int]]:
        routing = TokenRouting(transformer, TWO, seed)
        torch.manual_seed(number + 17)
        with routing.batch(number):
            answer(transformer, values)
            found = kept_on(routing, route)
        routing.remove()
        return found.tolist()

    assert kept(1, 3, 0) == kept(1, 3, 0)
    assert len({str(kept(*draw)) for draw in ((1, 3, 0), (1, 4, 0), (2, 3, 0), (1, 3, 1))}) == 4
    assert kept(1, 3, 0)[0] != kept(1, 3, 0)[1], "each sample has tokens of its own"


def test_only_gradients_inside_a_batch_are_routed() -> None:
    transformer, values = make_transformer(LAYERS), conditioned()
    expected = answer(transformer, values)
    routing = TokenRouting(transformer, HALF, seed=1)
    assert torch.equal(answer(transformer, values), expected)
    with routing.batch(3):
        with torch.no_grad():
            assert torch.equal(answer(transformer, values), expected)
        assert not torch.equal(answer(transformer, values), expected)
    assert torch.equal(answer(transformer, values), expected)
    routing.remove()
    assert torch.equal(answer(transformer, values), expected)
    assert all("forward" not in block.__dict__ for block in transformer.transformer_blocks)


def test_what_reads_a_block_sees_all_tokens_outside_the_route_and_at_its_end() -> None:
    transformer = make_transformer(LAYERS)
    tokens: list[int] = []
    for block in transformer.transformer_blocks:
        block.register_forward_hook(lambda module, args, output: tokens.append(output[0].shape[1]))
    routed(transformer, Inputs.random(0).values, HALF)
    assert tokens == [12, 6, 6, 6, 12, 12]


def test_without_sound_the_modalities_stay_isolated() -> None:
    values = conditioned(audio=None, audio_times=None, audio_sigma=None)
    transformer = make_transformer(LAYERS)
    found = routed(transformer, values, HALF)
    assert found.shape == (2 * 16 * TOKENS,)
    assert torch.isfinite(found).all()
    assert not torch.equal(found, answer(transformer, values))


@dataclass
class Step:
    """What steps on a routed transformer gave."""

    losses: list[float]
    gradients: dict[str, torch.Tensor]

    def assert_equal(self, other: Step) -> None:
        assert self.losses == other.losses
        assert self.gradients.keys() == other.gradients.keys()
        assert all(torch.equal(self.gradients[name], other.gradients[name]) for name in self.gradients)


def steps(transformer: Any, *, dtype: torch.dtype = torch.float32) -> Step:
    """Two batches forward and backward, with dropout in the adapter, as the loop computes them."""
    add_lora(
        transformer, LoraSettings(lora_rank=4, lora_dropout=0.1), target_modules(transformer, True), seed=1
    )
    parameters = lora_parameters(transformer)
    with torch.no_grad():
        for number, parameter in enumerate(parameters.values()):
            draw = torch.Generator().manual_seed(number)
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    transformer.train()
    routing = TokenRouting(transformer, TWO, seed=1)
    losses = []
    for number in range(2):
        torch.manual_seed(number)
        values = {
            name: v.to(dtype) if isinstance(v, torch.Tensor) and "times" not in name else v
            for name, v in conditioned(number).items()
        }
        with routing.batch(number), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
            loss = answer(transformer, values).float().square().mean()
            loss.backward()
        losses.append(loss.item())
    routing.remove()
    return Step(losses, {n: p.grad for n, p in parameters.items() if p.grad is not None})


@cache
def undisturbed_steps() -> Step:
    return steps(make_transformer(LAYERS))


def checkpointed(transformer: Any) -> None:
    transformer.enable_gradient_checkpointing(
        lambda block, *args: checkpoint(block, *args, use_reentrant=False)
    )


def half_checkpointed(transformer: Any) -> None:
    blocks = list(transformer.transformer_blocks)

    def run(block: nn.Module, *args: Any) -> Any:
        covered = blocks.index(block) < LAYERS // 2
        return checkpoint(block, *args, use_reentrant=False) if covered else block(*args)

    transformer.enable_gradient_checkpointing(run)


def streamed(transformer: Any) -> None:
    BlockStreaming(transformer.transformer_blocks, "cpu", resident=(2,), poison=True)


def streamed_and_checkpointed(transformer: Any) -> None:
    streamed(transformer)
    checkpointed(transformer)


def offloaded(transformer: Any) -> None:
    GroupOffloading(transformer, "cpu", GroupSettings(kind="block_level", blocks_per_group=2))
    transformer.enable_gradient_checkpointing(
        lambda block, *args: checkpoint(block, *args, use_reentrant=False, early_stop=False)
    )


@pytest.mark.parametrize(
    "prepare",
    [checkpointed, half_checkpointed, streamed, streamed_and_checkpointed, offloaded],
    ids=lambda f: f.__name__,
)
def test_placement_and_recomputation_change_nothing(prepare: Callable[[Any], None]) -> None:
    transformer = make_transformer(LAYERS)
    prepare(transformer)
    steps(transformer).assert_equal(undisturbed_steps())


@pytest.mark.parametrize("quantised", [False, True], ids=["bf16", "int8"])
def test_reduced_precision_keeps_what_passes_by(quantised: bool) -> None:
    from optimum import quanto

    def made() -> Any:
        transformer = make_transformer(LAYERS, torch.bfloat16)
        if quantised:
            for block in transformer.transformer_blocks:
                quanto.quantize(block, weights=quanto.qint8, include=["attn1*", "attn2*", "ff*"])
                quanto.freeze(block)
        return transformer

    expected = steps(made(), dtype=torch.bfloat16)
    transformer = made()
    streamed_and_checkpointed(transformer)
    steps(transformer, dtype=torch.bfloat16).assert_equal(expected)


def test_what_passes_by_leaves_a_route_over_all_blocks_as_it_came() -> None:
    transformer = make_transformer(LAYERS)
    streams: dict[str, torch.Tensor] = {}

    def note(name: str, stream: torch.Tensor) -> None:
        streams[name] = stream

    blocks = transformer.transformer_blocks
    blocks[0].register_forward_pre_hook(lambda m, a, k: note("in", k["hidden_states"]), with_kwargs=True)
    blocks[-1].register_forward_hook(lambda m, a, output: note("out", output[0]))
    routing = TokenRouting(transformer, (Span(0, LAYERS - 1, 0.5),), seed=1)
    with routing.batch(0):
        answer(transformer, Inputs.random(0).values)
        kept = kept_on(routing, 0)
    passed = torch.ones(2, TOKENS, dtype=torch.bool).scatter(1, kept, False)
    assert torch.equal(streams["in"][passed], streams["out"][passed])
    assert not (streams["in"] == streams["out"])[~passed].all(-1).any()
