"""The tiny model as the tests of LoRA files need it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltxcore.models.files.source import ModelSource


@pytest.fixture(scope="session")
def lora_base(tinies: dict[str, ModelSource]) -> Path:
    """The directory of the tiny 2.0, which LoRA files are read, made and taken over for."""
    return tinies["2.0"].root


@pytest.fixture(scope="session")
def layer_shapes(lora_base: Path) -> dict[str, tuple[int, int]]:
    """Layer -> [out, in] of its transformer."""
    from tests.unit.models.lora_files import shapes_of
    from tests.unit.training.test_lora import load_transformer

    return shapes_of(load_transformer(lora_base))
