"""What a training sample is, where samples come from, and how a batch is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ltxcore.models.connecting import Caption


@dataclass(frozen=True)
class Entry:
    """A sample as the batch plan sees it. Samples of equal `group` may share a batch."""

    sample_id: str
    bucket: str
    """`WxH@F`: equal buckets have latents of equal shape."""
    fps: float
    has_audio: bool
    captions: int
    visits: int = 1
    """Visits in an epoch, before thinning."""
    probability: float = 1.0
    """The share of visits that is kept in an epoch."""
    has_video: bool = True
    """False for sound that is trained alone."""

    @property
    def group(self) -> tuple[str, float, bool, bool]:
        """Shape, frame rate (so sound has one length) and whether there is sound and picture.

        Silent clips stay apart from those with sound, and sound alone from clips: a batch that has one
        modality only is computed with both isolated, so that noise in place of the other never reaches it.
        """
        return self.bucket, self.fps, self.has_audio, self.has_video


@dataclass(frozen=True)
class TrainingSample:
    """One visit's tensors, on the CPU."""

    video: torch.Tensor
    """Normalised latent [C, F, H, W]; zeros where `has_video` is false."""
    audio: torch.Tensor | None
    """Normalised packed latent [L, D]; None for a clip without sound."""
    audio_valid: int
    """Where in the L the sound ends; the rest is padding and takes no part in the loss."""
    features: Caption
    fps: float
    audio_padding: int = 0
    """How many of the L are padding before the sound begins; they take no part either."""
    has_video: bool = True


class SampleSource(Protocol):
    """Where training gets its samples; reads only what earlier stages committed."""

    def entries(self) -> Sequence[Entry]:
        """Every sample that will be trained on, each once."""
        ...

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        """A sample with its caption of that index; None asks for the empty caption (caption dropout)."""
        ...


@dataclass(frozen=True)
class Batch:
    """Samples of one group."""

    sample_ids: tuple[str, ...]
    video: torch.Tensor
    """[B, C, F, H, W]."""
    audio: torch.Tensor | None
    """[B, L, D]; None where no sample has sound."""
    audio_mask: torch.Tensor | None
    """[B, L], 1 where sound is real and 0 on padding."""
    features: tuple[Caption, ...]
    fps: float
    has_video: bool = True
    """False where sound is trained alone: the pictures are zeros, and no loss is taken of them."""

    def to(self, device: torch.device) -> Batch:
        """The batch with its latents on a device; the text features follow when they are connected."""
        return replace(
            self,
            video=self.video.to(device),
            audio=None if self.audio is None else self.audio.to(device),
            audio_mask=None if self.audio_mask is None else self.audio_mask.to(device),
        )


def collate(sample_ids: Sequence[str], samples: Sequence[TrainingSample]) -> Batch:
    """Stack samples of one group.

    Sound of unequal length is padded with zeros to the longest, and a sample without sound among others
    that have it gets zeros; both are masked.

    Raises:
        ValueError: the samples differ in latent shape, frame rate or in whether they have pictures, or state
            more sound than they hold.
    """
    shapes = sorted({(tuple(s.video.shape), s.fps, s.has_video) for s in samples})
    if len(shapes) > 1:
        raise ValueError(
            f"samples of one batch differ in (latent shape, fps, has pictures): {shapes}; "
            f"ids {list(sample_ids)}"
        )
    audio, mask = _stack_audio(sample_ids, samples)
    return Batch(
        sample_ids=tuple(sample_ids),
        video=torch.stack([s.video for s in samples]),
        audio=audio,
        audio_mask=mask,
        features=tuple(s.features for s in samples),
        fps=samples[0].fps,
        has_video=samples[0].has_video,
    )


def _stack_audio(
    sample_ids: Sequence[str], samples: Sequence[TrainingSample]
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    sounds = [s.audio for s in samples if s.audio is not None]
    if not sounds:
        return None, None
    length = max(len(sound) for sound in sounds)
    audio = sounds[0].new_zeros(len(samples), length, sounds[0].shape[-1])
    mask = torch.zeros(len(samples), length)
    for row, (sample_id, sample) in enumerate(zip(sample_ids, samples, strict=True)):
        if sample.audio is None:
            continue
        if not 0 <= sample.audio_padding <= sample.audio_valid <= len(sample.audio):
            raise ValueError(
                f"sample {sample_id}: audio_padding is {sample.audio_padding} and audio_valid is "
                f"{sample.audio_valid}, but its sound is {len(sample.audio)} latents long"
            )
        audio[row, : len(sample.audio)] = sample.audio
        mask[row, sample.audio_padding : sample.audio_valid] = 1
    return audio, mask
