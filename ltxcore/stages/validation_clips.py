"""Clips that renderings are conditioned on: what of each is given, and at which size they are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ltxcore.stages.context import Context
from ltxcore.stages.prompts import dataset_clips
from ltxcore.store.snapshot import Sample
from ltxcore.validation.plan import RenderPlan

if TYPE_CHECKING:
    import torch

    from ltxcore.validation.held import Held


def plan_of_clips(ctx: Context, plan: RenderPlan) -> RenderPlan:
    """The plan at the size of the clips that are rendered; a picture gets the length that the recipe asks."""
    clips = dataset_clips(ctx.recipe, ctx.snapshot)
    if not clips:
        return plan
    first = next(iter(clips.values()))
    width, height = first.geometry.target
    still = first.kind == "image"
    count, fps = (plan.num_frames, plan.fps) if still else (first.frames.count, first.frames.fps)
    note = f"validation_using_datasets: rendered at {width}x{height}, {count} frames, as the clips are"
    return replace(plan, width=width, height=height, num_frames=count, fps=fps, notes=(*plan.notes, note))


def given_clips(ctx: Context, plan: RenderPlan) -> dict[str, Any]:
    """What clips give to renderings, for their keys; nothing where prompts alone are rendered."""
    clips = dataset_clips(ctx.recipe, ctx.snapshot)
    if not clips:
        return {}
    where = {"path", "dataset", "notes", "trigger"}
    return {
        "clips": {name: clip.model_dump(mode="json", exclude=where) for name, clip in clips.items()},
        "given": ctx.recipe.given.fingerprint_data(),
        "size": [plan.width, plan.height, plan.num_frames, plan.fps],
    }


class HeldClips:
    """What renderings are given, by the short name of the clip; each is read once.

    That is what the recipe's `conditioning` gives, whatever its probability. Where it gives nothing it is the
    sound of a clip that has any, and otherwise the first frame (the seed's S2V and I2V).
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._clips = dataset_clips(ctx.recipe, ctx.snapshot)
        self._held: dict[str, Held] = {}

    def of(self, name: str, vae: Any) -> Held | None:
        """What the rendering of a name is given; None where it is a prompt alone.

        Args:
            name: the short name.
            vae: the video VAE, for first frames.

        Raises:
            MediaError: the clip cannot be read any more.
            LatentsLost: its latents are gone from the store.
        """
        if name not in self._clips:
            return None
        if name not in self._held:
            self._held[name] = self._read(self._clips[name], vae)
        return self._held[name]

    def _read(self, clip: Sample, vae: Any) -> Held:
        import torch

        from ltxcore.stages.samples import StoredSamples
        from ltxcore.training.conditioning import Draws, given_audio, given_video
        from ltxcore.training.data import collate
        from ltxcore.training.objective import patchify
        from ltxcore.validation.held import Held, HeldTokens

        ctx, given = self._ctx, self._ctx.recipe.given.certain()
        # With the empty caption, which is always there: latents alone are taken.
        batch = collate([clip.id], [StoredSamples(ctx).load(clip.id, None)])
        draws = Draws(ctx.recipe.validation.validation_seed, 0)
        tokens = patchify(batch.video)[0]
        kept, heard = given_video(batch, given, draws), given_audio(batch, given, draws)
        pictures = torch.zeros(len(tokens), dtype=torch.bool) if kept is None else kept[0]
        sound = None if batch.audio is None or heard is None else heard[0]
        if given.video.frozen and clip.kind == "video":
            pictures = torch.ones_like(pictures)
        if given.audio.frozen and batch.audio is not None:
            sound = torch.ones(batch.audio.shape[1], dtype=torch.bool)
        reference = batch.reference if given.video.of_type("reference") is not None else None
        nothing = reference is None and sound is None and not pictures.any()
        if nothing and batch.audio is not None:
            sound = torch.ones(batch.audio.shape[1], dtype=torch.bool)
        first = batch.video.shape[-2] * batch.video.shape[-1]
        if clip.kind == "image" or given.video.of_type("first_frame") or (nothing and sound is None):
            tokens, pictures = tokens.clone(), pictures.clone()
            tokens[:first] = patchify(_first_frame(ctx, clip, vae)[None])[0]
            pictures[:first] = True
        return Held(
            video=HeldTokens(tokens, pictures) if pictures.any() else None,
            audio=None if batch.audio is None or sound is None else HeldTokens(batch.audio[0], sound),
            reference=reference,
        )


def _first_frame(ctx: Context, clip: Sample, vae: Any) -> torch.Tensor:
    from ltxcore.media.decode import decode_frames
    from ltxcore.media.pictures import decode_picture
    from ltxcore.validation.first_frame import first_frame_latent

    path = ctx.snapshot.file(clip)
    if clip.kind == "image":
        pixels = decode_picture(path, clip.geometry)
    else:
        first = clip.frames.model_copy(update={"indices": clip.frames.indices[:1]})
        pixels = decode_frames(path, first, clip.geometry)
    return first_frame_latent(vae, pixels[0], ctx.source.version.image_crf)
