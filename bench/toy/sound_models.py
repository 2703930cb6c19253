"""Trains the toy's audio VAE and vocoder on tones, from the project's own log-mel spectrogram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.toy.fitting import fit
from bench.toy.sizes import AUDIO_VAE, MEL_BINS, VOCODER
from ltxcore.models.vae.mel import FLOOR, log_mel
from ltxcore.store.fingerprint import derive_seed

AUDIO_VAE_STEPS = 2000
VOCODER_STEPS = 350
BATCH = 16
POOL = 1024
"""Sounds that are made once and drawn from."""
LEARNING_RATE = 2e-3
SAMPLE_RATE = 16_000
MEL_FRAMES, VOCODER_MEL_FRAMES = 65, 33
KL = 2e-5
LATENT_NOISE = 0.05
FRAME_RATE = 100
"""Mel frames a second. A tone of a multiple of it has the same wave in every frame."""
PITCHES = tuple(FRAME_RATE * number for number in range(2, 25))
SILENT_SHARE = 0.1
VOCODER_PITCHES = (300, 400, 600, 900, 1200, 1600, 2000)
SOUNDS = 64
"""Of each pitch, for the vocoder."""
FIRST_LEVEL = 0.1
"""Deviation of the vocoder's wave before training."""


def tones(seed: int, count: int, rate: int, frames: int, pitches: Sequence[int] = PITCHES) -> torch.Tensor:
    """Tones of the pitches at different loudness, some with gaps, some silent.

    Returns:
        float32 `[count, 2, N]` at `rate`, N samples being (frames - 1) / 100 s. A seed gives the same tones
        at every rate.
    """
    rng = np.random.default_rng(seed)
    duration_s = (frames - 1) / FRAME_RATE
    time = np.arange((frames - 1) * rate // FRAME_RATE) / rate
    waves = np.zeros((count, 2, len(time)), np.float32)
    for wave in waves:
        pitch, level = rng.choice(pitches), rng.uniform(0.1, 0.5)
        begin, end = sorted(rng.uniform(-0.5, duration_s + 0.5, 2))
        sides = level * (1.0 if rng.random() < 0.7 else rng.uniform(0.2, 1, (2, 1)))
        sounding = np.clip(np.minimum(time - begin, end - time) / 0.02, 0, 1)
        if rng.random() >= SILENT_SHARE:
            wave[:] = sides * sounding * np.sin(2 * np.pi * pitch * time)
    return torch.from_numpy(waves)


def mels(seed: int, count: int, frames: int, pitches: Sequence[int] = PITCHES) -> torch.Tensor:
    """`[count, 2, frames, mel]`, the spectrograms of `tones`."""
    return log_mel(tones(seed, count, SAMPLE_RATE, frames, pitches), MEL_BINS, SAMPLE_RATE)


def _drawn(seed: int, pool: int, count: int) -> tuple[torch.Tensor, torch.Generator]:
    """Which of the pool's sounds a step takes, and its generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(pool, (count,), generator=generator), generator


def make_audio_vae() -> Any:
    from diffusers import AutoencoderKLLTX2Audio

    torch.manual_seed(derive_seed(0, "toy", "audio vae"))
    return AutoencoderKLLTX2Audio(**AUDIO_VAE)


def make_vocoder() -> Any:
    from diffusers.pipelines.ltx2 import LTX2Vocoder

    torch.manual_seed(derive_seed(0, "toy", "vocoder"))
    return LTX2Vocoder(**VOCODER)


def train_audio_vae(work: Path, steps: int = AUDIO_VAE_STEPS) -> None:
    """Train, or continue, in `work`."""
    vae = make_audio_vae()
    pool = mels(derive_seed(0, "toy", "sounds"), POOL, MEL_FRAMES)
    with torch.no_grad():
        vae.decoder.conv_out.conv.bias.fill_(pool.mean())

    def losses(step: int) -> dict[str, torch.Tensor]:
        chosen, generator = _drawn(derive_seed(0, "toy", "audio vae", step), POOL, BATCH)
        mel = pool[chosen]
        with torch.autocast("cpu", torch.bfloat16):
            mean = vae.encode(mel).latent_dist.mean.float()
            noise = torch.randn(mean.shape, generator=generator)
            spread = (LATENT_NOISE * mean.detach().std()).clamp(min=1e-3)
            drawn = vae.decode(mean + spread * noise, return_dict=False)[0].float()
        # The decoder gives 4 T - 3 frames of T latents.
        length = min(drawn.shape[2], mel.shape[2])
        error = drawn[:, :, :length] - mel[:, :, :length]
        return {"l1": error.abs().mean(), "size": KL * mean.square().mean()}

    fit(vae, losses, steps, LEARNING_RATE, work / "audio_vae.safetensors")


def train_vocoder(work: Path, steps: int = VOCODER_STEPS) -> None:
    """Train, or continue, in `work`, on the very waves of tones: every pitch once in every batch."""
    vocoder = make_vocoder()
    mel, wave = [], []
    for hz in VOCODER_PITCHES:
        seed = derive_seed(0, "toy", "sounds", hz)
        mel.append(mels(seed, SOUNDS, VOCODER_MEL_FRAMES, (hz,)))
        wave.append(tones(seed, SOUNDS, VOCODER["output_sampling_rate"], VOCODER_MEL_FRAMES, (hz,)))
    heard_by, wanted_by = torch.stack(mel), torch.stack(wave)
    power = wanted_by.square().mean()
    _settle(vocoder, heard_by[:, :8].flatten(0, 1))
    rows = torch.arange(len(VOCODER_PITCHES))

    def losses(step: int) -> dict[str, torch.Tensor]:
        chosen, generator = _drawn(derive_seed(0, "toy", "vocoder", step), SOUNDS, len(rows))
        # What the transformer and the VAE leave uncertain must not be heard.
        seen, wanted = heard_by[rows, chosen], wanted_by[rows, chosen]
        seen = seen + 0.1 * torch.randn(seen.shape, generator=generator)
        # Not in bf16: the gradient of transposed convolutions in it is wrong on a CPU (torch 2.11).
        heard = vocoder(seen.clamp(min=math.log(FLOOR)))[..., : wanted.shape[-1]]
        return {"wave": (heard - wanted).square().mean() / power}

    fit(vocoder, losses, steps, LEARNING_RATE, work / "vocoder.safetensors")


@torch.no_grad()
def _settle(vocoder: Any, mel: torch.Tensor) -> None:
    """Scale the initial weights so that every stage answers real spectra with unit variance.

    torch's own shrink the wave a hundredfold on the way, and training then ends in silence. The first weights
    sum to 0 for every output and keep doing so: logarithms lie around -10, and any other change of a weight
    moves the wave by a constant, far more than by its shape.
    """
    first = vocoder.conv_in.weight
    first.sub_(first.mean((1, 2), keepdim=True))
    first.register_hook(lambda gradient: gradient - gradient.mean((1, 2), keepdim=True))
    answers: list[torch.Tensor] = []
    for module in (vocoder.conv_in, *vocoder.upsamplers, vocoder.conv_out):
        hook = module.register_forward_hook(lambda *call: answers.append(call[-1]))
        vocoder(mel)
        hook.remove()
        answer = answers.pop()
        factor = (FIRST_LEVEL if module is vocoder.conv_out else 1.0) / answer.std()
        module.weight.mul_(factor)
        module.bias.sub_(answer.mean((0, 2))).mul_(factor)


if __name__ == "__main__":
    import sys

    work = Path(sys.argv[1])
    {"audio_vae": train_audio_vae, "vocoder": train_vocoder}[sys.argv[2]](work, *map(int, sys.argv[3:]))
