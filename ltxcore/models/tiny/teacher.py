"""A tiny DINOv2: random weights in the real class, with the real patches and small widths."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from ltxcore.config.crepa_settings import TINY_WIDTH
from ltxcore.models.tiny.model import publish_model, seeded
from ltxcore.models.tiny.stamp import TINY_STAMP, stamp_of
from ltxcore.store.fingerprint import derive_seed


def write_tiny_teacher(directory: Path, stamp: str) -> None:
    """Write the tiny teacher as transformers does, whole or not at all; the same bytes every time.

    Raises:
        ModelError: the directory holds something else.
    """
    from transformers import Dinov2Config, Dinov2Model

    if stamp_of(directory) == stamp:
        return
    config = Dinov2Config(
        hidden_size=TINY_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=2,
        image_size=56,
        patch_size=14,
        # Large enough for random blocks to tell pictures apart.
        initializer_range=0.2,
    )
    with seeded(derive_seed(0, "tiny", "teacher", stamp)):
        teacher = Dinov2Model(config).eval()
    directory.parent.mkdir(parents=True, exist_ok=True)
    building = directory.parent / f".{directory.name}-{uuid.uuid4().hex}"
    try:
        teacher.save_pretrained(building, safe_serialization=True)
        (building / TINY_STAMP).write_text(stamp, encoding="utf-8")
        publish_model(building, directory, stamp)
    finally:
        shutil.rmtree(building, ignore_errors=True)
