"""Names and shapes of a released model's weights, from a table: neither downloaded nor built.

`python -m ltxcore.models.built_shapes` writes the tables from diffusers' own classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Final

Shapes = Mapping[str, tuple[int, ...]]
TABLES: Final = "released_shapes"
"""The folder of the tables: a line `component name shape`, where `{48}` in a name stands for 0 to 47."""
COUNTED = re.compile(r"\{(\d+)\}")


@cache
def full_shapes(name: str) -> Mapping[str, Shapes]:
    """Component -> its weights, of a version at its released size.

    Components are `transformer`, `connectors`, `vae`, `latent_upsampler` and, in 2.5, `diffusion_decoder`.

    Args:
        name: a version, as `2.0`.
    """
    table = resources.files("ltxcore.models").joinpath(TABLES, f"{name}.txt").read_text("utf-8")
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for line in table.splitlines():
        component, pattern, shape = line.split(" ")
        edges = tuple(int(edge) for edge in shape.split("x")) if shape != "scalar" else ()
        found.setdefault(component, {}).update((weight, edges) for weight in _expanded(pattern))
    return found


@cache
def tabled_versions() -> tuple[str, ...]:
    """The versions that have a table, the oldest first."""
    tables = resources.files("ltxcore.models").joinpath(TABLES).iterdir()
    return tuple(sorted(table.name.removesuffix(".txt") for table in tables if table.name.endswith(".txt")))


def _expanded(pattern: str) -> Iterator[str]:
    counted = COUNTED.search(pattern)
    if counted is None:
        yield pattern
        return
    for index in range(int(counted[1])):
        yield pattern.replace(counted[0], str(index), 1)
