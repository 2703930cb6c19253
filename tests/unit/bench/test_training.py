"""The GPU benchmark's code, shrunk, on the CPU: every way of placing the weights runs and is reported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.gpu import stages
from bench.gpu.training import CASES, Case, NotBuilt, measure, routes, table
from ltxcore.config.recipe import Recipe


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    from accelerate.state import AcceleratorState

    # Whatever a test before this one left behind, too: accelerate keeps one precision a process.
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


NAMED = {case.name: case for case in CASES}
SHOWN = ("480p bf16 resident", "480p int8 streamed", "480p bf16 RamTorch")


@pytest.mark.parametrize("case", [NAMED[name] for name in SHOWN], ids=lambda case: case.name)
def test_a_case_is_measured(case: Case) -> None:
    found = measure(case, small=True, steps=1)
    assert found.step_s > 0
    assert found.bare_s > 0
    assert found.predicted_gib > 0
    assert found.tflops > 0
    assert case.name in table([found])


def test_tread_is_measured_or_left_out_in_words() -> None:
    case = NAMED["480p bf16 resident, TREAD 0.5"]
    if "tread" in Recipe.model_fields:
        assert measure(case, small=True, steps=1).step_s > 0
    else:
        with pytest.raises(NotBuilt, match="no TREAD"):
            routes(case)


def test_gemma_and_the_vae_are_measured_in_every_way() -> None:
    rates = stages.measure_all(small=True)
    assert [rate.stage for rate in rates] == ["captions"] * 2 + ["clips"] * 5
    assert all(rate.a_second > 0 and rate.predicted_gib > 0 for rate in rates)
    assert stages.table(rates).splitlines()[-1].startswith("| clips | pieces of 8 frames, tiles of 512 |")
