"""AdamW over the float32 LoRA weights, and its learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.training.shares import spread


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, device: torch.device
) -> torch.optim.AdamW:
    """AdamW with the recipe's constants; one fused kernel a step where the device has it."""
    return torch.optim.AdamW(
        list(parameters.values()),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.adam_weight_decay,
        fused=device.type == "cuda",
    )


def make_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule over optimizer steps (not over processes, not over accumulated batches)."""
    from diffusers.optimization import get_scheduler

    scheduler: torch.optim.lr_scheduler.LambdaLR = get_scheduler(
        settings.lr_scheduler,
        optimizer,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=settings.max_train_steps,
    )
    return scheduler


def moments(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, torch.Tensor]:
    """The optimizer's tensors as `<parameter name>/<state name>`, e.g. `….lora_A.weight/exp_avg`.

    A parameter that no loss has reached yet has none.
    """
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }


def load_moments(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Put the tensors of `moments` back, on each parameter's device.

    Raises:
        ValueError: a tensor belongs to no parameter.
    """
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, kind = key.rsplit("/", 1)
        states.setdefault(name, {})[kind] = tensor
    odd = sorted(states.keys() - parameters.keys())
    if odd:
        raise ValueError(
            f"the optimizer's state belongs to other parameters: {len(odd)} are unknown, first {odd[0]}"
        )
    # AdamW keeps its step counts on the device where it is fused, else on the CPU.
    fused = optimizer.param_groups[0].get("fused")
    for name, state in states.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            kind: tensor.clone() if kind == "step" and not fused else spread(tensor, like=parameter).clone()
            for kind, tensor in state.items()
        }


def schedule_state(scheduler: torch.optim.lr_scheduler.LambdaLR) -> dict[str, Any]:
    """Where the schedule is, as plain JSON data."""
    return {"last_epoch": scheduler.last_epoch, "last_lr": scheduler.get_last_lr()}


def load_schedule(scheduler: torch.optim.lr_scheduler.LambdaLR, state: Mapping[str, Any]) -> None:
    """Continue the schedule where `schedule_state` was taken."""
    scheduler.load_state_dict(
        {
            **scheduler.state_dict(),
            "last_epoch": state["last_epoch"],
            "_step_count": state["last_epoch"] + 1,
            "_last_lr": state["last_lr"],
        }
    )
    for group, rate in zip(scheduler.optimizer.param_groups, state["last_lr"], strict=True):
        group["lr"] = rate
