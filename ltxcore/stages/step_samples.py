"""The samples of a training's steps, beside the gallery that shows them: videos, posters and measures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ltxcore.stages.context import Context
from ltxcore.stages.contract import RENDER
from ltxcore.stages.run import find_result
from ltxcore.stages.sample_steps import sample_steps
from ltxcore.store.blobs import read_json, write_atomic, write_json
from ltxcore.validation.metrics import Measures, measure
from ltxcore.validation.plan import Rendering

if TYPE_CHECKING:
    from ltxcore.validation.gallery import Side

FOLDER = "steps"
NAME = re.compile(r"step-(\d+)")
MEASURES = "measures.json"


def write_samples(directory: Path, step: int, renderings: Sequence[Rendering]) -> None:
    """Write the samples of one step beside a gallery."""
    from ltxcore.validation.gallery import write_poster
    from ltxcore.validation.video_file import write_video

    folder = _folder(directory, step)
    folder.mkdir(parents=True, exist_ok=True)
    for rendering in renderings:
        write_video(folder / f"{rendering.name}.mp4", rendering)
        write_poster(folder / f"{rendering.name}.jpg", rendering)
    write_json(folder / MEASURES, {r.name: measure(r).model_dump() for r in renderings})


def gather_samples(ctx: Context, directory: Path, names: Sequence[str], last: int) -> None:
    """Copy what was rendered while a training of `last` steps went on beside the gallery of its end."""
    for step in takewhile(lambda step: step < last, sample_steps(ctx.recipe)):
        _, stamp = find_result(RENDER, replace(ctx, step=step))
        if stamp is None:
            continue  # Never rendered, e.g. where the training ran alone, or swept away since.
        source = (ctx.workspace.root / stamp.outcome.files[0].path).parent
        folder = _folder(directory, step)
        for name in names:
            for kind in ("mp4", "jpg"):
                write_atomic(folder / f"{name}.{kind}", (source / f"{name}-lora.{kind}").read_bytes())
        measured = read_json(source / MEASURES)
        write_json(folder / MEASURES, {name: measured[name]["lora"] for name in names})


def steps_of(directory: Path, name: str) -> tuple[tuple[int, Side], ...]:
    """The samples of a prompt that lie beside a gallery, by step."""
    from ltxcore.validation.gallery import Side

    found = []
    for step, folder in _folders(directory):
        measured = read_json(folder / MEASURES)
        if name in measured:
            at = folder.relative_to(directory).as_posix()
            side = Side(f"{at}/{name}.mp4", f"{at}/{name}.jpg", Measures.model_validate(measured[name]))
            found.append((step, side))
    return tuple(found)


def sample_files(directory: Path) -> list[Path]:
    """Every file of the samples beside a gallery."""
    return [file for _, folder in _folders(directory) for file in sorted(folder.iterdir())]


def _folder(directory: Path, step: int) -> Path:
    return directory / FOLDER / f"step-{step:06d}"


def _folders(directory: Path) -> list[tuple[int, Path]]:
    if not (directory / FOLDER).is_dir():
        return []
    found = [(p, match) for p in (directory / FOLDER).iterdir() if (match := NAME.fullmatch(p.name))]
    return sorted((int(match[1]), path) for path, match in found)
