"""Streamed blocks compute what resident ones do, to the bit; a use after eviction is loud."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ltxcore.memory.arrangement import last_streamed, spread_resident
from ltxcore.memory.streaming.arena import HostArena
from ltxcore.memory.streaming.block_streaming import BlockStreaming
from ltxcore.memory.streaming.copy_stream import Slot
from tests.unit.toy_transformer import Inputs, Trained, make_transformer, train, velocity

LAYERS = 6


class LazyCopyStream:
    """Copies as late as a device may: only when someone waits for them. A missing wait then shows."""

    def __init__(self) -> None:
        self._waiting: dict[int, Callable[[], Any]] = {}

    def copy(self, slot: Slot, arena: torch.Tensor, poison: int | None = None) -> None:
        if poison is not None:
            slot.buffer.fill_(poison)
        self._waiting[id(slot)] = lambda: slot.buffer[: arena.numel()].copy_(arena)

    def wait(self, slot: Slot) -> None:
        self._waiting.pop(id(slot), lambda: None)()

    def mark_used(self, slot: Slot) -> None:
        pass


def plain(transformer: Any) -> None:
    pass


def non_reentrant(transformer: Any) -> None:
    transformer.enable_gradient_checkpointing()


def reentrant(transformer: Any) -> None:
    def run(block: nn.Module, *args: Any) -> Any:
        return checkpoint(block, *args, use_reentrant=True)

    transformer.enable_gradient_checkpointing(run)


def first_half(transformer: Any) -> None:
    blocks = list(transformer.transformer_blocks)

    def run(block: nn.Module, *args: Any) -> Any:
        covered = blocks.index(block) < LAYERS // 2
        return checkpoint(block, *args, use_reentrant=False) if covered else block(*args)

    transformer.enable_gradient_checkpointing(run)


CHECKPOINTING = [plain, non_reentrant, reentrant, first_half]


@cache
def resident_training(checkpointing: Callable[[Any], None] = plain) -> Trained:
    transformer = make_transformer(LAYERS)
    checkpointing(transformer)
    return train(transformer)


def stream(transformer: Any, **options: Any) -> BlockStreaming:
    return BlockStreaming(
        transformer.transformer_blocks, "cpu", **{"poison": True, "copy_stream": LazyCopyStream(), **options}
    )


@pytest.mark.parametrize("checkpointing", CHECKPOINTING, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("resident", "slots"), [((), 2), ((0, 3), 3)], ids=["all streamed", "two resident"])
def test_training_is_equal_to_the_bit(
    checkpointing: Callable[[Any], None], resident: tuple[int, ...], slots: int
) -> None:
    transformer = make_transformer(LAYERS)
    stream(transformer, resident=resident, slots=slots)
    checkpointing(transformer)
    # Reentrant checkpointing adds gradients up in an order of its own, so it is compared with itself.
    train(transformer).assert_equal(resident_training(reentrant if checkpointing is reentrant else plain))


def test_an_adapter_that_is_there_before_streaming_is_trained_the_same() -> None:
    transformer = make_transformer(LAYERS)
    non_reentrant(transformer)
    train(transformer, after_lora=stream).assert_equal(resident_training())


def test_forward_passes_alone_are_equal_and_go_round() -> None:
    expected = [velocity(make_transformer(LAYERS), Inputs.random(seed)) for seed in range(3)]
    transformer = make_transformer(LAYERS)
    streaming = stream(transformer)
    with torch.inference_mode():
        found = [velocity(transformer, Inputs.random(seed)) for seed in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    # The next pass's first block is fetched while this pass's last one computes.
    assert streaming.ring.copies == 3 * LAYERS + 1
    streaming.remove()
    assert torch.equal(velocity(transformer, Inputs.random(2)), expected[2])
    assert torch.equal(
        torch.cat([p.flatten() for p in transformer.parameters()]),
        torch.cat([p.flatten() for p in make_transformer(LAYERS).parameters()]),
    )


def test_training_after_inference_and_back_again() -> None:
    transformer = make_transformer(LAYERS)
    stream(transformer)
    with torch.inference_mode():
        velocity(transformer, Inputs.random(0))
    non_reentrant(transformer)
    train(transformer).assert_equal(resident_training())


def test_a_step_copies_each_block_twice_less_what_is_still_there() -> None:
    transformer = make_transformer(LAYERS)
    streaming = stream(transformer, slots=2)
    non_reentrant(transformer)
    train(transformer, steps=1)
    first = streaming.ring.copies
    assert first == LAYERS + (LAYERS - 2), "forward fetches all, backward all but the two that are there"


@pytest.mark.parametrize("checkpointing", [plain, non_reentrant], ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["qint8", "qint4", "qfloat8"])
def test_quantised_weights_are_streamed_by_their_parts(
    kind: str, checkpointing: Callable[[Any], None]
) -> None:
    from optimum import quanto

    def quantised() -> Any:
        transformer = make_transformer(3, torch.bfloat16, attention_head_dim=64, cross_attention_dim=256)
        for block in transformer.transformer_blocks:
            # Narrower linears in int4 would have quanto compile an extension, for half a minute.
            quanto.quantize(block, weights=getattr(quanto, kind), include=["attn1*", "attn2*", "ff*"])
            quanto.freeze(block)
        return transformer

    expected = train(quantised(), steps=2, dtype=torch.bfloat16)
    transformer = quantised()
    full = sum(p.numel() * 2 for p in transformer.transformer_blocks.parameters())
    streaming = stream(transformer)
    checkpointing(transformer)
    train(transformer, steps=2, dtype=torch.bfloat16).assert_equal(expected)
    assert streaming.host_bytes < 0.7 * full


def test_an_evicted_block_computes_no_numbers() -> None:
    transformer = make_transformer(LAYERS)
    block = transformer.transformer_blocks[2]
    stream(transformer)
    weight = block.attn1.to_q.weight
    assert weight.shape == (64, 64)
    assert torch.isnan(weight).all()
    velocity(transformer, Inputs.random(0))
    assert torch.isnan(weight).all()


def test_blocks_take_exactly_what_their_weights_do() -> None:
    transformer = make_transformer(LAYERS)
    needed = sum(p.numel() * 4 for p in transformer.transformer_blocks.parameters())
    streaming = stream(transformer, slots=3)
    padding = 256 * sum(1 for _ in transformer.transformer_blocks.parameters())
    assert needed <= streaming.host_bytes <= needed + padding
    assert streaming.slot_bytes == 3 * streaming.host_bytes // LAYERS


def test_the_adapter_stays_on_the_device() -> None:
    transformer = make_transformer(LAYERS)
    stream(transformer)
    train(transformer, steps=1)
    adapter = [p for p in transformer.parameters() if p.requires_grad]
    assert adapter
    assert all(torch.isfinite(p).all() for p in adapter)


def test_resident_blocks_are_spread_or_come_first() -> None:
    assert spread_resident(48, 0) == frozenset()
    assert spread_resident(6, 3) == {0, 2, 4}
    assert len(spread_resident(48, 31)) == 31
    assert last_streamed(6, 2) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="give 0 to 47"):
        last_streamed(48, 48)
    with pytest.raises(ValueError, match="nothing to stream"):
        stream(make_transformer(2), resident=(0, 1))


def test_an_arena_is_no_larger_than_asked() -> None:
    arena = HostArena(12_345, pinned=False)
    assert arena.bytes.numel() == 12_345
    arena.bytes.fill_(7)
    arena.release()
    assert int(arena.bytes.sum()) == 7 * 12_345
    with pytest.raises(ValueError, match="holds nothing"):
        HostArena(0, pinned=False)


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", CHECKPOINTING, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", [None, "qint8", "qint4"])
def test_training_on_cuda_is_equal_to_the_bit(kind: str | None, checkpointing: Callable[[Any], None]) -> None:
    from optimum import quanto

    def made() -> Any:
        transformer = make_transformer(
            LAYERS, torch.bfloat16, attention_head_dim=128, cross_attention_dim=512
        )
        if kind is not None:
            for block in transformer.transformer_blocks:
                quanto.quantize(block, weights=getattr(quanto, kind))
                quanto.freeze(block)
        return transformer

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        resident = made().to("cuda")
        checkpointing(resident)
        expected = train(resident, device="cuda", dtype=torch.bfloat16)
        transformer = made()
        blocks = transformer.transformer_blocks
        streaming = BlockStreaming(blocks, "cuda", resident=(2,), slots=2, poison=True)
        for name, child in transformer.named_children():
            if name != "transformer_blocks":
                child.to("cuda")
        transformer.scale_shift_table.data = transformer.scale_shift_table.data.cuda()
        transformer.audio_scale_shift_table.data = transformer.audio_scale_shift_table.data.cuda()
        checkpointing(transformer)
        train(transformer, device="cuda", dtype=torch.bfloat16).assert_equal(expected)
        assert all(weights.arena.bytes.is_pinned() for weights in streaming._weights.values())
        streaming.remove()
    finally:
        torch.use_deterministic_algorithms(False)
