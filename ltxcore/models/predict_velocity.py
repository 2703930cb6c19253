"""One call of the transformer: latents, sigmas and text in, velocities out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ltxcore.config.geometry import AUDIO_LATENTS_PER_SECOND
from ltxcore.models.versions import TIME_SCALE


@dataclass(frozen=True)
class Reference:
    """What the model is given beside the video it makes, clean and at time 0: another one, or a keyframe."""

    latents: torch.Tensor
    """Normalised `[B, C, F', H', W']`."""
    spatial_factor: int = 1
    """How many times smaller its edges are than the video's; its positions are multiplied by it."""
    temporal_factor: int = 1
    """How many times fewer frames a second it has."""
    frame: int | None = None
    """The one frame of the video that it shows, counted from 0: a keyframe, of one latent. None: a video,
    from the first frame on (IC-LoRA)."""

    def to(self, device: torch.device) -> Reference:
        """The same with its latents on `device`."""
        return replace(self, latents=self.latents.to(device))


@dataclass(frozen=True)
class SoundReference:
    """A sound that the model is given beside the one it makes, clean and at time 0: a voice, for example."""

    latents: torch.Tensor
    """Normalised and packed `[B, L', D]`."""
    before: bool = True
    """Whether it ends one latent before the sound begins, or begins with it."""

    def to(self, device: torch.device) -> SoundReference:
        """The same with its latents on `device`."""
        return replace(self, latents=self.latents.to(device))


