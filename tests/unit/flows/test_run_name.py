"""The names of runs in Prefect's lists."""

from __future__ import annotations

from datetime import datetime

import pytest

from ltxcore.jobs.whole_run.run_name import run_name

BEGAN = datetime(2026, 11, 29, 23, 40)


@pytest.mark.parametrize(
    ("recipe_file", "datasets", "name"),
    [
        ("/r/toy.yaml", ["glimmer"], "toy on glimmer, 2026-11-29 23:40"),
        ("/r/toy.yaml", ["a", "b", "c", "d"], "toy on a, b + 2, 2026-11-29 23:40"),
        ("", [], "defaults, 2026-11-29 23:40"),
    ],
)
def test_a_run_is_named_by_recipe_datasets_and_date(recipe_file: str, datasets: list[str], name: str) -> None:
    assert run_name(recipe_file, datasets, BEGAN) == name
