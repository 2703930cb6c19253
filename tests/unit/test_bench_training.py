"""The GPU benchmark's code, shrunk, on the CPU: every way of placing the weights runs and is reported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.gpu.training import CASES, Case, measure, table


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    from accelerate.state import AcceleratorState

    # Whatever a test before this one left behind, too: accelerate keeps one precision a process.
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=lambda case: case.name)
def test_a_case_is_measured(case: Case) -> None:
    found = measure(case, small=True, steps=1)
    assert found.step_s > 0
    assert found.bare_s > 0
    assert found.predicted_gib > 0
    assert case.name in table([found])
