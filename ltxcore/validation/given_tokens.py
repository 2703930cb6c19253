"""Gives parts of a rendering to diffusers' pipeline from outside.

What is given goes into the model clean and at time 0, as in training. Every prediction has it in its place
before the guidance, so that the rescale's standard deviations count it as it is, and once more after. A
stream that is given whole keeps its own text in the unconditional pass and is not perturbed by STG: guidance
is for what is made (ltx2-facts section 6). The pipeline itself is not changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from ltxcore.models.predict_velocity import (
    Reference,
    SoundReference,
    reference_coords,
    sound_reference_coords,
)


@dataclass(frozen=True)
class GivenTokens:
    """The tokens that one modality begins with, and which of them are given."""

    tokens: torch.Tensor
    """Normalised and packed, `[k, C]`."""
    given: torch.Tensor
    """bool `[k]`."""

    def put(self, into: torch.Tensor) -> torch.Tensor:
        """`[B, N, C]` with the given tokens in their places.

        Raises:
            ValueError: there are fewer than k.
        """
        count = len(self.tokens)
        if count > into.shape[1]:
            raise ValueError(f"{count} tokens are given, but the rendering has {into.shape[1]}")
        chosen = self.given.to(into.device)[None, :, None]
        first = torch.where(chosen, self.tokens.to(into), into[:, :count])
        return torch.cat([first, into[:, count:]], 1)

    def times(self, times: torch.Tensor, tokens: int) -> torch.Tensor:
        """Times `[B]` for each of `tokens`, 0 on the given ones: `[B, N]`."""
        each = times[:, None].repeat(1, tokens)
        each[:, : len(self.given)][:, self.given.to(each.device)] = 0
        return each

    def upscaled(self, latents: torch.Tensor, factor: int) -> GivenTokens:
        """The same cells of latents that were upscaled.

        Args:
            latents: normalised `[1, C, F, factor * H, factor * W]`.
            factor: how many cells have come of one along each edge.
        """
        _, _, frames, height, width = latents.shape
        given = torch.zeros(frames * (height // factor) * (width // factor), dtype=torch.bool)
        given[: len(self.given)] = self.given.cpu()
        cells = given.view(frames, height // factor, width // factor)
        each = cells.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        return GivenTokens(latents[0].flatten(1).T, each.flatten())

    def is_all(self, tokens: int) -> bool:
        """Whether nothing is left to make."""
        return int(self.given.sum()) == tokens


@dataclass(frozen=True)
class _Stream:
    """What belongs to one modality in the transformer's arguments and blocks."""

    part: str
    """Field of `Given`."""
    latents: str
    text: str
    self_attention: str


_STREAMS = (
    _Stream("video", "hidden_states", "encoder_hidden_states", "attn1"),
    _Stream("audio", "audio_hidden_states", "audio_encoder_hidden_states", "audio_attn1"),
)


@dataclass(frozen=True)
class Given:
    """What a rendering is given."""

    video: GivenTokens | None = None
    audio: GivenTokens | None = None
    references: tuple[Reference, ...] = ()
    """Videos and pictures beside the video that is rendered, in batches of one."""
    sound_reference: SoundReference | None = None
    """A sound beside the one that is rendered, in a batch of one."""

    def upscaled(self, latents: torch.Tensor, factor: int) -> Given:
        """What the second stage is given: the same cells of the first one's latents, upscaled, and the sound.

        Keyframes stay, at their places in the larger picture, and so does a voice. References are left out,
        as Lightricks' own pipeline leaves them out: the first stage has followed them.

        Args:
            latents: normalised `[1, C, F, factor * H, factor * W]`.
            factor: as in `GivenTokens.upscaled`.
        """
        keyframes = (reference for reference in self.references if reference.frame is not None)
        return Given(
            None if self.video is None else self.video.upscaled(latents, factor),
            self.audio,
            tuple(replace(k, spatial_factor=k.spatial_factor * factor) for k in keyframes),
            self.sound_reference,
        )

    def whole_streams(self, kwargs: dict[str, Any]) -> list[_Stream]:
        """The streams of which nothing is left to make, for the arguments of one call."""
        parts = [(stream, getattr(self, stream.part)) for stream in _STREAMS]
        return [s for s, part in parts if part is not None and part.is_all(kwargs[s.latents].shape[1])]


