"""Regularisation data: the adapted model learns to predict the same as the base on it (prior preservation).

The target is the base's own velocity for the same noise, not the clip's: the adapter learns to change nothing
where its subject is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ltxcore.training.objective import NoisedBatch

Predict = Callable[[], tuple[torch.Tensor, torch.Tensor | None]]


def aim_at_base(noised: NoisedBatch, model: Any, predict: Predict) -> NoisedBatch:
    """The batch with the base's predictions as targets; masks and inputs stay.

    Args:
        noised: the batch.
        model: the adapted transformer, which may be wrapped.
        predict: gives the model's velocities [B, N, C] for the batch.
    """
    with torch.no_grad(), without_adapter(model):
        video, audio = predict()
    aimed = replace(noised.video, target=video.float())
    if noised.audio is None or audio is None:
        return replace(noised, video=aimed)
    return replace(noised, video=aimed, audio=replace(noised.audio, target=audio.float()))


@contextmanager
def without_adapter(model: torch.nn.Module) -> Iterator[None]:
    """Within, the model is the base."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    # Not by enable_adapters, which also freezes parameters: processes that share them would miss them.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
