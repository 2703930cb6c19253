"""Tiny models in every layout, for the tests of how models are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.models.combined_writer import write_combined
from ltxcore.models.source import ModelSource
from ltxcore.models.tiny import write_tiny
from tests.unit.combined_files import FILES, resolve


@pytest.fixture(scope="module")
def tinies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSource]:
    """A tiny model of each version in the diffusers layout."""
    root = tmp_path_factory.mktemp("tinies")
    for version in ("2.0", "2.3"):
        write_tiny(root / version, version)
    return {version: resolve(root / version, root) for version in ("2.0", "2.3")}


@pytest.fixture(scope="module")
def combined(tinies: dict[str, ModelSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every storage of every version, in one directory, with nothing beside them."""
    root = tmp_path_factory.mktemp("combined")
    for version, source in tinies.items():
        for storage in FILES:
            write_combined(source, root / f"{version}-{storage}.safetensors", storage)
    return root
