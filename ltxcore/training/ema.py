"""A moving average of the trained weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from ltxcore.config.optimizer_settings import OptimizerSettings
from ltxcore.training.shards import drop_gathered, spread


class Ema:
    """float32 averages of parameters, beside them.

    Update n moves an average by 1 - min(decay, n / (n + 9)) of the way. It forgets fast at the start;
    otherwise the untrained weights would count for 1 / (1 - decay) updates.
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], settings: OptimizerSettings) -> None:
        self._decay, self._interval = settings.ema_decay, settings.ema_update_interval
        self.averages = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Mapping[str, torch.Tensor], step: int) -> None:
        """Move towards the parameters if `step` (from 1) is a multiple of `ema_update_interval`.

        Args:
            parameters: by name, each in the shape [...] of its average.
        """
        count, rest = divmod(step, self._interval)
        if rest:
            return
        decay = min(self._decay, count / (count + 9))
        targets = [parameters[name].detach().float() for name in self.averages]
        # One launch for all of them on a CUDA device, in place of one each.
        torch._foreach_lerp_(list(self.averages.values()), targets, 1 - decay)

    @contextmanager
    def in_place(self, parameters: Mapping[str, torch.Tensor], model: Any) -> Iterator[None]:
        """Within, `model` computes with the averages; afterwards the parameters are as before, to the bit.

        The averages are rounded to the parameters' own precision. Values are copied, no tensor is replaced,
        so whatever refers to the parameters (an optimizer, a process group, a compiled block) sees the same
        tensors. It takes the memory of one copy of them, while there are no gradients.

        Args:
            parameters: those that are averaged, or this process's shards, each in its average's shape [...].
            model: what they are part of, as a step calls it.
        """
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        try:
            _overwrite(parameters, self.averages, model)
            yield
        finally:
            _overwrite(parameters, before, model)

    @torch.no_grad()
    def load(self, averages: Mapping[str, torch.Tensor]) -> None:
        """Restore averages that were saved before, each whole and in the shape [...] of its parameter.

        Raises:
            ValueError: they are of other parameters.
        """
        if averages.keys() != self.averages.keys():
            odd = sorted(averages.keys() ^ self.averages.keys())
            raise ValueError(f"the averages are of other parameters: {len(odd)} differ, first {odd[0]}")
        for name, average in self.averages.items():
            average.copy_(spread(averages[name], like=average))


@torch.no_grad()
def _overwrite(
    parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], model: Any
) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
    drop_gathered(model)
