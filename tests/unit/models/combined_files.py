"""Combined checkpoints as the tests of them want them: opened, and changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltxcore.config.model_settings import ModelSettings
from ltxcore.models.files.combined import open_combined
from ltxcore.models.files.source import ModelSource, resolve_model

FILES = {"bf16": "dev", "fp8": "dev-fp8", "fp4": "dev-fp4"}


def resolve(path: Path, models_dir: Path, **more: str) -> ModelSource:
    return resolve_model(ModelSettings(pretrained_model_name_or_path=str(path), **more), models_dir)


def open_source(file: Path, tinies: dict[str, ModelSource], models_dir: Path, **more: str) -> ModelSource:
    version = open_combined(file).version.name
    return resolve(file, models_dir, text_encoder=str(tinies[version].root), **more)


def changed(
    file: Path,
    target: Path,
    tensors: Callable[[dict[str, torch.Tensor]], None] = lambda found: None,
    **metadata: str,
) -> Path:
    """A copy of a combined file with other tensors or metadata."""
    found = load_file(file)
    tensors(found)
    with safe_open(file, "pt") as opened:
        header = opened.metadata() | metadata
    save_file(found, target, {key: value for key, value in header.items() if value})
    return target
