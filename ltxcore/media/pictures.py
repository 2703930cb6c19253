"""Pictures as clips of one frame, read by Pillow."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from ltxcore.config.base import Strict
from ltxcore.media.errors import MediaError
from ltxcore.media.icc import to_srgb
from ltxcore.media.perceptual_hash import COLUMNS, ROWS, hash_of_pictures
from ltxcore.media.sniff import content_of
from ltxcore.media.streams import check_file
from ltxcore.media.wanted import Wanted
from ltxcore.store.snapshot import Geometry

MIN_EDGE = 16
ORIENTATION = 0x0112
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "GIF", "PPM")
BACKGROUND = (255, 255, 255)
OPAQUE = 255
THUMBNAIL_QUALITY = 70


class PictureProbe(Strict):
    """What later stages may ask about a picture without opening it again. Sizes are upright."""

    container: str
    width: int
    height: int
    look: str | None
    notes: tuple[str, ...]


def probe_picture(path: Path, wanted: Wanted = Wanted()) -> PictureProbe:  # noqa: B008 - it is frozen
    """Read a picture whole, so that a damaged one is found now; too large a one is refused by its header.

    Raises:
        MediaError: it cannot be used; the reason says what it is instead.
    """
    check_file(path)
    with _opened(path) as picture:
        wanted.check_size(picture.width, picture.height)
        if picture.mode == "F":
            raise MediaError(
                "has its colours as floating-point numbers, whose white is not known; convert it to PNG"
            )
        notes = _notes(picture)
        upright = _upright(picture)
        width, height = upright.size
        if min(width, height) < MIN_EDGE:
            raise MediaError(
                f"is a picture of {width}x{height} pixels; at least {MIN_EDGE}x{MIN_EDGE} is needed"
            )
        return PictureProbe(
            container=str(picture.format),
            width=width,
            height=height,
            look=_look(upright),
            notes=notes,
        )


def decode_picture(path: Path, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """The picture turned upright after its EXIF data, resampled and cut: uint8 RGB `[1, H, W, 3]`.

    Transparent parts stand on white.

    Raises:
        MediaError: it does not decode, or no longer has the size that was probed.
    """
    check_file(path)
    with _opened(path) as picture:
        upright = _upright(picture)
        if upright.size != geometry.source:
            raise MediaError(
                f"is no longer the file that was probed: {upright.size[0]}x{upright.size[1]}, "
                f"not {geometry.source[0]}x{geometry.source[1]}"
            )
        resized = upright.resize(geometry.resize, Image.Resampling.LANCZOS, reducing_gap=3.0)
        (left, top), (width, height) = geometry.crop_xy, geometry.target
        return np.asarray(resized.crop((left, top, left + width, top + height)), np.uint8)[None].copy()


def picture_thumbnail(path: Path, edge: int) -> bytes:
    """The picture upright on white as JPEG, its longer edge `edge` pixels, for reports.

    Raises:
        MediaError: it does not decode.
    """
    check_file(path)
    with _opened(path) as picture:
        upright = _upright(picture)
        upright.thumbnail((edge, edge), Image.Resampling.BOX)
        written = io.BytesIO()
        upright.save(written, "JPEG", quality=THUMBNAIL_QUALITY)
        return written.getvalue()


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures; the limit here is our own, and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                yield picture
    except Image.DecompressionBombError as error:
        raise MediaError(f"is too large a picture: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        content = content_of(path)
        other = content.name if content.kind != "picture" else ""
        message = f"it seems to be {other}" if other else f"Pillow says: {error}"
        raise MediaError(
            f"is not a picture that can be read: {message}".replace(str(path), path.name)
        ) from error


def _upright(picture: Image.Image) -> Image.Image:
    turned, _ = to_srgb(ImageOps.exif_transpose(picture))
    if _may_be_seen_through(turned):
        seen = turned.convert("RGBA")
        ground = Image.new("RGBA", seen.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, seen).convert("RGB")
    if turned.mode in ("I;16", "I;16B", "I"):
        deep = np.asarray(turned, np.float64)
        return Image.fromarray(np.clip(deep / 257 + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    return turned.convert("RGB")


def _may_be_seen_through(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def _least_alpha(picture: Image.Image) -> int:
    return int(np.asarray(picture.convert("RGBA"))[..., 3].min())


def _notes(picture: Image.Image) -> tuple[str, ...]:
    notes = []
    # Asked first: reading the picture or its EXIF data empties the list of tiles.
    deep = picture.mode.startswith("I") or any(";16" in str(tile) for tile in getattr(picture, "tile", ()))
    if (count := getattr(picture, "n_frames", 1)) > 1:
        notes.append(_several(str(picture.format), count))
    if picture.getexif().get(ORIENTATION, 1) != 1:
        notes.append("is turned upright after its EXIF orientation")
    if deep:
        notes.append("has 16 bits a colour: it is read with 8")
    if (done := to_srgb(picture)[1]) is not None:
        notes.append(done)
    if _may_be_seen_through(picture) and _least_alpha(picture) < OPAQUE:
        notes.append("has transparent parts: they are shown on white")
    return tuple(notes)


def _several(container: str, count: int) -> str:
    """What the other pictures of a file are."""
    if container == "MPO":
        return f"holds {count} pictures (a gain map, or another view): the first is used"
    if container == "TIFF":
        return f"has {count} pages: the first is used"
    return f"is an animation of {count} pictures: the first is used"


def _look(picture: Image.Image) -> str | None:
    """`perceptual_hash.hash_of_clip` of a clip that shows nothing but this picture."""
    small = np.asarray(picture.resize((COLUMNS, ROWS), Image.Resampling.BOX), np.uint8)
    return hash_of_pictures(np.stack([small, small]))
