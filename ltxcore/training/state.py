"""What changes while training, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.training.checkpoints import Checkpoint, latest
from ltxcore.training.lora import load_weights
from ltxcore.training.optimizer import (
    load_moments,
    load_schedule,
    make_optimizer,
    make_scheduler,
    moments,
    schedule_state,
)
from ltxcore.training.shares import gathered


class ForeignCheckpoint(ValueError):
    """The directory holds checkpoints of another training."""


class TrainingState:
    """The trained parameters by name, their optimizer and its learning rate."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, device: torch.device
    ) -> None:
        self.parameters = dict(parameters)
        self.optimizer = make_optimizer(self.parameters, settings, device)
        self.scheduler = make_scheduler(self.optimizer, settings)

    def follow(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Take the parameters that took the place of these when they were shared out."""
        self.parameters = dict(parameters)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.scheduler.get_last_lr()[0])

    def advance(self) -> None:
        """One optimizer step with the gradients that are there."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def checkpoint(self, step: int, run_fingerprint: str) -> Checkpoint:
        """Everything that training continues from after `step`."""
        return Checkpoint(
            step=step,
            run_fingerprint=run_fingerprint,
            lora=gathered(self.parameters),
            moments=gathered(moments(self.optimizer, self.parameters)),
            schedule=schedule_state(self.scheduler),
        )

    def resume(self, directory: Path, run_fingerprint: str) -> int:
        """Continue from the newest whole checkpoint; returns the steps that are done.

        Raises:
            ForeignCheckpoint: it is of another `run_fingerprint`.
        """
        found = latest(directory)
        if found is None:
            return 0
        if found.run_fingerprint != run_fingerprint:
            raise ForeignCheckpoint(
                f"{directory} holds checkpoints of the training {found.run_fingerprint[:16]}, but this one "
                f"is {run_fingerprint[:16]}: weights, data or recipe differ; give another directory"
            )
        load_weights(self.parameters, found.lora)
        load_moments(self.optimizer, self.parameters, found.moments)
        load_schedule(self.scheduler, found.schedule)
        return found.step
