"""Flow matching on both modalities: what the model sees, what it should answer, and the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ltxcore.config.training_settings import TrainingSettings
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.data import Batch
from ltxcore.training.timesteps import shifted_logit_normal


@dataclass(frozen=True)
class Noised:
    """One modality of a batch on its way to the model, as tokens."""

    tokens: torch.Tensor
    """x = (1 - sigma) x0 + sigma eps, but x0 where `clean`; float32 [B, N, C]."""
    target: torch.Tensor
    """Velocity eps - x0; float32 [B, N, C]."""
    sigma: torch.Tensor
    """[B]."""
    clean: torch.Tensor | None
    """Tokens given as condition: bool [B, N]; None where the batch has none."""
    mask: torch.Tensor
    """1 on tokens that are in the loss, else 0; float32 [B, N]."""

    @property
    def times(self) -> torch.Tensor:
        """sigma of each sample [B], or of each token [B, N] with 0 on the clean ones.

        The first wherever it says enough: per-token times cost the model 95 KiB a token in each block.
        """
        if self.clean is None:
            return self.sigma
        return self.sigma[:, None].expand_as(self.clean).masked_fill(self.clean, 0.0)


@dataclass(frozen=True)
class NoisedBatch:
    """Both modalities; `audio` is None where no sample has sound."""

    video: Noised
    """Zeros with noise where `has_video` is false; the model does not let the sound see them."""
    audio: Noised | None
    has_video: bool = True


@dataclass(frozen=True)
class Losses:
    """Means over the batch; None for a modality that the batch does not have."""

    total: torch.Tensor
    video: torch.Tensor | None
    audio: torch.Tensor | None
    measures: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What else is worth recording, by the name that its series gets."""


def noise_batch(batch: Batch, settings: TrainingSettings, number: int) -> NoisedBatch:
    """Draw noise levels, noise and conditioning for a batch, on its device.

    Args:
        batch: latents.
        settings: the seed, how sigmas are drawn, how often the first frame is a condition.
        number: the batch's own number in the training; every draw derives from seed and number.
    """

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(settings.seed, "train-lora", number, purpose))

    video = patchify(batch.video)
    count, tokens, _ = video.shape
    sigma = shifted_logit_normal(tokens, count, generator("video sigma"))
    clean = first_frame_condition(
        batch.video,
        settings.ltx2_first_frame_conditioning_probability if batch.has_video else 0.0,
        generator("first frame"),
    )
    mask = torch.full((count, tokens), float(batch.has_video))
    noised_video = add_noise(video, sigma, generator("video noise"), clean, mask)
    if batch.audio is None or batch.audio_mask is None:
        return NoisedBatch(noised_video, None)

    if settings.sigma_sampling == "independent" or not batch.has_video:
        sigma = shifted_logit_normal(batch.audio.shape[1], count, generator("audio sigma"))
    noised_audio = add_noise(batch.audio, sigma, generator("audio noise"), None, batch.audio_mask)
    return NoisedBatch(noised_video, noised_audio, batch.has_video)


def patchify(latents: torch.Tensor) -> torch.Tensor:
    """Video latents [B, C, F, H, W] to tokens [B, F·H·W, C] (patch size 1)."""
    return latents.flatten(2).transpose(1, 2)


def unpatchify(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Tokens [B, F·H·W, C] back to latents of the shape of `like`, [B, C, F, H, W]."""
    return tokens.transpose(1, 2).reshape(like.shape)


def first_frame_condition(
    video: torch.Tensor, probability: float, generator: torch.Generator
) -> torch.Tensor | None:
    """Mark the first latent frame's tokens of each sample with a probability.

    A sample of a single latent frame is never conditioned: nothing would be left to learn.

    Returns:
        bool [B, N], or None where no sample is conditioned.
    """
    count, _, frames, height, width = video.shape
    chosen = torch.rand(count, generator=generator) < probability
    if frames == 1 or not chosen.any():
        return None
    first = torch.arange(frames * height * width) < height * width
    return chosen[:, None] & first


def add_noise(
    latents: torch.Tensor,
    sigma: torch.Tensor,
    generator: torch.Generator,
    clean: torch.Tensor | None,
    mask: torch.Tensor,
) -> Noised:
    """Mix packed latents [B, N, C] with noise at levels sigma [B]; `clean` tokens stay as they are."""
    device = latents.device
    start = latents.float()
    noise = torch.randn(start.shape, generator=generator).to(device)
    clean = None if clean is None else clean.to(device)
    mask = mask.to(device)
    noised = Noised(
        tokens=start,
        target=noise - start,
        sigma=sigma.to(device),
        clean=clean,
        mask=mask if clean is None else mask.masked_fill(clean, 0.0),
    )
    level = noised.times.reshape(len(start), -1, 1)
    return replace(noised, tokens=(1 - level) * start + level * noise)


def masked_loss(prediction: torch.Tensor, noised: Noised) -> torch.Tensor:
    """mean(err² · m) / mean(m) of each sample; 0 for a sample that is masked altogether.

    Args:
        prediction: velocity [B, N, C] of any dtype.
        noised: its target and mask.

    Returns:
        float32 [B].
    """
    error = (prediction.float() - noised.target).square().mean(-1)
    return (error * noised.mask).sum(1) / noised.mask.sum(1).clamp(min=1)


def losses(
    video_prediction: torch.Tensor, audio_prediction: torch.Tensor | None, noised: NoisedBatch
) -> Losses:
    """The loss of a batch: video + audio, each a mean over the samples.

    Raises:
        ValueError: the batch has neither pictures nor sound.
    """
    video = masked_loss(video_prediction, noised.video).mean() if noised.has_video else None
    if audio_prediction is None or noised.audio is None:
        if video is None:
            raise ValueError("a batch needs pictures or sound to have a loss")
        return Losses(total=video, video=video, audio=None)
    audio = masked_loss(audio_prediction, noised.audio).mean()
    if video is None:
        return Losses(total=audio, video=None, audio=audio)
    return Losses(total=video + audio, video=video, audio=audio)
