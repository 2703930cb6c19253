"""What the reference does in every call of the transformer and diffusers' pipelines do not.

The modulation of the attention between video and sound.

Scale and shift follow the modality's own time, token by token; the gate follows the other modality's
sigma. diffusers' `use_cross_timestep` gives "own, own" (False) or "other, other" (True), which differ from
it by up to 7 % of the output where tokens are conditioned or the sigmas are independent. With True and
the scale/shift modules' time replaced before they run, the result is exact.

The first-frame marker (from 2.5 on). The video VAE is causal: a video's first latent shows one frame where
every other one shows eight, and a learned embedding is added to its tokens, always. Tokens of a reference
come after the video's own and are never marked. Without it the velocity is off by 0.3 to 1.8.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

_NEEDED = ("timestep", "sigma")


class CrossModulation:
    """The hooks on one transformer; `remove()` takes them off again."""

    def __init__(self, transformer: Any) -> None:
        self._times: dict[str, torch.Tensor] = {}
        self._handles: list[RemovableHandle] = [
            transformer.register_forward_pre_hook(self._remember, with_kwargs=True),
            transformer.register_forward_hook(self._forget, always_call=True),
            transformer.av_cross_attn_video_scale_shift.register_forward_pre_hook(self._own_time("video")),
            transformer.av_cross_attn_audio_scale_shift.register_forward_pre_hook(self._own_time("audio")),
        ]

    def remove(self) -> None:
        """Give diffusers' own behaviour back."""
        for handle in self._handles:
            handle.remove()

    def _remember(
        self, transformer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        absent = [name for name in _NEEDED if kwargs.get(name) is None]
        crossed = kwargs.get("use_cross_timestep")
        if args or absent or not crossed:
            raise TypeError(
                "with cross modulation installed the transformer takes keywords only, among them "
                f"use_cross_timestep=True, {', '.join(_NEEDED)}; found {len(args)} positional arguments, "
                f"use_cross_timestep={crossed}, absent: {', '.join(absent) or 'none'}"
            )
        video, audio = kwargs["timestep"], kwargs.get("audio_timestep")
        if audio is None:
            # The model would take the video's times, which are the sound's only when they are one a sample.
            if video.ndim != 1:
                raise TypeError("per-token timestep needs audio_timestep too, of shape (B,) or (B, L)")
            audio = video
        self._times.update(video=video.flatten(), audio=audio.flatten())
        return args, kwargs | first_frame_marker(transformer, kwargs)

    def _forget(self, transformer: Any, args: tuple[Any, ...], output: Any) -> None:
        self._times.clear()

    def _own_time(self, modality: str) -> Any:
        def replace(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (self._times[modality], *args[1:])

        return replace


def first_frame_marker(transformer: Any, kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The mask of the tokens that get the embedding, `[B, N, 1]`; nothing for a model without one.

    Raises:
        TypeError: height or width, in latents, are not among the keywords.
    """
    if not transformer.config.use_keyframes_abs_pos_embedding:
        return {}
    if kwargs.get("height") is None or kwargs.get("width") is None:
        raise TypeError("a transformer with a first-frame marker needs height and width, in latents")
    tokens = kwargs["hidden_states"]
    mask = tokens.new_zeros(*tokens.shape[:2], 1)
    mask[:, : kwargs["height"] * kwargs["width"]] = 1
    return {"video_keyframes_mask": mask}


def install_cross_modulation(transformer: Any) -> CrossModulation:
    """Make an `LTX2VideoTransformer3DModel` modulate as the reference does, in training and in sampling.

    From then on it is called with keywords only, with `use_cross_timestep=True`.
    """
    return CrossModulation(transformer)
