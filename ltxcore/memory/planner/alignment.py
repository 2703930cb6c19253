"""The memory that CREPA adds to a training step: its projector, and the alignment of one block's tokens."""

from __future__ import annotations

from ltxcore.config.value_types import BF16_BYTES, FP32_BYTES


def projector_values(width: int, teacher_width: int) -> int:
    """Parameters of a LayerNorm over `width` and a Linear to the teacher's width."""
    return 2 * width + width * teacher_width + teacher_width


def alignment_bytes(*, tokens: int, batch: int, width: int, teacher_width: int) -> int:
    """Kept for backward, and their gradients: all float32 but the teacher's features as they are stored.

    Of each video token the block's output and its norm in the model's width; projected, normalised, both
    gradients, and the teacher's normalised features in the teacher's width.
    """
    model_widths, teacher_widths = 3, 5
    values = model_widths * width + teacher_widths * teacher_width
    return batch * tokens * (FP32_BYTES * values + BF16_BYTES * teacher_width)
