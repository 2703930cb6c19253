"""Pictures that the recipe gives to the renderings of prompts, each at a frame."""

from __future__ import annotations

from typing import Any

from ltxcore.media.errors import MediaError
from ltxcore.media.pictures import probe_picture
from ltxcore.models.files.hashes import remembered_hashes
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.here import Here

KEY = "validation.validation_keyframes"


def picture_contents(ctx: Context) -> dict[str, dict[int, str]]:
    """Short name of a prompt -> frame -> sha256 of the picture that is given there.

    Raises:
        MediaError: a file is not there.
    """
    asked = ctx.recipe.validation.keyframes
    files = {path for frames in asked.values() for path in frames.values()}
    for path in sorted(files):
        if not path.is_file():
            raise MediaError(f"{KEY} names {path}, and there is no such file")
    hashes = remembered_hashes(files, ctx.workspace.models)
    return {name: {at: hashes[path] for at, path in frames.items()} for name, frames in asked.items()}


def keyframe_request(ctx: Context) -> dict[str, Any]:
    """The content of the pictures, for a request; nothing where there are none."""
    contents = picture_contents(ctx)
    return {"keyframes": contents} if contents else {}


def check_keyframes(ctx: Context, here: Here) -> None:
    """Refuse what is no picture, and pictures where none are rendered.

    Raises:
        ValueError: a file is not there, or no picture, or only sound is rendered.
    """
    asked = ctx.recipe.validation.keyframes
    auto = ctx.recipe.validation.validation_modality == "auto"
    if asked and auto and not here.alone and ctx.datasets.audio_only:
        raise ValueError(f"{KEY} gives pictures, and all data is sound, of which none are rendered")
    try:
        picture_contents(ctx)
    except MediaError as error:
        raise ValueError(str(error)) from error
    for path in sorted({path for frames in asked.values() for path in frames.values()}):
        try:
            probe_picture(path)
        except MediaError as error:
            raise ValueError(f"{KEY} names {path}, which {error}") from error
