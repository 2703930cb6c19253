"""Parts of a rendering that are given, held in diffusers' pipeline from outside.

What is given goes into the model clean and at time 0, as in training, and the prediction of it is replaced by
it after the guidance, as the reference does. The pipeline itself is not changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ltxcore.models.call import Reference, reference_coords


@dataclass(frozen=True)
class HeldTokens:
    """The tokens that one modality begins with, and which of them are given."""

    tokens: torch.Tensor
    """Normalised and packed, `[k, C]`."""
    given: torch.Tensor
    """bool `[k]`."""

    def put(self, into: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` with the given tokens in their places.

        Raises:
            ValueError: there are fewer than k.
        """
        count = len(self.tokens)
        if count > into.shape[1]:
            raise ValueError(f"{count} tokens are held, but the rendering has {into.shape[1]}")
        chosen = self.given.to(into.device)[None, :, None]
        first = torch.where(chosen, self.tokens.to(into), into[:, :count])
        return torch.cat([first, into[:, count:]], 1)

    def times(self, times: torch.Tensor, tokens: int) -> torch.Tensor:
        """Times `[B]` for each of `tokens`, 0 on the given ones: `[B, N]`."""
        each = times[:, None].repeat(1, tokens)
        each[:, : len(self.given)][:, self.given.to(each.device)] = 0
        return each

    def is_all(self, tokens: int) -> bool:
        """Whether nothing is left to make."""
        return int(self.given.sum()) == tokens


@dataclass(frozen=True)
class Held:
    """What a rendering is given."""

    video: HeldTokens | None = None
    audio: HeldTokens | None = None
    reference: Reference | None = None
    """A video beside the one that is rendered, in a batch of one."""


@contextmanager
def holding(pipeline: Any, held: Held) -> Iterator[None]:
    """Hold the parts in every rendering of an `LTX2Pipeline` until the block ends.

    Raises:
        ValueError: while rendering, where more is held than is rendered.
    """
    convert = pipeline.convert_x0_to_velocity
    transformer = pipeline.transformer
    own: dict[str, int] = {}

    def give(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own["tokens"] = kwargs["hidden_states"].shape[1]
        return args, _given(module, kwargs, held)

    def trim(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        video, audio = output
        return video[:, : own["tokens"]], audio

    def pin(sample: torch.Tensor, x0: torch.Tensor, step: int, scheduler: Any = None) -> torch.Tensor:
        is_video = scheduler is None or scheduler is pipeline.scheduler
        part = held.video if is_video else held.audio
        velocity: torch.Tensor = convert(sample, x0 if part is None else part.put(x0), step, scheduler)
        return velocity

    # Before the cross modulation, which reads the times that the model is called with.
    hooks = [
        transformer.register_forward_pre_hook(give, with_kwargs=True, prepend=True),
        transformer.register_forward_hook(trim),
    ]
    pipeline.convert_x0_to_velocity = pin
    try:
        yield
    finally:
        del pipeline.convert_x0_to_velocity
        for hook in hooks:
            hook.remove()


def _given(transformer: Any, kwargs: dict[str, Any], held: Held) -> dict[str, Any]:
    """The model's arguments with the given parts in their places."""
    video, audio = kwargs["hidden_states"], kwargs["audio_hidden_states"]
    # Each stream gets times of its own: the pipeline hands over one for both.
    video_times = audio_times = kwargs["timestep"]
    changed = {**kwargs, "audio_timestep": audio_times, "audio_sigma": kwargs["sigma"]}
    if held.video is not None:
        video = held.video.put(video)
        video_times = held.video.times(video_times, video.shape[1])
        if held.video.is_all(video.shape[1]):
            changed["sigma"] = torch.zeros_like(kwargs["sigma"])
    if held.audio is not None:
        changed["audio_hidden_states"] = held.audio.put(audio)
        changed["audio_timestep"] = held.audio.times(audio_times, audio.shape[1])
        if held.audio.is_all(audio.shape[1]):
            changed["audio_sigma"] = torch.zeros_like(kwargs["sigma"])
    if held.reference is not None:
        video, video_times, changed["video_coords"] = _beside(
            transformer, kwargs, video, video_times, held.reference
        )
    return {**changed, "hidden_states": video, "timestep": video_times}


def _beside(
    transformer: Any,
    kwargs: dict[str, Any],
    video: torch.Tensor,
    times: torch.Tensor,
    reference: Reference,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The tokens, times and places with those of a reference after them."""
    own = video.shape[1]
    tokens = reference.latents.flatten(2).transpose(1, 2).to(video).expand(len(video), -1, -1)
    each = times if times.ndim == 2 else times[:, None].repeat(1, own)
    places = reference_coords(transformer, reference, kwargs["fps"], video.device)
    coords = torch.cat([kwargs["video_coords"], places.expand(len(video), -1, -1, -1)], 2)
    zeros = each.new_zeros(len(each), tokens.shape[1])
    return torch.cat([video, tokens], 1), torch.cat([each, zeros], 1), coords