def predict_velocity(
    transformer: Any,
    *,
    video: torch.Tensor,
    audio: torch.Tensor | None,
    video_times: torch.Tensor,
    audio_times: torch.Tensor | None,
    video_sigma: torch.Tensor,
    audio_sigma: torch.Tensor | None,
    video_embeds: torch.Tensor,
    audio_embeds: torch.Tensor,
    fps: float | torch.Tensor,
    isolated: bool = False,
    references: Sequence[Reference] = (),
    sound_reference: SoundReference | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The velocities that the model predicts.

    Times and sigmas are in [0, 1]; the factor 1000 of the model's time is applied here.

    Args:
        transformer: `LTX2VideoTransformer3DModel`, with cross modulation installed.
        video: noisy video latents `[B, C, F, H, W]`.
        audio: noisy packed audio latents `[B, L, D]`, or None for video alone.
        video_times: `[B]`, or `[B, F * H * W]` where some tokens are clean and have time 0.
        audio_times: `[B]` or `[B, L]`; None exactly where `audio` is.
        video_sigma: `[B]`, the noise level of the video's noisy tokens.
        audio_sigma: `[B]`; None exactly where `audio` is.
        video_embeds: `[B, T, Dv]` from the connectors, without a mask: registers fill the padding.
        audio_embeds: `[B, T, Da]`.
        fps: the frames a second of the samples, a number or `[B]`.
        isolated: keep the modalities from seeing each other; always so without audio.
        references: their tokens come after the video's own, in this order, at the places of the video that
            they show.
        sound_reference: its tokens come after the sound's own.

    Returns:
        Velocities `[B, C, F, H, W]` and `[B, L, D]`, the latter None without audio.

    Raises:
        ValueError: audio, its times and its sigma are not given together, or a sound is given beside none.
    """
    if len({audio is None, audio_times is None, audio_sigma is None}) != 1:
        raise ValueError("audio, audio_times and audio_sigma are given together or all None")
    from diffusers import LTX2Pipeline

    batch, _, frames, height, width = video.shape
    silent = audio is None
    if silent and sound_reference is not None:
        raise ValueError("a sound is given beside a video that has none")
    if audio is None or audio_times is None or audio_sigma is None:
        # Both streams are mandatory: one token of silence stands for the sound, and no attention sees it.
        audio = video.new_zeros(batch, 1, transformer.config.audio_in_channels)
        audio_times = audio_sigma = torch.zeros_like(video_sigma)
    rate = fps if isinstance(fps, float | int) else fps.to(video.device, torch.float32).view(-1, 1, 1)
    length = audio.shape[1]
    tokens = LTX2Pipeline._pack_latents(video)
    coords = transformer.rope.prepare_video_coords(batch, frames, height, width, video.device, fps=rate)
    own = tokens.shape[1]
    if references:
        given = [LTX2Pipeline._pack_latents(reference.latents.to(video)) for reference in references]
        places = [reference_coords(transformer, reference, rate, video.device) for reference in references]
        tokens, coords = torch.cat([tokens, *given], 1), torch.cat([coords, *places], 2)
        video_times = _with_time_zero(video_times, own, tokens.shape[1] - own)
    audio_coords = transformer.audio_rope.prepare_audio_coords(batch, length, video.device)
    if sound_reference is not None:
        audio = torch.cat([audio, sound_reference.latents.to(audio)], 1)
        beside = sound_reference_coords(transformer, sound_reference, video.device)
        audio_coords = torch.cat([audio_coords, beside], 2)
        audio_times = _with_time_zero(audio_times, length, audio.shape[1] - length)
    video_velocity, audio_velocity = transformer(
        hidden_states=tokens,
        audio_hidden_states=audio,
        encoder_hidden_states=video_embeds,
        audio_encoder_hidden_states=audio_embeds,
        timestep=video_times * TIME_SCALE,
        audio_timestep=audio_times * TIME_SCALE,
        sigma=video_sigma * TIME_SCALE,
        audio_sigma=audio_sigma * TIME_SCALE,
        encoder_attention_mask=None,
        audio_encoder_attention_mask=None,
        num_frames=frames,
        height=height,
        width=width,
        audio_num_frames=audio.shape[1],
        video_coords=coords,
        audio_coords=audio_coords,
        isolate_modalities=isolated or silent,
        use_cross_timestep=True,
        return_dict=False,
    )
    unpacked = LTX2Pipeline._unpack_latents(video_velocity[:, :own], frames, height, width)
    return unpacked, None if silent else audio_velocity[:, :length]


def reference_coords(
    transformer: Any, reference: Reference, fps: float | torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Where a reference's tokens are in the video that it belongs to: [start, end) in s, rows and columns.

    Its first latent is causal: one frame of the video, whatever the factor in time is. With t the times on
    the reference's own grid, those in the video are factor * t - (factor - 1) / fps, not below 0 (ltx2-facts
    section 6). A keyframe lasts one frame: [frame, frame + 1) / fps.

    Returns:
        `[B, 3, F' * H' * W', 2]`, in seconds and in pixels of the video.
    """
    batch, _, frames, height, width = reference.latents.shape
    coords: torch.Tensor = transformer.rope.prepare_video_coords(
        batch, frames, height, width, device, fps=fps
    )
    space, time = reference.spatial_factor, reference.temporal_factor
    coords = coords * coords.new_tensor([time, space, space]).view(1, 3, 1, 1)
    if reference.frame is not None:
        coords[:, 0] = coords.new_tensor([reference.frame, reference.frame + 1]) / fps
        return coords
    late = (time - 1) / (fps.view(-1, 1, 1) if isinstance(fps, torch.Tensor) else fps)
    coords[:, 0] = (coords[:, 0] - late).clamp(min=0)
    return coords


def sound_reference_coords(transformer: Any, reference: SoundReference, device: torch.device) -> torch.Tensor:
    """Where a sound's tokens are in time beside the sound that it belongs to: [start, end) in seconds.

    Aligned, token i is where the sound's own token i is, as Lightricks' trainer has it. Before it, all are
    moved by one amount so that the last ends one latent, 40 ms, before the beginning, as in ID-LoRA: the
    model then tells the two apart by their places.

    Returns:
        `[B, 1, L', 2]`.
    """
    batch, length, _ = reference.latents.shape
    coords: torch.Tensor = transformer.audio_rope.prepare_audio_coords(batch, length, device)
    return coords - (coords.max() + 1 / AUDIO_LATENTS_PER_SECOND) if reference.before else coords


def _with_time_zero(times: torch.Tensor, own: int, given: int) -> torch.Tensor:
    """Times `[B]` or `[B, N]` with those of the given tokens after them: `[B, N + given]`."""
    each = times[:, None].expand(-1, own) if times.ndim == 1 else times
    return torch.cat([each, each.new_zeros(len(each), given)], 1)
