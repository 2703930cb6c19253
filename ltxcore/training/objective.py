"""Flow matching on both modalities: the model's input, its target, and the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from ltxcore.config.conditioning_settings import ConditioningSettings
from ltxcore.config.training_settings import TrainingSettings
from ltxcore.models.predict_velocity import Reference, SoundReference
from ltxcore.store.fingerprint import derive_seed
from ltxcore.training.conditioning import (
    Draws,
    given_audio,
    given_references,
    given_sound_reference,
    given_video,
)
from ltxcore.training.data import Batch
from ltxcore.training.timesteps import sample_sigmas

BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Edges of the bands of noise levels whose losses are recorded apart."""


@dataclass(frozen=True)
class Noised:
    """One modality of a noised batch, as tokens."""

    tokens: torch.Tensor
    """x = (1 - sigma) x0 + sigma eps, but x0 where `clean`; float32 [B, N, C]."""
    target: torch.Tensor
    """Velocity eps - x0; float32 [B, N, C]."""
    sigma: torch.Tensor
    """[B]; 0 where `frozen`."""
    clean: torch.Tensor | None
    """Tokens given as condition: bool [B, N]; None where the batch has none, all of them where `frozen`."""
    mask: torch.Tensor
    """Weight of each token in the loss: 0 for one that is not in it; float32 [B, N]."""
    frozen: bool = False
    """The modality is given whole: x0 at time 0, without a loss."""

    @property
    def times(self) -> torch.Tensor:
        """sigma of each sample [B], or of each token [B, N] with 0 on the clean ones.

        The first wherever it says enough: per-token times cost the model 95 KiB a token in each block.
        """
        if self.clean is None or self.frozen:
            return self.sigma
        return self.sigma[:, None].expand_as(self.clean).masked_fill(self.clean, 0.0)

    def to(self, device: torch.device) -> Noised:
        """The same on a device; from pinned memory without waiting for the copy."""
        return self._changed(lambda values: values.to(device, non_blocking=True))

    def pinned(self) -> Noised:
        """The same in page-locked host memory."""
        return self._changed(torch.Tensor.pin_memory)

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Noised:
        return replace(
            self,
            tokens=change(self.tokens),
            target=change(self.target),
            sigma=change(self.sigma),
            clean=None if self.clean is None else change(self.clean),
            mask=change(self.mask),
        )


@dataclass(frozen=True)
class NoisedBatch:
    """Both modalities; `audio` is None where no sample has sound."""

    video: Noised
    """Zeros with noise where `has_video` is false; the model does not let the sound see them."""
    audio: Noised | None
    has_video: bool = True
    references: tuple[Reference, ...] = ()
    """What is given beside this video, in tokens of its own; for every call of the model."""
    sound_reference: SoundReference | None = None
    """The same beside the sound."""

    def to(self, device: torch.device) -> NoisedBatch:
        """The same on a device; from pinned memory without waiting for the copy."""
        return replace(
            self,
            video=self.video.to(device),
            audio=None if self.audio is None else self.audio.to(device),
            references=tuple(reference.to(device) for reference in self.references),
            sound_reference=None if self.sound_reference is None else self.sound_reference.to(device),
        )

    def pinned(self) -> NoisedBatch:
        """The same in page-locked host memory, but for the references."""
        return replace(
            self, video=self.video.pinned(), audio=None if self.audio is None else self.audio.pinned()
        )


@dataclass(frozen=True)
class Losses:
    """Means over the batch; None for a modality that the batch does not have."""

    total: torch.Tensor
    video: torch.Tensor | None
    audio: torch.Tensor | None
    measures: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What else is worth recording, by the name that its series gets."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What the total is the sum of: `video_loss`, `audio_loss` or a measure's name -> its weight."""


