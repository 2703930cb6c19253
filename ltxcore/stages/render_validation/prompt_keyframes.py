"""What the pictures of prompts are to their renderings: keyframes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltxcore.media.pictures import decode_picture, probe_picture
from ltxcore.pipeline.base.context import Context
from ltxcore.store.snapshot import Geometry
from ltxcore.validation.rendering_settings import RenderSettings

if TYPE_CHECKING:
    import torch

    from ltxcore.validation.given_tokens import Given


class PromptKeyframes:
    """What the renderings of prompts are given; each picture is encoded once for a size."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._latents: dict[tuple[Path, int, int], torch.Tensor] = {}

    def of(self, name: str, plan: RenderSettings, vae: Any) -> Given | None:
        """The given parts of a prompt's rendering; None where it only has a prompt.

        As a picture at the beginning, each is recompressed. That of frame 0 is held in the first latent; any
        other one is beside the video, at its frame.

        Args:
            name: the prompt's short name.
            plan: of the rendering: its size and its frames.
            vae: the video VAE.

        Raises:
            MediaError: a file is no picture any more.
        """
        asked = self._ctx.recipe.validation.keyframes.get(name)
        if not asked:
            return None
        import torch

        from ltxcore.models.predict_velocity import Reference
        from ltxcore.training.objective import patchify
        from ltxcore.validation.given_tokens import Given, GivenTokens

        # Counted from the beginning.
        counted = {at % plan.num_frames: path for at, path in asked.items()}
        latents = {at: self._encoded(path, plan, vae)[None] for at, path in sorted(counted.items())}
        beside = tuple(Reference(latent, frame=at) for at, latent in latents.items() if at)
        if 0 not in latents:
            return Given(references=beside)
        tokens = patchify(latents[0])[0]
        return Given(video=GivenTokens(tokens, torch.ones(len(tokens), dtype=torch.bool)), references=beside)

    def _encoded(self, path: Path, plan: RenderSettings, vae: Any) -> torch.Tensor:
        from ltxcore.validation.first_frame import first_frame_latent

        key = path, plan.width, plan.height
        if key not in self._latents:
            probe = probe_picture(path)
            cut = covering((probe.width, probe.height), (plan.width, plan.height))
            picture = decode_picture(path, cut)[0]
            self._latents[key] = first_frame_latent(vae, picture, self._ctx.source.version.image_crf)
        return self._latents[key]


def covering(source: tuple[int, int], target: tuple[int, int]) -> Geometry:
    """The largest part in the middle of a picture that has the target's shape, at its size."""
    scale = max(wanted / given for wanted, given in zip(target, source, strict=True))
    width, height = (
        max(wanted, math.floor(given * scale + 0.5)) for wanted, given in zip(target, source, strict=True)
    )
    left, top = (width - target[0]) // 2, (height - target[1]) // 2
    return Geometry(source=source, resize=(width, height), crop_xy=(left, top), target=target)
