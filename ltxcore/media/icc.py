"""Pictures with an ICC profile, as sRGB: relative colorimetric, so that white stays white."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SRGB_LEVELS = 2
"""A profile that moves no colour by more of 255 levels is sRGB under whatever name, and changes nothing."""
_STEPS = (0, 64, 128, 192, 255)
_TAKEN = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
"""Pillow's mode -> the colour space that a profile of such pictures has."""


def to_srgb(picture: Image.Image) -> tuple[Image.Image, str | None]:
    """The picture in sRGB, and what was done, if anything; transparency stays as it is."""
    data = picture.info.get("icc_profile")
    if not data:
        return picture, None
    alpha = picture.convert("RGBA").getchannel("A") if _has_alpha(picture) else None
    plain = _plain(picture)
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        if _TAKEN.get(plain.mode) != profile.profile.xcolor_space:
            return picture, "has a colour profile that is not of its kind of colours: it is taken for sRGB"
        transform = _transform(data, plain.mode)
        name = str(profile.profile.profile_description or "unnamed").strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return picture, "has a colour profile that cannot be read: it is taken for sRGB"
    if plain.mode == "RGB" and _is_srgb(transform):
        return picture, None
    converted = ImageCms.applyTransform(plain, transform)
    if converted is None:
        raise ValueError("a transform that is not in place gives a picture")
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, f"its colours are converted from its profile ({name[:60]}) to sRGB"


def _has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def _plain(picture: Image.Image) -> Image.Image:
    """Its colours alone, in one of the modes that profiles are of."""
    if picture.mode in ("L", "LA", "1"):
        return picture.convert("L")
    if picture.mode in ("RGB", "CMYK"):
        return picture
    return picture.convert("RGBA").convert("RGB") if _has_alpha(picture) else picture.convert("RGB")


@lru_cache(maxsize=32)
def _transform(data: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(data)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
    )


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    steps = np.asarray(_STEPS, np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(1, -1, 3)
    moved = ImageCms.applyTransform(Image.fromarray(cube), transform)
    return bool(np.abs(np.asarray(moved, np.int16) - cube.astype(np.int16)).max() <= SRGB_LEVELS)
