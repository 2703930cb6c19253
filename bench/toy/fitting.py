"""A training loop that can be stopped and continued: seeded by step, its state in safetensors."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from bench.toy.muon import Muon

SAVE_EVERY = 200
TELL_EVERY = 50


def fit(
    model: nn.Module,
    losses: Callable[[int], dict[str, torch.Tensor]],
    steps: int,
    learning_rate: float,
    file: Path,
    warmup: int = 50,
) -> None:
    """Train every parameter that wants a gradient with Muon and a cosine schedule.

    The state is written to `file` at intervals and at the end; where `file` is there, training continues
    from it, and it returns at once where all steps are done.

    Args:
        losses: gives the losses of a step by name; what they add up to is minimised. Every draw in it
            derives from the step's number.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = Muon(parameters.values(), learning_rate)
    done = _resume(parameters, optimizer, file) if file.is_file() else 0
    began, averages = time.monotonic(), {}
    for step in range(done + 1, steps + 1):
        optimizer.learning_rate = learning_rate * _schedule(step, steps, warmup)
        parts = losses(step)
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step(step)
        model.zero_grad(set_to_none=True)
        for name, value in parts.items():
            averages[name] = 0.95 * averages.get(name, value.item()) + 0.05 * value.item()
        if step % TELL_EVERY == 0 or step == steps:
            shown = "  ".join(f"{name} {value:.5f}" for name, value in averages.items())
            print(f"{file.stem} {step}/{steps}  {shown}  {time.monotonic() - began:.0f} s", flush=True)
        if step % SAVE_EVERY == 0 or step == steps:
            _save(parameters, optimizer, step, file)


def _schedule(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    share = min(1.0, max(0, step - warmup) / max(1, steps - warmup))
    return min(1.0, step / warmup) * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)


def _save(parameters: dict[str, nn.Parameter], optimizer: Muon, step: int, file: Path) -> None:
    tensors = {f"weight.{name}": p.detach().contiguous() for name, p in parameters.items()}
    for name, parameter in parameters.items():
        for moment, value in optimizer.state[parameter].items():
            tensors[f"{moment}.{name}"] = value.contiguous()
    draft = file.with_suffix(".part")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, draft, {"step": json.dumps(step)})
    draft.replace(file)


def _resume(parameters: dict[str, nn.Parameter], optimizer: Muon, file: Path) -> int:
    with safe_open(file, framework="pt") as stored:
        step = int(json.loads(stored.metadata()["step"]))
        for name, parameter in parameters.items():
            with torch.no_grad():
                parameter.copy_(stored.get_tensor(f"weight.{name}"))
            for moment, value in optimizer.state[parameter].items():
                value.copy_(stored.get_tensor(f"{moment}.{name}"))
    return step


def load_fitted(model: nn.Module, file: Path) -> None:
    """Give a model the weights of its last saved state."""
    with safe_open(file, framework="pt") as stored, torch.no_grad():
        trained = set(stored.keys())
        for name, parameter in model.named_parameters():
            if f"weight.{name}" in trained:
                parameter.copy_(stored.get_tensor(f"weight.{name}"))
