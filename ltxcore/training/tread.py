"""TREAD (arXiv:2501.04765): in training, some video tokens skip some consecutive blocks.

At the first block of a route a random part of each sample's video tokens is taken out of the stream; the
blocks of the route compute on the rest, with the positions and the modulation of those tokens; after the
last block the tokens that passed by return to their places as they were. Conditioned tokens are never
passed by, and sound never is.

It is put on a diffusers LTX-2 transformer from outside. Routes are followed only while gradients are
recorded, so that held-out losses and rollouts see every token in every block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ltxcore.config.tread_settings import Span
from ltxcore.store.fingerprint import derive_seed

_MODULATION = ("temb", "temb_ca_scale_shift", "temb_ca_gate")
_ROTARY = ("video_rotary_emb", "ca_video_rotary_emb")
_MASK = "self_attention_mask"


@dataclass
class _Passage:
    """The state of one forward pass on one route."""

    kept: torch.Tensor
    """The tokens that go through the blocks, in order; int64 [B, K]."""
    tokens: int
    whole: torch.Tensor | None = None
    """The stream as it was before the route; [B, N, D]."""


@dataclass
class _Step:
    """The batch that is being computed."""

    number: int
    passages: dict[int, _Passage] = field(default_factory=dict)


class TokenRouting:
    """The routes of one transformer. Outside `batch` it computes as without them.

    Args:
        transformer: `LTX2VideoTransformer3DModel`; its weights may be streamed, offloaded or quantised. It is
            called with keywords, as `predict_velocity` does.
        spans: the routes; they do not overlap. Those of ratio 0 are left out.
        seed: the training's.
    """

    def __init__(self, transformer: Any, spans: Sequence[Span], seed: int) -> None:
        self._seed = seed
        self._step: _Step | None = None
        self._spans = {number: span for number, span in enumerate(spans) if span.ratio > 0}
        self._wrapped: list[tuple[nn.Module, Any]] = []
        self._handle = transformer.register_forward_pre_hook(self._choose, with_kwargs=True)
        for number, span in self._spans.items():
            for position in range(span.start, span.end + 1):
                self._wrap(transformer.transformer_blocks[position], number, position)

    @contextmanager
    def batch(self, number: int) -> Iterator[None]:
        """Follow the routes in the forward and backward passes of batch `number`.

        Which tokens skip the blocks depends on the seed, on `number`, on the route and on the given tokens.
        """
        self._step = _Step(number)
        try:
            yield
        finally:
            self._step = None

    def kept(self, route: int) -> torch.Tensor | None:
        """The tokens that the batch's last forward pass kept on a route; None where it kept all.

        Positions in rising order, int64 [B, K].
        """
        passage = self._step and self._step.passages.get(route)
        return passage.kept if passage else None

    def remove(self) -> None:
        """Restore the transformer's own forward passes."""
        self._handle.remove()
        for block, before in reversed(self._wrapped):
            if before is None:
                del block.forward
            else:
                block.forward = before

    def _choose(self, transformer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._step is None or not torch.is_grad_enabled():
            return
        count, tokens, _ = kwargs["hidden_states"].shape
        given = (kwargs["timestep"] == 0).reshape(count, -1).expand(count, tokens)
        self._step.passages = {}
        for number, span in self._spans.items():
            seed = derive_seed(self._seed, "train-lora", self._step.number, "tread", number)
            kept = keep_tokens(given, span.ratio, torch.Generator().manual_seed(seed))
            if kept.shape[1] < tokens:
                self._step.passages[number] = _Passage(kept, tokens)

    def _passage(self, number: int) -> _Passage | None:
        # Gradients are recorded in a recomputation too, which has to see the same tokens.
        if self._step is None or not torch.is_grad_enabled():
            return None
        return self._step.passages.get(number)

    def _wrap(self, block: nn.Module, number: int, position: int) -> None:
        """Make a block of route `number` compute on the kept tokens."""
        forward: Callable[..., Any] = block.forward
        names = list(inspect.signature(type(block).forward).parameters)[1:]
        span = self._spans[number]

        def routed(*args: Any, **kwargs: Any) -> Any:
            passage = self._passage(number)
            if passage is None:
                return forward(*args, **kwargs)
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            if position == span.start:
                passage.whole = given["hidden_states"]
                given["hidden_states"] = take_tokens(passage.whole, passage.kept)
            video, audio = forward(**at_tokens(given, passage.kept, passage.tokens))
            if position == span.end and passage.whole is not None:
                video = put_back(passage.whole, video, passage.kept)
            return video, audio

        self._wrapped.append((block, block.__dict__.get("forward")))
        block.forward = routed


def keep_tokens(given: torch.Tensor, ratio: float, generator: torch.Generator) -> torch.Tensor:
    """Choose the tokens that a route's blocks compute on.

    round((1 - ratio) N) of each sample, at least one: what is given, and random others. Where a sample has
    more tokens given than that, every sample of the batch keeps as many.

    Args:
        given: the conditioned tokens; bool [B, N].
        ratio: the share that passes by.
        generator: a CPU generator.

    Returns:
        Positions in rising order, int64 [B, K], on the device of `given`.
    """
    count, tokens = given.shape
    order = torch.rand(count, tokens, generator=generator).to(given.device) - given.float()
    most_given = int(given.sum(1).max())
    kept = max(1, round((1 - ratio) * tokens), most_given)
    return order.argsort(dim=1, stable=True)[:, :kept].sort(dim=1).values


def at_tokens(given: dict[str, Any], kept: torch.Tensor, tokens: int) -> dict[str, Any]:
    """A block's arguments beside the stream itself, for the kept tokens.

    Positions always have an entry a token; modulation has one only where tokens have times of their own.

    Args:
        given: the block's arguments by name.
        kept: indices of the kept tokens, int64 [B, K].
        tokens: how many video tokens there are.
    """
    found = dict(given)
    for name in _MODULATION:
        if given[name].shape[1] == tokens:
            found[name] = take_tokens(given[name], kept)
    for name in _ROTARY:
        if given.get(name) is not None:
            # Split tables are [B, heads, N, r], interleaved ones [B, N, D].
            found[name] = tuple(take_tokens(table, kept, dim=table.ndim - 2) for table in given[name])
    if given.get(_MASK) is not None:
        found[_MASK] = take_tokens(take_tokens(given[_MASK], kept), kept, dim=2)
    return found


def take_tokens(values: torch.Tensor, kept: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """The kept tokens [.., K, ..] of values [.., N, ..] whose tokens are in `dim`; `kept` is int64 [B, K]."""
    return values.expand(len(kept), *values.shape[1:]).gather(dim, _index(values, kept, dim))


def put_back(whole: torch.Tensor, part: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """The stream before the route [B, N, D], with the kept tokens' new values [B, K, D] in their places."""
    return whole.to(part.dtype).scatter(1, _index(part, kept, 1), part)


def _index(values: torch.Tensor, kept: torch.Tensor, dim: int) -> torch.Tensor:
    """`kept` [B, K] as an index into `dim` of `values`, the same in all dimensions after the first."""
    shape = [len(kept)] + [1] * (values.ndim - 1)
    shape[dim] = kept.shape[1]
    whole = list(values.shape)
    whole[0], whole[dim] = len(kept), kept.shape[1]
    return kept.reshape(shape).expand(whole)
