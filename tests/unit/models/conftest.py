"""Tiny models in every layout, for the tests of how models are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.models.files.combined_writer import write_combined
from ltxcore.models.files.source import ModelSource
from tests.unit.models.combined_files import FILES


@pytest.fixture(scope="module")
def combined(tinies: dict[str, ModelSource], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every storage of every version, in one directory, with nothing beside them."""
    root = tmp_path_factory.mktemp("combined")
    for version, source in tinies.items():
        for storage in FILES:
            write_combined(source, root / f"{version}-{storage}.safetensors", storage)
    return root
