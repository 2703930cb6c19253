"""Clips on which renderings are conditioned: the parts that are given, and the size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.data.keyframes import keyframe_clips
from ltxcore.pipeline.data.prompts import dataset_clips
from ltxcore.store.snapshot import Sample
from ltxcore.validation.rendering_settings import RenderSettings

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch

    from ltxcore.validation.given_tokens import Given


def given_clips(ctx: Context, plan: RenderSettings) -> dict[str, Any]:
    """The part of a rendering's key that depends on the data: the modality, and what clips give."""
    clips = dataset_clips(ctx.recipe, ctx.snapshot)
    if not clips:
        return {"modality": plan.modality}
    where = {"path", "dataset", "notes", "trigger"}
    return {
        "clips": {name: clip.model_dump(mode="json", exclude=where) for name, clip in clips.items()},
        "given": ctx.recipe.given.fingerprint_data(),
        "size": [plan.width, plan.height, plan.num_frames, plan.fps],
        "modality": plan.modality,
    }


class GivenClips:
    """The given parts of each rendering, by the clip's short name; each is read once.

    A rendering gets what the recipe's `conditioning` gives, whatever the probability. If that is nothing, it
    gets the clip's sound, or the first frame of a clip without sound (S2V and I2V).
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._clips = dataset_clips(ctx.recipe, ctx.snapshot)
        self._given: dict[str, Given] = {}

    def of(self, name: str, vae: Any) -> Given | None:
        """The given parts for a rendering; None if it only has a prompt.

        Args:
            name: the short name.
            vae: the video VAE, for first frames and keyframes.

        Raises:
            MediaError: the clip cannot be decoded any more.
            ClipsUndecided: its file is not there, or is not the content that probe-media saw.
            LatentsLost: its latents are gone from the store.
        """
        if name not in self._clips:
            return None
        if name not in self._given:
            self._given[name] = self._read(self._clips[name], vae)
        return self._given[name]

    def _read(self, clip: Sample, vae: Any) -> Given:
        import torch

        from ltxcore.models.predict_velocity import Reference
        from ltxcore.stages.train_lora.stored_samples import StoredSamples
        from ltxcore.training.conditioning import Draws, given_audio, given_sound_reference, given_video
        from ltxcore.training.data import collate
        from ltxcore.training.objective import patchify
        from ltxcore.validation.given_tokens import Given, GivenTokens

        ctx, given = self._ctx, self._ctx.recipe.given.certain()
        # With the empty caption, which is always there: latents alone are taken.
        batch = collate([clip.id], [StoredSamples(ctx).load(clip.id, None)])
        if ctx.recipe.validation.validation_modality == "video":
            # Pictures made alone do not hear it.
            batch = replace(batch, audio=None, audio_mask=None)
        draws = Draws(ctx.recipe.validation.validation_seed, 0)
        tokens = patchify(batch.video)[0]
        kept, heard = given_video(batch, given, draws), given_audio(batch, given, draws)
        pictures = torch.zeros(len(tokens), dtype=torch.bool) if kept is None else kept[0]
        sound = None if batch.audio is None or heard is None else heard[0]
        if given.video.frozen and clip.kind == "video":
            pictures = torch.ones_like(pictures)
        if given.audio.frozen and batch.audio is not None:
            sound = torch.ones(batch.audio.shape[1], dtype=torch.bool)
        references = batch.references if given.video.of_type("reference") is not None else ()
        keyframes = given.video.keyframes
        references += tuple(
            Reference(_frame(ctx, clip, frame, vae)[None], frame=frame)
            for frame, _ in keyframe_clips(clip, keyframes)
        )
        begins = given.video.of_type("first_frame") is not None or (
            keyframes is not None and 0 in keyframes.positions(clip.frames.count)
        )
        beside = given_sound_reference(batch, given, None)
        nothing = not references and beside is None and sound is None and not pictures.any()
        if nothing and batch.audio is not None:
            sound = torch.ones(batch.audio.shape[1], dtype=torch.bool)
        first = batch.video.shape[-2] * batch.video.shape[-1]
        if clip.kind == "image" or begins or (nothing and sound is None):
            tokens, pictures = tokens.clone(), pictures.clone()
            tokens[:first] = patchify(_frame(ctx, clip, 0, vae)[None])[0]
            pictures[:first] = True
        return Given(
            video=GivenTokens(tokens, pictures) if pictures.any() else None,
            audio=None if batch.audio is None or sound is None else GivenTokens(batch.audio[0], sound),
            references=references,
            sound_reference=beside,
        )


def _frame(ctx: Context, clip: Sample, number: int, vae: Any) -> torch.Tensor:
    """The normalised latent `[C, 1, H / 32, W / 32]` of one frame, worsened as the model expects it."""
    from ltxcore.media.decode import decode_frames
    from ltxcore.media.errors import MediaError, Undecided
    from ltxcore.media.pictures import decode_picture
    from ltxcore.pipeline.base.clips_undecided import ClipsUndecided
    from ltxcore.pipeline.data.content_guard import ContentGuard
    from ltxcore.validation.first_frame import first_frame_latent

    def decode(path: Path) -> np.ndarray[Any, Any]:
        if clip.kind == "image":
            return decode_picture(path, clip.geometry)
        return decode_frames(path, clip.frames.only([number]), clip.geometry)

    pixels = ContentGuard(ctx).read(clip.dataset, clip.path, clip.media_id, decode)
    if isinstance(pixels, Undecided):
        # The rendering would be kept under the content that it does not show.
        raise ClipsUndecided({clip.id: pixels})
    if isinstance(pixels, MediaError):
        raise pixels
    return first_frame_latent(vae, pixels[0], ctx.source.version.image_crf)