def noise_batch(
    batch: Batch, settings: TrainingSettings, number: int, given: ConditioningSettings | None = None
) -> NoisedBatch:
    """Draw noise levels, noise and conditioning for a batch, on its device.

    Args:
        batch: latents.
        settings: the seed, and how sigmas are drawn.
        number: the batch's own number in the training; every draw derives from seed and number.
        given: what is given of each sample, `Recipe.given`. None: what `settings` says of the first frame.
    """

    def generator(purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(settings.seed, "train-lora", number, purpose))

    if given is None:
        probability = settings.ltx2_first_frame_conditioning_probability
        given = ConditioningSettings().with_first_frame(probability)
    draws = Draws(settings.seed, number)
    video = patchify(batch.video)
    count, tokens, _ = video.shape
    mask = torch.full((count, tokens), float(batch.has_video)) * loss_weights(
        batch, settings.loss_mask_probability, draws
    )
    sigma = sample_sigmas(settings, tokens, count, generator("video sigma"))
    if given.video.frozen and batch.has_video:
        noised_video = frozen(video)
    else:
        clean = given_video(batch, given, draws)
        noised_video = add_noise(video, sigma, generator("video noise"), clean, mask)
    references = given_references(batch, given, draws)
    if batch.audio is None or batch.audio_mask is None:
        return NoisedBatch(noised_video, None, references=references)

    if settings.sigma_sampling == "independent" or not batch.has_video:
        sigma = sample_sigmas(settings, batch.audio.shape[1], count, generator("audio sigma"))
    if given.audio.frozen:
        noised_audio = frozen(batch.audio)
    else:
        clean = given_audio(batch, given, draws)
        noised_audio = add_noise(batch.audio, sigma, generator("audio noise"), clean, batch.audio_mask)
    heard = given_sound_reference(batch, given, draws)
    return NoisedBatch(noised_video, noised_audio, batch.has_video, references, heard)


def loss_weights(batch: Batch, probability: float, draws: Draws) -> torch.Tensor:
    """What each video token counts in the loss: white's share of the samples' loss masks, else 1.

    Args:
        batch: with or without loss masks.
        probability: that a sample's mask is used at this visit.
        draws: of this batch.

    Returns:
        float32 [B, F*H*W] or a scalar, on the CPU.
    """
    if batch.loss_mask is None:
        return torch.ones(())
    used = torch.tensor([draws.share(name, "loss mask") < probability for name in batch.sample_ids])
    return torch.where(used[:, None], batch.loss_mask.float().cpu().flatten(1), 1.0)


def patchify(latents: torch.Tensor) -> torch.Tensor:
    """Video latents [B, C, F, H, W] to tokens [B, F·H·W, C] (patch size 1)."""
    return latents.flatten(2).transpose(1, 2)


def unpatchify(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Tokens [B, F·H·W, C] back to latents of the shape of `like`, [B, C, F, H, W]."""
    return tokens.transpose(1, 2).reshape(like.shape)


def frozen(latents: torch.Tensor) -> Noised:
    """Packed latents [B, N, C] as they are: given whole, at time 0, and in no loss."""
    start = latents.float()
    count, tokens, _ = start.shape
    return Noised(
        tokens=start,
        target=torch.zeros_like(start),
        sigma=start.new_zeros(count),
        clean=torch.ones(count, tokens, dtype=torch.bool, device=start.device),
        mask=start.new_zeros(count, tokens),
        frozen=True,
    )


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
    """The loss of a batch: video + audio, each a mean over the samples, and both in bands of sigma.

    Args:
        video_prediction: the velocity [B, Nv, C].
        audio_prediction: the velocity [B, Na, C]; None where the batch has no sound.

    Raises:
        ValueError: the batch has nothing to learn: neither pictures nor sound, or only what is frozen.
    """
    parts: dict[str, torch.Tensor] = {}
    measures: dict[str, torch.Tensor] = {}
    if noised.has_video and not noised.video.frozen:
        each = masked_loss(video_prediction, noised.video)
        parts["video"] = each.mean()
        measures |= banded("video", each, noised.video)
    if audio_prediction is not None and noised.audio is not None and not noised.audio.frozen:
        each = masked_loss(audio_prediction, noised.audio)
        parts["audio"] = each.mean()
        measures |= banded("audio", each, noised.audio)
    if not parts:
        raise ValueError("a batch needs pictures or sound that are generated to have a loss")
    total = torch.stack(list(parts.values())).sum()
    weights = {f"{modality}_loss": 1.0 for modality in parts}
    return Losses(total, parts.get("video"), parts.get("audio"), measures, weights)


def banded(modality: str, each: torch.Tensor, noised: Noised) -> dict[str, torch.Tensor]:
    """Mean loss of the samples of each band of sigma, by its series' name, e.g. video_loss_sigma_0.25_0.5.

    A sample that is masked altogether is in no band. A band without a sample is NaN: asking the device which
    bands have one would hold the step up until it had computed all of the forward pass.

    Args:
        modality: begins the names.
        each: the loss of each sample [B].
        noised: its sigmas and its mask.
    """
    each, counted = each.detach(), noised.mask.sum(1) > 0
    found: dict[str, torch.Tensor] = {}
    for low, high in pairwise(BANDS):
        # The last band holds 1 itself.
        inside = counted & (noised.sigma >= low) & ((noised.sigma < high) | (high == BANDS[-1]))
        total = torch.where(inside, each, 0.0).sum()
        found[f"{modality}_loss_sigma_{low:g}_{high:g}"] = total / inside.sum()
    return found
