"""The contact sheet: every rendering as a strip of its frames in one picture, base above LoRAs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ltxcore.store.blobs import write_atomic
from ltxcore.validation.rendering_settings import Rendering
from ltxcore.validation.sound_picture import pictured

COLUMNS = 6
CELL_WIDTH_PX = 240
GAP_PX = 6
MARGIN_PX = 24
LABEL_WIDTH_PX = 190
HEADER_HEIGHT_PX = 64
PAIR_GAP_PX = 22
BASE = "Base"
PAPER, INK, FAINT, ACCENT = "#14161a", "#eceff4", "#8b93a1", "#5aa9ff"

Labelled = tuple[str, Rendering]


def write_contact_sheet(path: Path, prompts: Sequence[Sequence[Labelled]], title: str) -> None:
    """Write a PNG: a row for each prompt and weights, a column for each of up to six evenly spaced frames.

    Args:
        path: of the picture.
        prompts: of each prompt its renderings, of one size, with what they are called; the base first.
        title: stands above.

    Raises:
        ValueError: there is nothing to show.
    """
    if not prompts:
        raise ValueError("a contact sheet needs at least one prompt")
    prompts = [[(label, _shown(rendering)) for label, rendering in shown] for shown in prompts]
    columns = min(COLUMNS, max(len(r.frames) for shown in prompts for _, r in shown))
    heights = [_cell_height(shown[0][1]) for shown in prompts]
    width = 2 * MARGIN_PX + LABEL_WIDTH_PX + columns * (CELL_WIDTH_PX + GAP_PX)
    rows = sum(len(shown) * (h + GAP_PX) + PAIR_GAP_PX for shown, h in zip(prompts, heights, strict=True))
    height = HEADER_HEIGHT_PX + rows + MARGIN_PX
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, 22), _cut(draw, title, 20, width - 2 * MARGIN_PX), fill=INK, font=_font(20))
    top = HEADER_HEIGHT_PX
    for shown, cell_height in zip(prompts, heights, strict=True):
        for label, rendering in shown:
            _label(draw, rendering, label, top, cell_height)
            _strip(sheet, draw, rendering, top, cell_height, columns)
            top += cell_height + GAP_PX
        top += PAIR_GAP_PX
    picture = io.BytesIO()
    sheet.save(picture, "PNG", optimize=True)
    write_atomic(path, picture.getvalue())


def _shown(rendering: Rendering) -> Rendering:
    """A sound made alone has one picture, which covers all of it."""
    if rendering.has_pictures:
        return rendering
    return replace(rendering, frames=pictured(rendering).frames[:1])


def spaced(count: int, wanted: int) -> list[int]:
    """`wanted` evenly spaced indices out of `count`, the first and the last among them."""
    return [round(i) for i in np.linspace(0, count - 1, min(wanted, count))]


def _cell_height(rendering: Rendering) -> int:
    _, height, width, _ = rendering.frames.shape
    return max(48, round(CELL_WIDTH_PX * height / width))


def _label(draw: ImageDraw.ImageDraw, rendering: Rendering, label: str, top: int, cell_height: int) -> None:
    middle = top + cell_height // 2
    room = LABEL_WIDTH_PX - 16
    draw.text((MARGIN_PX, middle - 20), _cut(draw, rendering.name, 15, room), fill=INK, font=_font(15))
    draw.text((MARGIN_PX, middle + 4), label, fill=FAINT if label == BASE else ACCENT, font=_font(14))


def _strip(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    rendering: Rendering,
    top: int,
    cell_height: int,
    columns: int,
) -> None:
    for column, index in enumerate(spaced(len(rendering.frames), columns)):
        left = MARGIN_PX + LABEL_WIDTH_PX + column * (CELL_WIDTH_PX + GAP_PX)
        frame = Image.fromarray(rendering.frames[index])
        sheet.paste(frame.resize((CELL_WIDTH_PX, cell_height), Image.Resampling.LANCZOS), (left, top))
        stamp = f"{index / rendering.fps:.2f} s"
        box = draw.textbbox((left + 7, top + 6), stamp, font=_font(11))
        draw.rectangle((box[0] - 4, box[1] - 3, box[2] + 4, box[3] + 3), fill=PAPER)
        draw.text((left + 7, top + 6), stamp, fill=INK, font=_font(11))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the sheet looks alike on machines without fonts."""
    return ImageFont.load_default(size)


def _cut(draw: ImageDraw.ImageDraw, text: str, size: int, room_px: int) -> str:
    if draw.textlength(text, font=_font(size)) <= room_px:
        return text
    while text and draw.textlength(f"{text}…", font=_font(size)) > room_px:
        text = text[:-1]
    return f"{text}…"
