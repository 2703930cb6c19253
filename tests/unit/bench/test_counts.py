"""What a full-size step is made of: upper bounds, which each change may lower and none may raise."""

from __future__ import annotations

import pytest

from bench.counts import ROOFS
from bench.fake_block import BlockCounts, Clip, Counts, count_block
from ltxcore.memory.planner.activations import Activations
from ltxcore.memory.planner.training_planner import CAST_BYTES
from ltxcore.models.shapes import full_shapes
from ltxcore.models.versions import VERSIONS
from ltxcore.pipeline.plan.transformer_plan import sizes_of
from ltxcore.training.targets import default_targets

GIB, MIB = 1 << 30, 1 << 20


@pytest.mark.parametrize(
    ("version", "kernels", "backward_kernels", "gib", "backward_gib", "kept_mib"),
    [("2.0", 193, 380, 5.9, 11.55, 1207), ("2.3", 233, 418, 6.47, 12.82, 1342)],
)
def test_a_full_size_block_stays_lean(
    version: str, kernels: int, backward_kernels: int, gib: float, backward_gib: float, kept_mib: float
) -> None:
    block = count_block(version)
    assert block.forward.kernels <= kernels
    assert block.backward.kernels <= backward_kernels
    assert block.forward.other_bytes / GIB <= gib
    assert block.backward.other_bytes / GIB <= backward_gib
    assert block.kept_bytes / MIB <= kept_mib


@pytest.mark.parametrize(
    ("version", "precision"), [("2.0", "no_change"), ("2.3", "no_change"), ("2.0", "int8-quanto")]
)
def test_the_planner_knows_what_a_full_size_block_keeps_in_any_precision(
    version: str, precision: str
) -> None:
    found = count_block(version, precision=precision).kept_bytes
    shapes = full_shapes(version)["transformer"]
    sizes = sizes_of(shapes, VERSIONS[version].transformer)
    cast = CAST_BYTES * sizes.adapter_values(default_targets(True), 16) // sizes.blocks
    planned = Activations(Clip().tokens, 1).block_bytes(sizes) + cast
    assert found <= planned <= 1.03 * found


def test_counts_do_not_depend_on_what_ran_before() -> None:
    clip = Clip(256, 256, 9, text_tokens=128)
    first = count_block("2.0", clip, 4)
    count_block.cache_clear()
    assert count_block("2.0", clip, 4) == first


def test_the_roofline_adds_products_attention_and_traffic() -> None:
    forward = Counts(gemm_flop=620e12, attention_flop=380e12, other_bytes=int(2.7e12))
    backward = Counts(gemm_flop=620e12, attention_flop=300e12, other_bytes=int(2.7e12))
    block = BlockCounts(forward, backward, 0, {})
    assert ROOFS["h100"].step_s(block, blocks=2, recomputed=1) == pytest.approx(3 * 3 + 2 * 3)
    assert ROOFS["h200"].step_s(block, 2, 1) < ROOFS["h100"].step_s(block, 2, 1)
