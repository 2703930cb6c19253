"""Sound to audio latents, packed as the transformer takes them."""

from __future__ import annotations

from typing import Any

import torch

from ltxcore.config.geometry import AUDIO_LATENTS_PER_SECOND
from ltxcore.models.vae.mel import N_FFT, log_mel


def audio_latent_length(duration_s: float) -> int:
    """Audio tokens of a clip: 25 a second, rounded as in `LTX2Pipeline`, and at least one."""
    return max(1, round(duration_s * AUDIO_LATENTS_PER_SECOND))


def encode_audio(audio_vae: Any, waveform: torch.Tensor, length: int) -> torch.Tensor:
    """Posterior mode of the sound's log-mel spectrogram, packed, then normalised.

    The spectrogram's parameters come from the VAE's configuration. The encoder gives ceil(T / 4) latents
    for T mel frames, often one more than the clip's own `length`: the surplus is cut off.

    Args:
        audio_vae: `AutoencoderKLLTX2Audio`.
        waveform: `[2, N]` at the VAE's sample rate, 16 kHz.
        length: latents wanted, `audio_latent_length` of the clip.

    Returns:
        bf16 `[length, C * mel]` on the CPU: (z - mean) / std per packed entry.

    Raises:
        ValueError: not stereo, or too short for `length` latents.
    """
    from diffusers import LTX2Pipeline

    if waveform.ndim != 2 or waveform.shape[0] != 2:
        raise ValueError(f"the audio VAE takes stereo [2, N]; found {list(waveform.shape)}")
    config = audio_vae.config
    # A clip of a frame or two is shorter than the spectrogram's window: silence follows it.
    missing = max(0, N_FFT - waveform.shape[1])
    sound = torch.nn.functional.pad(waveform, (0, missing))
    mel = log_mel(sound[None], config.mel_bins, config.sample_rate, config.mel_hop_length)
    with torch.no_grad():
        mode = audio_vae.encode(mel.to(audio_vae.device, audio_vae.dtype)).latent_dist.mode().float()
    packed = LTX2Pipeline._pack_audio_latents(mode)
    if packed.shape[1] < length:
        raise ValueError(
            f"{waveform.shape[1]} samples give {packed.shape[1]} audio latents, but the clip has {length}; "
            "pad the waveform with silence to the clip's duration"
        )
    latents = LTX2Pipeline._normalize_audio_latents(packed, audio_vae.latents_mean, audio_vae.latents_std)
    return latents[0, :length].to("cpu", torch.bfloat16)