@contextmanager
def giving(pipeline: Any, given: Given) -> Iterator[None]:
    """Hold the parts in every rendering of an `LTX2Pipeline` until the block ends.

    Raises:
        ValueError: while rendering, where more is given than is rendered.
    """
    to_x0, to_velocity = pipeline.convert_velocity_to_x0, pipeline.convert_x0_to_velocity
    transformer = pipeline.transformer
    own: dict[str, int] = {}
    # The self-attentions of the streams that are given whole in this call.
    whole: set[str] = set()

    def give(
        module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        own.update(video=kwargs["hidden_states"].shape[1], audio=kwargs["audio_hidden_states"].shape[1])
        whole.clear()
        for stream in given.whole_streams(kwargs):
            whole.add(stream.self_attention)
            if pipeline.do_classifier_free_guidance and not _is_perturbed(kwargs):
                # The pipeline runs the unconditional pass and the conditional one as the halves of a batch.
                kwargs = {**kwargs, stream.text: _twice_positive(kwargs[stream.text])}
        return args, _with_given(module, kwargs, given)

    def trim(module: Any, args: tuple[Any, ...], output: Any) -> Any:
        video, audio = output
        return video[:, : own["video"]], audio[:, : own["audio"]]

    def spare(stream: _Stream) -> Any:
        def unperturbed(
            module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if stream.self_attention not in whole or kwargs.get("perturbation_mask") is None:
                return None
            return args, {**kwargs, "perturbation_mask": None, "all_perturbed": False}

        return unperturbed

    def part_of(scheduler: Any) -> GivenTokens | None:
        is_video = scheduler is None or scheduler is pipeline.scheduler
        return given.video if is_video else given.audio

    def predicted(sample: torch.Tensor, velocity: torch.Tensor, step: int, scheduler: Any = None) -> Any:
        part, x0 = part_of(scheduler), to_x0(sample, velocity, step, scheduler)
        return x0 if part is None else part.put(x0)

    def guided(sample: torch.Tensor, x0: torch.Tensor, step: int, scheduler: Any = None) -> Any:
        part = part_of(scheduler)
        return to_velocity(sample, x0 if part is None else part.put(x0), step, scheduler)

    # Before the cross modulation, which reads the times that the model is called with.
    hooks = [
        transformer.register_forward_pre_hook(give, with_kwargs=True, prepend=True),
        transformer.register_forward_hook(trim),
        *(
            getattr(block, stream.self_attention).register_forward_pre_hook(spare(stream), with_kwargs=True)
            for block in transformer.transformer_blocks
            for stream in _STREAMS
        ),
    ]
    pipeline.convert_velocity_to_x0, pipeline.convert_x0_to_velocity = predicted, guided
    try:
        yield
    finally:
        del pipeline.convert_velocity_to_x0, pipeline.convert_x0_to_velocity
        for hook in hooks:
            hook.remove()


def _is_perturbed(kwargs: dict[str, Any]) -> bool:
    """Whether a call is one of the further passes, which have the positive text alone."""
    return bool(kwargs["spatio_temporal_guidance_blocks"]) or bool(kwargs["isolate_modalities"])


def _twice_positive(text: torch.Tensor) -> torch.Tensor:
    """`[2B, T, D]`, negative and positive text, with the positive one in both halves."""
    positive = text.chunk(2)[1]
    return torch.cat([positive, positive])


def _with_given(transformer: Any, kwargs: dict[str, Any], given: Given) -> dict[str, Any]:
    """The model's arguments with the given parts in their places."""
    video, audio = kwargs["hidden_states"], kwargs["audio_hidden_states"]
    # Each stream gets times of its own: the pipeline hands over one for both.
    video_times = audio_times = kwargs["timestep"]
    changed = {**kwargs, "audio_timestep": audio_times, "audio_sigma": kwargs["sigma"]}
    if given.video is not None:
        video = given.video.put(video)
        video_times = given.video.times(video_times, video.shape[1])
        if given.video.is_all(video.shape[1]):
            changed["sigma"] = torch.zeros_like(kwargs["sigma"])
    if given.audio is not None:
        changed["audio_hidden_states"] = given.audio.put(audio)
        changed["audio_timestep"] = given.audio.times(audio_times, audio.shape[1])
        if given.audio.is_all(audio.shape[1]):
            changed["audio_sigma"] = torch.zeros_like(kwargs["sigma"])
    if given.sound_reference is not None:
        changed |= _heard_beside(transformer, changed, given.sound_reference)
    if given.references:
        video, video_times, changed["video_coords"] = _beside(
            transformer, kwargs, video, video_times, given.references
        )
    return {**changed, "hidden_states": video, "timestep": video_times}


def _heard_beside(
    transformer: Any, kwargs: dict[str, Any], reference: SoundReference
) -> dict[str, torch.Tensor | int]:
    """The arguments of the sound with the tokens of a reference after its own."""
    audio, times = kwargs["audio_hidden_states"], kwargs["audio_timestep"]
    batch, own, _ = audio.shape
    beside = torch.cat([audio, reference.latents.to(audio).expand(batch, -1, -1)], 1)
    each = times if times.ndim == 2 else times[:, None].repeat(1, own)
    places = sound_reference_coords(transformer, reference, audio.device).expand(batch, -1, -1, -1)
    return {
        "audio_hidden_states": beside,
        "audio_timestep": torch.cat([each, each.new_zeros(batch, beside.shape[1] - own)], 1),
        "audio_coords": torch.cat([kwargs["audio_coords"], places], 2),
        "audio_num_frames": beside.shape[1],
    }


def _beside(
    transformer: Any,
    kwargs: dict[str, Any],
    video: torch.Tensor,
    times: torch.Tensor,
    references: tuple[Reference, ...],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The tokens, times and places with those of the references after them."""
    own = video.shape[1]
    tokens = [r.latents.flatten(2).transpose(1, 2).to(video).expand(len(video), -1, -1) for r in references]
    each = times if times.ndim == 2 else times[:, None].repeat(1, own)
    places = [reference_coords(transformer, r, kwargs["fps"], video.device) for r in references]
    coords = torch.cat([kwargs["video_coords"], *(p.expand(len(video), -1, -1, -1) for p in places)], 2)
    beside = torch.cat([video, *tokens], 1)
    zeros = each.new_zeros(len(each), beside.shape[1] - own)
    return beside, torch.cat([each, zeros], 1), coords
