"""The noise levels of a rendering, as schedulers of diffusers."""

from __future__ import annotations

from typing import Any

REFERENCE_SHIFT = 2.05
TERMINAL_SIGMA = 0.1


def reference_scheduler() -> Any:
    """The reference's schedule for every size: a fixed shift of 2.05 and a last non-zero sigma of 0.1.

    diffusers' default shift depends on the token count and differs by up to 0.22 (ltx2-facts section 6).
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=REFERENCE_SHIFT,
        max_shift=REFERENCE_SHIFT,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=TERMINAL_SIGMA,
    )


def given_scheduler() -> Any:
    """Takes noise levels as they are given."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=1.0)
