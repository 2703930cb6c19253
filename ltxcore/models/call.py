"""One call of the transformer: latents, sigmas and text in, velocities out."""

from __future__ import annotations

from typing import Any

import torch

from ltxcore.models.versions import TIME_SCALE


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

    Returns:
        Velocities `[B, C, F, H, W]` and `[B, L, D]`, the latter None without audio.

    Raises:
        ValueError: audio, its times and its sigma are not given together.
    """
    if len({audio is None, audio_times is None, audio_sigma is None}) != 1:
        raise ValueError("audio, audio_times and audio_sigma are given together or all None")
    from diffusers import LTX2Pipeline

    batch, _, frames, height, width = video.shape
    silent = audio is None
    if audio is None or audio_times is None or audio_sigma is None:
        # Both streams are mandatory: one token of silence stands for the sound, and no attention sees it.
        audio = video.new_zeros(batch, 1, transformer.config.audio_in_channels)
        audio_times = audio_sigma = torch.zeros_like(video_sigma)
    rate = fps if isinstance(fps, float | int) else fps.to(video.device, torch.float32).view(-1, 1, 1)
    length = audio.shape[1]
    video_velocity, audio_velocity = transformer(
        hidden_states=LTX2Pipeline._pack_latents(video),
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
        audio_num_frames=length,
        video_coords=transformer.rope.prepare_video_coords(
            batch, frames, height, width, video.device, fps=rate
        ),
        audio_coords=transformer.audio_rope.prepare_audio_coords(batch, length, video.device),
        isolate_modalities=isolated or silent,
        use_cross_timestep=True,
        return_dict=False,
    )
    unpacked = LTX2Pipeline._unpack_latents(video_velocity, frames, height, width)
    return unpacked, None if silent else audio_velocity
