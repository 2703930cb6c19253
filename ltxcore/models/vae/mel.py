"""The audio VAE's front end: a log-mel spectrogram, which diffusers does not have."""

from __future__ import annotations

import torch

N_FFT = 1024
FLOOR = 1e-5


def log_mel(
    waveform: torch.Tensor, n_mels: int = 64, sample_rate: int = 16_000, hop_length: int = 160
) -> torch.Tensor:
    """Natural logarithm of the mel magnitudes.

    Periodic Hann window of 1024 samples, centred with reflect padding, power 1, mel filters with slaney
    scale and norm over 0 Hz to half the sample rate, floor 1e-5.

    Args:
        waveform: `[B, C, N]` at `sample_rate`, N > 512; computed in float32.

    Returns:
        `[B, C, T, n_mels]`, T = N // hop_length + 1.

    Raises:
        ValueError: the waveform is too short to be reflected at its ends.
    """
    from torchaudio.transforms import MelSpectrogram

    if waveform.shape[-1] <= N_FFT // 2:
        raise ValueError(
            f"a mel spectrogram needs more than {N_FFT // 2} samples; found {waveform.shape[-1]}"
        )
    spectrogram = MelSpectrogram(
        sample_rate=sample_rate,
        n_fft=N_FFT,
        hop_length=hop_length,
        n_mels=n_mels,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
    ).to(waveform.device)
    return spectrogram(waveform.float()).clamp(min=FLOOR).log().transpose(-1, -2)
