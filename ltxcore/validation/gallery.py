"""The gallery: one static page that plays base and LoRAs side by side, from files beside it alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from ltxcore.store.blobs import write_atomic
from ltxcore.validation.gallery_look import SCRIPT, STYLE
from ltxcore.validation.metrics import Measures
from ltxcore.validation.plan import Rendering

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

    kind: str
    """A word for the style: `lora` or `ema`."""
    label: str
    side: Side
    difference: float
    """Mean absolute difference from the base, in levels of 255."""


@dataclass(frozen=True)
class Entry:
    """One prompt, rendered from the base and from the LoRA, or from several of them."""

    name: str
    prompt: str
    seed: int
    size: tuple[int, int]
    base: Side
    loras: tuple[Compared, ...]
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
    lora_files: tuple[str, ...]
    notes: tuple[str, ...] = ()
    negative_prompt: str = ""
    loss_picture: str | None = None
    contact_sheet: str | None = None


def write_poster(path: Path, rendering: Rendering) -> None:
    """The middle frame as JPEG: first frames are often the least typical."""
    picture = io.BytesIO()
    middle = rendering.frames[len(rendering.frames) // 2]
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
    write_atomic(page, _page(facts, entries).encode())
    return page


def _sides(entry: Entry) -> list[Side]:
    return [entry.base, *(lora.side for lora in entry.loras), *(side for _, side in entry.steps)]


def _page(facts: GalleryFacts, entries: Sequence[Entry]) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(facts.title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(facts.title)}</h1>
<p class="lead">{len(entries)} {"prompt" if len(entries) == 1 else "prompts"},
each from the base model and from the LoRA{_several(entries)} with the same seed.</p>
{_facts(facts.sampling)}
{_notes(facts.notes)}
</header>
<main>
{"".join(_entry(entry) for entry in entries)}
</main>
<footer>
{_picture(facts.loss_picture, "Loss of the training", "Training")}
{_picture(facts.contact_sheet, "All renderings as strips of frames", "Contact sheet")}
<section class="card">
<h2>Run</h2>
{_facts(facts.run)}
<h3>LoRA files</h3>
<ul class="files">{"".join(f"<li><code>{escape(name)}</code></li>" for name in facts.lora_files)}</ul>
{_negative(facts.negative_prompt)}
</section>
</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _several(entries: Sequence[Entry]) -> str:
    """The LoRAs by their labels, where there is more than one."""
    labels = [lora.label.lower() for lora in entries[0].loras] if entries else []
    return f" ({escape(', '.join(labels))})" if len(labels) > 1 else ""


def _entry(entry: Entry) -> str:
    width, height = entry.size
    return f"""<article class="card" id="{escape(entry.name)}">
<div class="head">
<h2>{escape(entry.name)}</h2>
<button type="button" class="play">Play {"both" if len(entry.loras) == 1 else "all"}</button>
</div>
<p class="prompt">{escape(entry.prompt)}</p>
<div class="pair" style="--ratio:{width}/{height}">
{_side(entry.base, "Base", "base", entry.name)}
{"".join(_side(lora.side, lora.label, lora.kind, entry.name) for lora in entry.loras)}
</div>
{_steps(entry)}
<p class="fine">Seed <code>{entry.seed}</code>.
{" ".join(f"{escape(o.label)} and base differ by {o.difference:.1f} of 255 levels." for o in entry.loras)}</p>
</article>
"""


def _side(side: Side, label: str, kind: str, name: str) -> str:
    flags = "".join(f'<span class="flag">{escape(flag)}</span>' for flag in side.measures.flags)
    return f"""<figure class="{kind}">
<figcaption><span class="tag">{escape(label)}</span>{flags}</figcaption>
<video controls loop playsinline preload="metadata" poster="{quote(side.poster)}" src="{quote(side.video)}"
 aria-label="{escape(label)} rendering of {escape(name)}"></video>
<p class="fine">{escape(_told(side.measures))}</p>
</figure>
"""


def _steps(entry: Entry) -> str:
    """The way from the base to the LoRA, one small video a step."""
    if not entry.steps:
        return ""
    width, height = entry.size
    shown = "".join(_side(side, label, "step", entry.name) for label, side in entry.steps)
    return (
        f'<details open><summary>While it was trained</summary><div class="steps" '
        f'style="--ratio:{width}/{height}">{shown}</div></details>'
    )


def _told(measures: Measures) -> str:
    parts = [f"motion {measures.motion:.1f}", f"brightness {measures.brightness:.0f}"]
    if measures.audio_rms_dbfs is not None:
        parts.append(f"sound {measures.audio_rms_dbfs:.0f} dBFS RMS, peak {measures.audio_peak_dbfs:.0f}")
    if measures.audio_centroid_hz is not None:
        parts.append(f"centre {measures.audio_centroid_hz / 1000:.1f} kHz")
    return " · ".join(parts)


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>" for label, value in rows)
    return f'<dl class="facts">{items}</dl>' if items else ""


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _picture(file: str | None, alt: str, title: str) -> str:
    if file is None:
        return ""
    link = quote(file)
    return (
        f'<section class="card"><h2>{escape(title)}</h2>'
        f'<a href="{link}"><img src="{link}" alt="{escape(alt)}" loading="lazy"></a></section>'
    )


def _negative(prompt: str) -> str:
    return f"<h3>Negative prompt</h3><p>{escape(prompt)}</p>" if prompt else ""
