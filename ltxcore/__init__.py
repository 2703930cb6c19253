"""LTX-2 LoRA training as a library: media, models, memory, store, training, validation, tracking.

`from ltxcore import Job` runs all of it in this process. Nothing in here knows of Prefect, and nothing heavy
(torch, diffusers, transformers) is imported at module scope by the modules that a flow needs before its stage
starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ltxcore.jobs.job import Job

__all__ = ["Job"]


def __getattr__(name: str) -> type[Job]:
    """Import what is offered here when it is asked for, so that importing a part stays light."""
    if name != "Job":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ltxcore.jobs.job import Job

    return Job
