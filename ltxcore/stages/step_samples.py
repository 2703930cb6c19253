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
from ltxcore.stages.lora_sides import LoraSide, shown_sides
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
ENDINGS = ("mp4", "jpg")


def write_samples(directory: Path, step: int, kind: str, renderings: Sequence[Rendering]) -> None:
    """Write the samples of one step beside a gallery, of one kind of `LoraSide`."""
    from ltxcore.validation.gallery import write_poster
    from ltxcore.validation.video_file import write_video

    folder = _folder(directory, step)
    folder.mkdir(parents=True, exist_ok=True)
    for rendering in renderings:
        write_video(folder / f"{rendering.name}-{kind}.mp4", rendering)
        write_poster(folder / f"{rendering.name}-{kind}.jpg", rendering)
    file = folder / MEASURES
    before = read_json(file) if file.is_file() else {}
    write_json(file, before | {kind: {r.name: measure(r).model_dump() for r in renderings}})


def gather_samples(ctx: Context, directory: Path, names: Sequence[str], last: int) -> None:
    """Copy what was rendered while a training of `last` steps went on beside the gallery of its end."""
    for step in takewhile(lambda step: step < last, sample_steps(ctx.recipe)):
        _, stamp = find_result(RENDER, replace(ctx, step=step))
        if stamp is None:
            continue  # Never rendered, e.g. where the training ran alone, or swept away since.
        source = (ctx.workspace.root / stamp.outcome.files[0].path).parent
        folder = _folder(directory, step)
        kinds = [side.kind for side in shown_sides(ctx.recipe.training)]
        for file in [f"{name}-{kind}.{ending}" for name in names for kind in kinds for ending in ENDINGS]:
            write_atomic(folder / file, (source / file).read_bytes())
        measured = read_json(source / MEASURES)
        write_json(
            folder / MEASURES, {kind: {name: measured[name][kind] for name in names} for kind in kinds}
        )


def steps_of(directory: Path, name: str, shown: Sequence[LoraSide]) -> tuple[tuple[str, Side], ...]:
    """The samples of a prompt that lie beside a gallery, by step, each with what people read above it."""
    from ltxcore.validation.gallery import Side

    found = []
    for step, folder in _folders(directory):
        measured = read_json(folder / MEASURES)
        for side in shown:
            if name in measured.get(side.kind, {}):
                file = f"{folder.relative_to(directory).as_posix()}/{name}-{side.kind}"
                measures = Measures.model_validate(measured[side.kind][name])
                label = f"Step {step}" if len(shown) == 1 else f"Step {step}, {side.label.lower()}"
                found.append((label, Side(f"{file}.mp4", f"{file}.jpg", measures)))
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
