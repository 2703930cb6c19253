"""Muon: momentum whose matrix is made orthogonal, for weights of two and more dimensions; AdamW for the rest.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024); the factor that gives its
steps the size of AdamW's is from J. Liu et al., "Muon is scalable for LLM training" (2025).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAM_SIZE = 0.2


class Muon:
    """Optimizer of a list of parameters; `state` is what a checkpoint keeps, one dict a parameter."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], learning_rate: float) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.state = {
            p: {"exp_avg": torch.zeros_like(p)} | ({} if p.ndim > 1 else {"exp_avg_sq": torch.zeros_like(p)})
            for p in self.parameters
        }

    @torch.no_grad()
    def step(self, number: int) -> None:
        """One step with the gradients that are there; `number` counts from 1."""
        for parameter in self.parameters:
            gradient, state = parameter.grad, self.state[parameter]
            if gradient is None:
                continue
            if parameter.ndim > 1:
                state["exp_avg"].mul_(MOMENTUM).add_(gradient, alpha=1 - MOMENTUM)
                direction = torch.lerp(gradient, state["exp_avg"], MOMENTUM).flatten(1)
                size = ADAM_SIZE * max(direction.shape) ** 0.5
                update = size * orthogonal(direction).view_as(parameter)
            else:
                state["exp_avg"].lerp_(gradient, 0.1)
                state["exp_avg_sq"].lerp_(gradient.square(), 0.02)
                first = state["exp_avg"] / (1 - 0.9**number)
                second = state["exp_avg_sq"] / (1 - 0.98**number)
                update = first / (second.sqrt() + 1e-8)
            parameter.add_(update, alpha=-self.learning_rate)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: all singular values near 1 (five Newton-Schulz iterations)."""
    a, b, c = COEFFICIENTS
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
