"""The changing state of a training, and its saving to and loading from checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.memory.threads import threads_in_use
from ltxcore.training.checkpoints import Checkpoint
from ltxcore.training.ema import Ema
from ltxcore.training.lora import load_weights
from ltxcore.training.optimizer import (
    load_optimizer_state,
    load_schedule,
    make_optimizer,
    make_scheduler,
    optimizer_state,
    schedule_state,
)
from ltxcore.training.shards import gathered


class TrainingState:
    """The trained parameters by name, their optimizer, its learning rate and their averages."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, device: torch.device
    ) -> None:
        self.parameters, self._settings, self._device = dict(parameters), settings, device
        self.optimizer = make_optimizer(self.parameters, settings, device)
        self.scheduler = make_scheduler(self.optimizer, settings)
        self.ema = Ema(self.parameters, settings) if settings.use_ema else None

    def follow(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Switch to the sharded parameters that replaced these."""
        self.parameters = dict(parameters)
        self.ema = None if self.ema is None else Ema(self.parameters, self._settings)

    @property
    def averages(self) -> Mapping[str, torch.Tensor] | None:
        """The averages, float32 [...], by the parameters' names; None where none are kept."""
        return None if self.ema is None else self.ema.averages

    def averaged(self, model: Any) -> AbstractContextManager[None] | None:
        """A context in which the model computes with the averages; None if none are kept."""
        return None if self.ema is None else self.ema.in_place(self.parameters, model)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.scheduler.get_last_lr()[0])

    def advance(self, step: int) -> None:
        """Do optimizer step number `step` (from 1) with the current gradients."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.parameters, step)

    def checkpoint(
        self, step: int, run_fingerprint: str, request: Mapping[str, Any] | None = None
    ) -> Checkpoint:
        """Everything that training continues from after `step`, whole: all processes ask at once."""
        remembered = optimizer_state(self.optimizer, self.parameters)
        return Checkpoint(
            step=step,
            run_fingerprint=run_fingerprint,
            lora=gathered(self.parameters),
            optimizer=replace(remembered, tensors=gathered(remembered.tensors)),
            schedule=schedule_state(self.scheduler),
            ema=None if self.ema is None else gathered(self.ema.averages),
            request=dict(request or {}),
            threads=threads_in_use() if self._device.type == "cpu" else None,
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: it is of other parameters, or has no average where this training keeps one.
        """
        load_weights(self.parameters, checkpoint.lora)
        load_optimizer_state(self.optimizer, self.parameters, checkpoint.optimizer)
        load_schedule(self.scheduler, checkpoint.schedule)
        if self.ema is not None:
            self.ema.load(checkpoint.ema or {})
