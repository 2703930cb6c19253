"""The optimizer over the adapter's weights, and its learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import cos, inf, pi
from typing import Any

import torch
from torch import nn

from ltxcore.config.optimizer_settings import OptimizerSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.training.extras import require_optimizer
from ltxcore.training.shards import clip_norm, spread

GROUP = "group"
"""In names of state: what belongs to no single parameter."""
GROUP_STATE = ("steps", "k", "d", "d_max", "d_hat", "d_numerator", "d_denom")
"""What changes in an optimizer's groups: AdamWBf16's count, and what Prodigy has learned of the rate."""


def weights_dtype(settings: OptimizerSettings) -> torch.dtype:
    """The type of the trained weights."""
    return torch.bfloat16 if settings.optimizer == "adamw_bf16" else torch.float32


def make_optimizer(
    parameters: Mapping[str, nn.Parameter], settings: TrainingSettings, device: torch.device
) -> torch.optim.Optimizer:
    """The recipe's optimizer with its constants; AdamW as one fused kernel where the device has it.

    Raises:
        OptimizerMissing: its package is not installed.
    """
    require_optimizer(settings.optimizer)
    betas = settings.adam_beta1, settings.adam_beta2
    common: dict[str, Any] = {
        "lr": settings.learning_rate,
        "betas": betas,
        "eps": settings.adam_epsilon,
        "weight_decay": settings.adam_weight_decay,
    }
    values = list(parameters.values())
    if settings.optimizer == "adamw_bf16":
        from ltxcore.training.adamw_bf16 import AdamWBf16

        return AdamWBf16(values, seed=settings.seed, **common)
    if settings.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        eight: torch.optim.Optimizer = AdamW8bit(values, **common)
        return eight
    if settings.optimizer == "prodigy":
        from prodigyopt import Prodigy

        # What it learns of the rate while the schedule warms up would be too low.
        warm = settings.lr_warmup_steps > 0
        prodigy: torch.optim.Optimizer = Prodigy(
            values, **common, use_bias_correction=True, safeguard_warmup=warm
        )
        return prodigy
    return torch.optim.AdamW(values, **common, fused=device.type == "cuda")


def clip_gradients(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> float:
    """Clip as the recipe says; returns the norm of all gradients together as it was before."""
    found = list(parameters)
    if settings.grad_clip_method == "norm":
        return clip_norm(found, settings.max_grad_norm)
    norm = clip_norm(found, inf)
    for parameter in found:
        if parameter.grad is not None:
            parameter.grad.clamp_(-settings.max_grad_norm, settings.max_grad_norm)
    return norm


def make_scheduler(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule over optimizer steps (not over processes, not over accumulated batches)."""
    from diffusers.optimization import get_polynomial_decay_schedule_with_warmup, get_scheduler

    name, last, warmup = settings.lr_scheduler, settings.max_train_steps, settings.lr_warmup_steps
    scheduler: torch.optim.lr_scheduler.LambdaLR
    if name == "sine":
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_sine, settings=settings))
    elif name == "polynomial":
        scheduler = get_polynomial_decay_schedule_with_warmup(
            optimizer, warmup, last, lr_end=settings.lr_end, power=settings.lr_power
        )
    else:
        cycles = {"num_cycles": settings.lr_num_cycles} if name == "cosine_with_restarts" else {}
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=last, **cycles)
    return scheduler


def _sine(step: int, settings: TrainingSettings) -> float:
    """The rate's factor: up in the warm-up, then lr_num_cycles waves between one and lr_end."""
    if step < settings.lr_warmup_steps:
        return step / settings.lr_warmup_steps
    lowest = settings.lr_end / settings.learning_rate
    share = (step - settings.lr_warmup_steps) / max(1, settings.max_train_steps - settings.lr_warmup_steps)
    wave = (1 + cos(2 * pi * settings.lr_num_cycles * share)) / 2
    return lowest + (1 - lowest) * wave


@dataclass(frozen=True)
class OptimizerState:
    """The state of an optimizer, by `<parameter>/<name>` and `group/<number>/<name>`."""

    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any] = field(default_factory=dict)
    """Plain JSON: counts, and what Prodigy has learned of the rate."""


def optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> OptimizerState:
    """The whole state of an optimizer, e.g. `….lora_A.weight/exp_avg`.

    A parameter that has had no gradient yet has no state.
    """
    every = {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state[parameter].items()
    }
    for number, group in enumerate(optimizer.param_groups):
        every |= {f"{GROUP}/{number}/{key}": group[key] for key in GROUP_STATE if key in group}
    tensors = {key: value for key, value in every.items() if isinstance(value, torch.Tensor)}
    return OptimizerState(tensors, {key: value for key, value in every.items() if key not in tensors})


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: OptimizerState
) -> None:
    """Restore the state from `optimizer_state`, on each parameter's device.

    Raises:
        ValueError: something belongs to no parameter.
    """
    owners = {key.rsplit("/", 1)[0] for key in (*state.tensors, *state.numbers)}
    odd = sorted(name for name in owners - parameters.keys() if not name.startswith(f"{GROUP}/"))
    if odd:
        raise ValueError(
            f"the optimizer's state belongs to other parameters: {len(odd)} are unknown, first {odd[0]}"
        )
    # AdamW keeps its step counts on the device where it is fused, else on the CPU.
    fused = optimizer.param_groups[0].get("fused")
    for key, value in {**state.tensors, **state.numbers}.items():
        owner, kind = key.rsplit("/", 1)
        if owner.startswith(f"{GROUP}/"):
            optimizer.param_groups[int(owner.rpartition("/")[2])][kind] = value
            continue
        parameter = parameters[owner]
        if isinstance(value, torch.Tensor):
            value = (value if kind == "step" and not fused else spread(value, like=parameter)).clone()
        optimizer.state[parameter][kind] = value


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
