"""A block's norms and attentions with fewer passes over memory, and less kept for backward.

diffusers' RMSNorm and rotation are several operations each, and autograd keeps a float32 copy of every norm's
input and the negated tables of every rotation. Here a norm is torch's own (one kernel on CUDA) and a rotation
knows its gradient, which is the rotation back. In float32 on the CPU every bit is diffusers'.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

Tables = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, float32 [B, heads, N, half of a head]."""


def lean_blocks(transformer: nn.Module) -> None:
    """Let the norms and attentions of a transformer's blocks compute as here, where their kind is known."""
    from diffusers.models.normalization import RMSNorm
    from diffusers.models.transformers.transformer_ltx2 import LTX2Attention

    for block in getattr(transformer, "transformer_blocks", ()):
        for module in block.modules():
            if type(module) is RMSNorm and module.weight is None and module.bias is None:
                module.forward = _Norm(module)
            elif type(module) is LTX2Attention and module.rope_type == "split":
                module.forward = _Attention(module)


class _Norm:
    """x / sqrt(mean(x²) + eps) over the last dimension, without weight."""

    def __init__(self, module: Any) -> None:
        self._shape, self._eps = tuple(module.dim), module.eps

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(hidden_states, self._shape, None, self._eps)


class _Attention:
    """An `LTX2Attention` without mask, by torch's choice of kernel; anything else is left to diffusers."""

    def __init__(self, module: Any) -> None:
        from diffusers.models.transformers.transformer_ltx2 import LTX2PerturbedAttnProcessor

        self._module, self._whole = module, module.forward
        # The order in which the projections are made is the order in which their gradients are summed.
        self._value_first = isinstance(module.processor, LTX2PerturbedAttnProcessor)

    def __call__(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        query_rotary_emb: Tables | None = None,
        key_rotary_emb: Tables | None = None,
        perturbation_mask: torch.Tensor | None = None,
        all_perturbed: bool | None = None,
    ) -> torch.Tensor:
        module = self._module
        backend = module.processor._attention_backend
        if attention_mask is not None or perturbation_mask is not None or all_perturbed or backend:
            found: torch.Tensor = self._whole(
                hidden_states,
                encoder_hidden_states,
                attention_mask,
                query_rotary_emb,
                key_rotary_emb,
                **({"perturbation_mask": perturbation_mask, "all_perturbed": all_perturbed})
                if self._value_first
                else {},
            )
            return found
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        gates = None if module.to_gate_logits is None else module.to_gate_logits(hidden_states)
        value = module.to_v(read) if self._value_first else None
        query, key = module.to_q(hidden_states), module.to_k(read)
        value = module.to_v(read) if value is None else value
        query, key = module.norm_q(query), module.norm_k(key)
        if query_rotary_emb is not None:
            query = rotate(query, *query_rotary_emb)
            key = rotate(key, *(query_rotary_emb if key_rotary_emb is None else key_rotary_emb))
        heads = (each.unflatten(2, (module.heads, -1)).transpose(1, 2) for each in (query, key, value))
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2)
        if gates is not None:
            # A gate of logit zero lets everything through.
            mixed = mixed * (2.0 * torch.sigmoid(gates)).unsqueeze(-1)
        out: torch.Tensor = module.to_out[0](mixed.flatten(2, 3))
        return module.to_out[1](out)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the halves of each head into one another, in float32.

    Args:
        x: [B, N, heads · 2R], of any dtype, which the result has too.
        cos, sin: [B, heads, N, R].
    """
    if torch.compiler.is_compiling():
        first, second = _halves(x, cos)
        turned = torch.stack([first * cos - second * sin, second * cos + first * sin], -2)
        return turned.flatten(-2).transpose(1, 2).flatten(2).to(x.dtype)
    found: torch.Tensor = _Rotation.apply(x, cos, sin)
    return found


def _halves(x: torch.Tensor, cos: torch.Tensor) -> tuple[torch.Tensor, ...]:
    batch, heads, tokens, half = cos.shape
    return x.view(batch, tokens, heads, 2, half).transpose(1, 2).float().unbind(-2)


class _Rotation(torch.autograd.Function):
    """Keeps the tables, which every block shares, and nothing of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = _halves(x, cos)
        turned = _like_heads(x, cos)
        torch.mul(first, cos, out=turned[..., 0, :]).addcmul_(sin, second, value=-1)
        torch.mul(second, cos, out=turned[..., 1, :]).addcmul_(sin, first)
        return _as_tokens(turned, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        gradient = gradient.contiguous()
        first, second = _halves(gradient, cos)
        turned = _like_heads(gradient, cos)
        torch.mul(first, cos, out=turned[..., 0, :]).add_(second * sin)
        torch.mul(second, cos, out=turned[..., 1, :]).sub_(first * sin)
        return _as_tokens(turned, gradient), None, None


def _like_heads(x: torch.Tensor, cos: torch.Tensor) -> torch.Tensor:
    """Room for a float32 result, [B, heads, N, 2, R], laid out as tokens."""
    batch, heads, tokens, half = cos.shape
    room = torch.empty(batch, tokens, heads, 2, half, dtype=torch.float32, device=x.device)
    return room.transpose(1, 2)


def _as_tokens(turned: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return turned.transpose(1, 2).reshape(like.shape).to(like.dtype)
