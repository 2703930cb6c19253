"""Training samples, their source, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ltxcore.models.predict_velocity import Reference
from ltxcore.models.text.text_connectors import Caption
from ltxcore.training.batch_entry import Entry


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
    regularisation: bool = False
    audio_padding: int = 0
    """How many of the L are padding before the sound begins; they take no part either."""
    has_video: bool = True
    references: tuple[Reference, ...] = ()
    """The videos that are given beside this one, their latents without a batch: [C, F', H', W']."""
    keyframes: tuple[Reference, ...] = ()
    """The frames of its own that are given beside it where keyframes are a condition, each [C, 1, H, W]."""
    reference_sound: torch.Tensor | None = None
    """Normalised packed latent [L', D] of the sound that is given beside its own."""
    mask: torch.Tensor | None = None
    """White's share of each latent [F, H, W]: 0 is kept where masks are a condition. None: nothing is."""
    loss_mask: torch.Tensor | None = None
    """White's share of each latent [F, H, W], by which its loss is weighed. None: all of it counts."""
    teacher: torch.Tensor | None = None
    """CREPA's features of the clip's frames, bf16 [F, H·W, D]; None without CREPA or without pictures."""


class SampleSource(Protocol):
    """Where training gets its samples; reads only what earlier stages committed."""

    def entries(self) -> Sequence[Entry]:
        """Every sample that will be trained on, each once."""
        ...

    def load(self, sample_id: str, caption: int | None) -> TrainingSample:
        """A sample with the caption of that index; None is the empty caption (caption dropout)."""
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
    regularisation: bool = False
    """Its target is what the model says without the adapter."""
    references: tuple[Reference, ...] = ()
    keyframes: tuple[Reference, ...] = ()
    reference_sound: torch.Tensor | None = None
    """[B, L', D]."""
    mask: torch.Tensor | None = None
    """[B, F, H, W]; None where no sample has a mask."""
    loss_mask: torch.Tensor | None = None
    """Weights of the pictures' loss [B, F, H, W]; None where no sample has a loss mask."""
    teacher: torch.Tensor | None = None
    """CREPA's features [B, F, H·W, D], or None."""

    @property
    def tokens(self) -> int:
        """Latent tokens of pictures and sound, padding included, that the model computes."""
        count, _, frames, height, width = self.video.shape
        return count * frames * height * width + (0 if self.audio is None else self.audio.shape[:2].numel())

    def to(self, device: torch.device) -> Batch:
        """The batch with its latents on a device; the text features follow when they are connected.

        From pinned memory this does not wait for the copy.
        """
        moved = self._changed(lambda values: values.to(device, non_blocking=True))
        return replace(
            moved,
            references=tuple(reference.to(device) for reference in self.references),
            keyframes=tuple(keyframe.to(device) for keyframe in self.keyframes),
            reference_sound=None if self.reference_sound is None else self.reference_sound.to(device),
        )

    def pinned(self) -> Batch:
        """The batch with its latents in page-locked host memory, but for what is given beside it."""
        return self._changed(torch.Tensor.pin_memory)

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return replace(
            self,
            video=change(self.video),
            audio=None if self.audio is None else change(self.audio),
            audio_mask=None if self.audio_mask is None else change(self.audio_mask),
            teacher=None if self.teacher is None else change(self.teacher),
        )


def collate(sample_ids: Sequence[str], samples: Sequence[TrainingSample]) -> Batch:
    """Stack samples of one group.

    Sound of unequal length is padded with zeros to the longest, and a sample without sound among others
    that have it gets zeros; both are masked.

    Raises:
        ValueError: the samples differ in latent shape, frame rate, in whether they have pictures, in the
            number or shape of their references or keyframes or in whether they have features, or state more
            sound than they hold.
    """
    shapes = sorted({(tuple(s.video.shape), s.fps, s.has_video, s.regularisation) for s in samples})
    if len(shapes) > 1:
        raise ValueError(
            f"samples of one batch differ in (latent shape, fps, has pictures, regularisation): {shapes}; "
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
        regularisation=samples[0].regularisation,
        references=_stack_references(sample_ids, [s.references for s in samples]),
        keyframes=_stack_references(sample_ids, [s.keyframes for s in samples]),
        reference_sound=_stack_reference_sounds(sample_ids, samples),
        mask=_stack_masks(samples, [s.mask for s in samples]),
        loss_mask=_stack_masks(samples, [s.loss_mask for s in samples]),
        teacher=_stack_teacher(sample_ids, samples),
    )


def _stack_references(
    sample_ids: Sequence[str], given: Sequence[tuple[Reference, ...]]
) -> tuple[Reference, ...]:
    """What is given beside each sample, one after the other, as what is given beside the batch."""
    shapes = {
        tuple((tuple(r.latents.shape), r.spatial_factor, r.temporal_factor, r.frame or 0) for r in references)
        for references in given
    }
    if len(shapes) > 1:
        raise ValueError(
            f"samples of one batch differ in (shape, factors, frame) of their references: {sorted(shapes)}; "
            f"ids {list(sample_ids)}"
        )
    return tuple(
        replace(alike[0], latents=torch.stack([reference.latents for reference in alike]))
        for alike in zip(*given, strict=True)
    )


def _stack_reference_sounds(
    sample_ids: Sequence[str], samples: Sequence[TrainingSample]
) -> torch.Tensor | None:
    lengths = {0 if s.reference_sound is None else len(s.reference_sound) for s in samples}
    if len(lengths) > 1:
        raise ValueError(
            f"samples of one batch differ in the latents of their reference sounds: {sorted(lengths)}; "
            f"ids {list(sample_ids)}"
        )
    sounds = [s.reference_sound for s in samples if s.reference_sound is not None]
    return torch.stack(sounds) if sounds else None


def _stack_masks(
    samples: Sequence[TrainingSample], masks: Sequence[torch.Tensor | None]
) -> torch.Tensor | None:
    """Where one sample has a mask, the others get one that is white: all is made, and all counts."""
    if all(mask is None for mask in masks):
        return None
    whites = (torch.ones(sample.video.shape[1:]) for sample in samples)
    return torch.stack(
        [white if mask is None else mask.float() for white, mask in zip(whites, masks, strict=True)]
    )


def _stack_teacher(sample_ids: Sequence[str], samples: Sequence[TrainingSample]) -> torch.Tensor | None:
    features = [sample.teacher for sample in samples if sample.teacher is not None]
    if features and len(features) < len(samples):
        raise ValueError(f"only some samples of a batch have the teacher's features; ids {list(sample_ids)}")
    return torch.stack(features) if features else None


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
