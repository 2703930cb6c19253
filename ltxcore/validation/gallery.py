"""The gallery: one static page that plays base and LoRAs side by side, from files beside it alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ltxcore.pages import environment
from ltxcore.store.blobs import write_atomic
from ltxcore.validation.metrics import Measures
from ltxcore.validation.rendering_settings import Rendering
from ltxcore.validation.sides import Sides
from ltxcore.validation.sound_picture import pictured

POSTER_QUALITY = 88


@dataclass(frozen=True)
class Side:
    """One rendering on the page. Files are paths relative to the page's directory."""

    video: str
    poster: str
    measures: Measures


@dataclass(frozen=True)
class Compared:
    """What a LoRA made of a prompt, beside the base."""

    label: str
    side: Side
    difference: float | None
    """Mean absolute difference from the base, in levels of 255; None without pictures."""


@dataclass(frozen=True)
class Entry:
    """One prompt, rendered from the base and from each LoRA that is shown."""

    name: str
    prompt: str
    seed: int
    size: tuple[int, int]
    base: Side
    loras: Sides[Compared]
    steps: tuple[tuple[str, Side], ...] = ()
    """What the LoRA rendered while it was trained, each with its label."""


@dataclass(frozen=True)
class GalleryFacts:
    """What stands around the videos."""

    title: str
    sampling: tuple[tuple[str, str], ...]
    """Label and value: steps, guidance, size, length."""
    run: tuple[tuple[str, str], ...]
    """Label and value: snapshot, recipe highlights, training."""
    lora_files: tuple[tuple[str, str], ...]
    """Label and path, relative to the page's directory, of each file that was trained."""
    notes: tuple[str, ...] = ()
    negative_prompt: str = ""
    loss_picture: str | None = None
    contact_sheet: str | None = None


def write_poster(path: Path, rendering: Rendering) -> None:
    """The middle frame as JPEG: first frames are often the least typical; of a sound its spectrogram."""
    picture = io.BytesIO()
    frames = pictured(rendering).frames
    middle = frames[len(frames) // 2]
    Image.fromarray(middle).save(picture, "JPEG", quality=POSTER_QUALITY)
    write_atomic(path, picture.getvalue())


def write_gallery(directory: Path, facts: GalleryFacts, entries: Sequence[Entry]) -> Path:
    """Write `index.html` into the directory that holds the videos, and return its path.

    Raises:
        FileNotFoundError: a file that the page would show is not in the directory.
    """
    sides = [side for entry in entries for side in _sides(entry)]
    shown = [file for side in sides for file in (side.video, side.poster)]
    shown += [file for file in (facts.loss_picture, facts.contact_sheet) if file]
    missing = [file for file in shown if not (directory / file).is_file()]
    if missing:
        raise FileNotFoundError(f"the gallery in {directory} would show files that are not there: {missing}")
    page = directory / "index.html"
    template = environment.html(__package__).get_template("gallery.html")
    labels = [lora.label for lora in entries[0].loras] if entries else []
    text = template.render(title=facts.title, about=facts, entries=entries, labels=labels)
    write_atomic(page, text.encode())
    return page


def _sides(entry: Entry) -> list[Side]:
    return [entry.base, *(lora.side for lora in entry.loras), *(side for _, side in entry.steps)]
