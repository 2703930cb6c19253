"""AdamW with weights and moments in bf16, where rounding is drawn and not to the nearest.

To the nearest, a step below 1/256 of a weight is lost for ever, and so is (1 - beta2) of a second moment.
Rounded up as often as the lost part is large, it is right on average (stochastic rounding, as in
arXiv:2010.06192). The draws come from the seed and the step, so that a resumed training repeats them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ltxcore.store.fingerprint import derive_seed

LOW_BITS = 16
"""What float32 has more than bf16."""
CHUNK_VALUES = 1 << 24
"""Values that are updated together: 64 MiB in float32, of which a handful are held."""


class AdamWBf16(torch.optim.Optimizer):
    """AdamW (arXiv:1711.05101). Moments have the dtype of their parameter; float32 ones are not rounded.

    Args:
        parameters: bf16 or float32, in a fixed order.
        seed: of the training; the draws of each step are derived from it.
        lr, betas, eps, weight_decay: as in `torch.optim.AdamW`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        seed: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        self._seed = seed
        super().__init__(
            parameters,
            {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "steps": 0},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Change every parameter that has a gradient."""
        for number, group in enumerate(self.param_groups):
            group["steps"] += 1
            for place, chunk in enumerate(self._chunks(group["params"])):
                noise = torch.Generator(chunk[0].device)
                noise.manual_seed(
                    derive_seed(self._seed, "train-lora", group["steps"], number, place, "rounding")
                )
                self._update(chunk, group, noise)

    def _chunks(self, parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
        """Parameters of one device, dtype and age, up to CHUNK_VALUES together."""
        alike: dict[Any, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            alike[parameter.device, parameter.dtype, float(state["step"])].append(parameter)
        for members in alike.values():
            chunk: list[nn.Parameter] = []
            for parameter in members:
                if chunk and sum(p.numel() for p in chunk) + parameter.numel() > CHUNK_VALUES:
                    yield chunk
                    chunk = []
                chunk.append(parameter)
            yield chunk

    def _update(self, chunk: list[nn.Parameter], group: dict[str, Any], noise: torch.Generator) -> None:
        states = [self.state[parameter] for parameter in chunk]
        for state in states:
            state["step"] += 1
        count = float(states[0]["step"])
        beta1, beta2 = group["betas"]
        weight = _flat(chunk)
        gradient = _flat([parameter.grad for parameter in chunk])
        mean = _flat([state["exp_avg"] for state in states]).lerp_(gradient, 1 - beta1)
        square = _flat([state["exp_avg_sq"] for state in states])
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)

        weight.mul_(1 - group["lr"] * group["weight_decay"])
        length = (square / (1 - beta2**count)).sqrt_().add_(group["eps"])
        weight.addcdiv_(mean, length, value=-group["lr"] / (1 - beta1**count))
        for key, values in (("exp_avg", mean), ("exp_avg_sq", square)):
            _put([state[key] for state in states], values, noise)
        _put(chunk, weight, noise)


def stochastic_round(values: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """float32 values [...] as bf16 [...]: rounded up or down to a neighbour so that the mean is the value."""
    bits = values.view(torch.int32)
    drawn = torch.randint(
        0, 1 << LOW_BITS, bits.shape, dtype=torch.int32, device=bits.device, generator=noise
    )
    rounded = (bits + drawn) & -(1 << LOW_BITS)
    # An infinity or no-number has no neighbours.
    return torch.where(values.isfinite(), rounded.view(torch.float32), values).to(torch.bfloat16)


def _flat(tensors: list[Any]) -> torch.Tensor:
    """Tensors of one dtype end to end, as float32 [values]; a launch for all, not one for each."""
    return torch.cat([tensor.flatten() for tensor in tensors]).float()


def _put(tensors: list[Any], values: torch.Tensor, noise: torch.Generator) -> None:
    if tensors[0].dtype is torch.bfloat16:
        values = stochastic_round(values, noise)
    parts = values.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(
        tensors, [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
    )
