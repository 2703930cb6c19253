"""CREPA aligns the projected hidden states of one block with a frozen teacher's features of the same frames.

It attaches from outside: a forward hook reads the block's output, and the loss is added to the step's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize
from torch.nn.utils import skip_init

from ltxcore.config.crepa_settings import PROJECTOR_FILE, CrepaSettings
from ltxcore.models.files.writing import tensor_bytes
from ltxcore.store.blobs import write_atomic
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.data import Batch
from ltxcore.training.objective import Losses

PREFIX = "crepa."


class Projector(nn.Module):
    """LayerNorm and Linear from the model's width to the teacher's, in float32."""

    def __init__(self, width: int, teacher_width: int, seed: int) -> None:
        """The initial values come from a separate seed, so they do not depend on other trained parameters."""
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = skip_init(nn.Linear, width, teacher_width)
        generator = torch.Generator().manual_seed(derive_seed(seed, "train-lora", "crepa init"))
        nn.init.xavier_uniform_(self.linear.weight, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[..., width]` of any dtype -> float32 `[..., teacher width]`."""
        projected: torch.Tensor = self.linear(self.norm(hidden.float()))
        return projected


class Alignment:
    """CREPA on one transformer, for one training.

    Args:
        transformer: `LTX2VideoTransformer3DModel`.
        settings: which block, and how much.
        teacher_width: values of the teacher's patch tokens.
        device: where the training computes.
        seed: the training's.
    """

    def __init__(
        self,
        transformer: Any,
        settings: CrepaSettings,
        teacher_width: int,
        device: torch.device | str,
        seed: int,
    ) -> None:
        config = transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        self._settings = settings
        self.projector = Projector(width, teacher_width, seed).to(device)
        self._hidden: torch.Tensor | None = None
        block = transformer.transformer_blocks[settings.crepa_block_index]
        self._hook = block.register_forward_hook(self._capture)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, beside the adapter's own parameters and named apart from them."""
        return {f"{PREFIX}{name}": parameter for name, parameter in self.projector.named_parameters()}

    def remove(self) -> None:
        """Take the hook off the transformer."""
        self._hook.remove()

    def share_gradients(self) -> None:
        """Average the projector's gradients over all processes; with one process there is nothing to do.

        The wrapper that does so for the adapter does not know the projector. Where no process had a batch
        with the teacher's features there is no gradient, as with one process.
        """
        if not torch.distributed.is_initialized():
            return
        parameters = list(self.projector.parameters())
        reached = torch.tensor(
            float(any(p.grad is not None for p in parameters)), device=parameters[0].device
        )
        torch.distributed.all_reduce(reached, torch.distributed.ReduceOp.MAX)
        if not reached.item():
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= torch.distributed.get_world_size()

    def added_to(self, losses: Losses, batch: Batch) -> Losses:
        """The losses of the batch that was just computed, with the alignment in their total.

        A batch without the teacher's features, one without pictures, stays as it is.

        Raises:
            RuntimeError: the block has not run since the last batch.
        """
        hidden, self._hidden = self._hidden, None
        if batch.teacher is None:
            return losses
        if hidden is None:
            raise RuntimeError(f"block {self._settings.crepa_block_index} has not run for this batch")
        frames, tokens = batch.teacher.shape[1:3]
        # A condition's tokens, where there are any, come after the clip's own.
        own = hidden[:, : frames * tokens].unflatten(1, (frames, tokens))
        settings = self._settings
        near, score = alignment(
            self.projector(own),
            batch.teacher,
            settings.crepa_adjacent_distance,
            settings.crepa_adjacent_tau,
        )
        loss = -settings.crepa_lambda * score.mean()
        measures = {"crepa_loss": -score.mean().detach(), "crepa_similarity": near.mean().detach()}
        return replace(
            losses,
            total=losses.total + loss,
            measures={**losses.measures, **measures},
            weights={**losses.weights, "crepa_loss": settings.crepa_lambda},
        )

    # Outside what a compiled block is compiled to: it is about the pass and not of it.
    @torch.compiler.disable
    def _capture(self, block: nn.Module, inputs: Any, output: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Take the video stream of (video, sound), once a batch.

        Neither of a recomputation in backward, whose result belongs to no loss, nor of a pass without
        gradients.
        """
        in_backward = torch._C._current_graph_task_id() != -1
        if torch.is_grad_enabled() and not in_backward:
            self._hidden = output[0]


def alignment(
    projected: torch.Tensor, teacher: torch.Tensor, distance: int, tau: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The similarity of each sample's frames with the teacher's features of these frames and their
    neighbours.

    s_f = cos(h_f, y_f) + sum over d = 1 … distance of exp(-d / tau) (cos(h_f, y_{f-d}) + cos(h_f, y_{f+d})),
    cosines averaged over the tokens of a frame; neighbours outside the clip are left out (CREPA).

    Args:
        projected: h, float32 `[B, F, N, D]`.
        teacher: y, of any dtype, the same shape.
        distance: neighbours to each side.
        tau: how fast they count less.

    Returns:
        The mean over f of cos(h_f, y_f) alone, and of s_f, each float32 `[B]`.
    """
    h, y = normalize(projected.float(), dim=-1), normalize(teacher.float(), dim=-1)
    frames = h.shape[1]
    near = _cosines(h, y)
    score = near
    for d in range(1, min(distance, frames - 1) + 1):
        pairs = _cosines(h[:, d:], y[:, :-d]) + _cosines(h[:, :-d], y[:, d:])
        score = score + exp(-d / tau) * pairs
    return near / frames, score / frames


def _cosines(h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The sum over frames of the mean over tokens of unit vectors' products, `[B]`."""
    return (h * y).sum(-1).mean(-1).sum(-1)


def write_projector(directory: Path, projector: nn.Module, header_values: Mapping[str, Any]) -> Path:
    """Write the trained projector beside the LoRA, with what it belongs to in the header.

    Args:
        directory: of the LoRA.
        projector: a `Projector`.
        header_values: values for the header; what is no string is written as JSON.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in projector.state_dict().items()}
    header = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in header_values.items()
    }
    path = directory / PROJECTOR_FILE
    write_atomic(path, tensor_bytes(tensors, {"format": "pt", **header}))
    return path
