"""Every arrangement of a transformer trains the same adapter, to the bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.model import random_connectors
from ltxcore.memory.arrangement import Arrangement, GroupSettings
from ltxcore.memory.placement import Placement, place_connectors
from ltxcore.memory.streaming.group_offload import NotOffloadable
from ltxcore.models.text.caption_encoder import TextFeatures
from ltxcore.models.text.text_connectors import connect
from ltxcore.training.lora import lora_parameters
from tests.unit.toy_transformer import Inputs, Trained, make_transformer, train, velocity

LAYERS = 5


@cache
def expected() -> Trained:
    return train(make_transformer(LAYERS))


def trained(arrangement: Arrangement, checkpointing: bool = True) -> Trained:
    transformer = make_transformer(LAYERS)
    placement = Placement(transformer, arrangement, "cpu")

    def begin(transformer: Any) -> None:
        placement.hold_adapter(lora_parameters(transformer).values())
        if checkpointing:
            placement.enable_checkpointing()

    result = train(transformer, after_lora=begin)
    placement.remove()
    return result


@pytest.mark.parametrize(
    "arrangement",
    [
        Arrangement(),
        Arrangement(checkpointed=2),
        Arrangement("block_streaming", frozenset({1}), checkpointed=3),
        Arrangement("block_streaming", slots=3),
        Arrangement("group_offload"),
        Arrangement("group_offload", groups=GroupSettings(blocks_per_group=2)),
        Arrangement("group_offload", groups=GroupSettings(kind="leaf_level")),
    ],
    ids=["resident", "some recomputed", "streamed", "three slots", "groups", "groups of two", "leaves"],
)
def test_every_arrangement_trains_the_same(arrangement: Arrangement) -> None:
    trained(arrangement).assert_equal(expected())


def test_groups_on_disk_train_the_same_and_leave_nothing(tmp_path: Path) -> None:
    # A file of that name from another model must not be read.
    (tmp_path / "group_0.safetensors").write_bytes(b"old")
    arrangement = Arrangement("group_offload", groups=GroupSettings(disk=tmp_path))
    trained(arrangement).assert_equal(expected())
    assert [path.name for path in tmp_path.iterdir()] == ["group_0.safetensors"]


def test_groups_without_checkpointing_train_the_same() -> None:
    trained(Arrangement("group_offload"), checkpointing=False).assert_equal(expected())


@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_prefetching_follows_the_direction_and_leaves_no_group_behind(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers prefetches with CUDA streams only; its tracing of the order runs here without them."""
    from diffusers.hooks.group_offloading import (
        HookRegistry,
        LazyPrefetchGroupOffloadingHook,
        ModuleGroup,
    )

    transformer = make_transformer(LAYERS)
    settings = GroupSettings(kind=kind)  # type: ignore[arg-type]
    placement = Placement(transformer, Arrangement("group_offload", groups=settings), "cpu")
    HookRegistry.check_if_exists_or_initialize(transformer).register_hook(
        LazyPrefetchGroupOffloadingHook(), "lazy_prefetch_group_offloading"
    )
    present: set[int] = set()
    most = 0
    onload, offload = ModuleGroup.onload_, ModuleGroup.offload_

    def note_onload(group: Any) -> None:
        nonlocal most
        present.add(id(group))
        most = max(most, len(present))
        onload(group)

    def note_offload(group: Any) -> None:
        present.discard(id(group))
        offload(group)

    monkeypatch.setattr(ModuleGroup, "onload_", note_onload)
    monkeypatch.setattr(ModuleGroup, "offload_", note_offload)

    def begin(transformer: Any) -> None:
        placement.enable_checkpointing()

    train(transformer, after_lora=begin).assert_equal(expected())
    assert present == set(), "all groups are off the device after the backward pass"
    # The transformer's own group, the one that computes and the one that comes next.
    assert most <= 4


def test_quantised_weights_and_streams_without_a_device_are_refused() -> None:
    from optimum import quanto

    transformer = make_transformer(2, torch.bfloat16)
    quanto.quantize(transformer.transformer_blocks[0], weights=quanto.qint8)
    quanto.freeze(transformer.transformer_blocks[0])
    with pytest.raises(NotOffloadable, match="strategy: block_streaming"):
        Placement(transformer, Arrangement("group_offload"), "cpu")
    streamed = Arrangement("group_offload", groups=GroupSettings(use_stream=True))
    plain = make_transformer(2)
    with pytest.raises(NotOffloadable, match="group_offload_use_stream"):
        Placement(plain, streamed, "cpu")


def test_a_resident_transformer_is_used_where_it_is() -> None:
    transformer = make_transformer(2)
    before = velocity(transformer, Inputs.random(0))
    placement = Placement.as_it_is(transformer)
    assert placement.device == torch.device("cpu")
    assert torch.equal(velocity(transformer, Inputs.random(0)), before)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["block_level", "leaf_level"])
def test_group_offload_with_streams_trains_the_same_on_cuda(kind: str) -> None:
    def on_cuda(arrangement: Arrangement) -> tuple[Trained, int]:
        transformer = make_transformer(LAYERS, torch.bfloat16)
        placement = Placement(transformer, arrangement, "cuda")

        def begin(transformer: Any) -> None:
            placement.hold_adapter(lora_parameters(transformer).values())
            placement.enable_checkpointing()

        result = train(transformer, device="cuda", dtype=torch.bfloat16, after_lora=begin)
        blocks = transformer.transformer_blocks
        frozen = sum(p.is_cuda for p in blocks.parameters() if not p.requires_grad)
        return result, frozen

    resident, _ = on_cuda(Arrangement())
    settings = GroupSettings(kind=kind, use_stream=True)  # type: ignore[arg-type]
    offloaded, left = on_cuda(Arrangement("group_offload", groups=settings))
    offloaded.assert_equal(resident)
    assert left == 0


def test_streamed_connectors_give_the_same_embeddings_without_their_extractor() -> None:
    features = [TextFeatures(torch.randn(n, 48, generator=torch.Generator().manual_seed(n))) for n in (3, 7)]
    expected = connect(random_connectors(True, "cpu"), features, 16)
    connectors = random_connectors(True, "cpu")
    streaming = place_connectors(connectors, "cpu", streamed=True)
    assert streaming is not None
    assert not any("text_proj_in" in name for name, _ in connectors.named_parameters())
    for _ in range(2):
        found = connect(connectors, features, 16)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
