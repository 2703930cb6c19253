"""The samples of a training's steps, beside the gallery that shows them: videos, posters and measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import RENDER
from ltxcore.pipeline.base.outputs import require_whole
from ltxcore.pipeline.base.stamp import find_stamp
from ltxcore.stages.render_validation.request import request
from ltxcore.stages.train_lora.control import decisions
from ltxcore.stages.train_lora.lora_sides import shown_sides
from ltxcore.stages.train_lora.sample_steps import STEP_NAME, sample_steps
from ltxcore.store.blobs import read_json, write_atomic, write_json
from ltxcore.store.file_hashes import SET_ASIDE
from ltxcore.validation.metrics import Measures, measure
from ltxcore.validation.rendering_settings import Rendering
from ltxcore.validation.sides import Kind, Sides

if TYPE_CHECKING:
    from ltxcore.validation.gallery import Side

FOLDER = "steps"
MEASURES = "measures.json"
ENDINGS = ("mp4", "jpg")


def write_samples(directory: Path, step: int, kind: Kind, renderings: Sequence[Rendering]) -> None:
    """Write the samples of one step beside a gallery, of one of its sides."""
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


def gather_samples(ctx: Context, directory: Path, names: Sequence[str], training: Path, last: int) -> None:
    """Copy the samples that were rendered during a training of `last` steps beside its final gallery.

    Args:
        ctx: of the rendering.
        directory: of the gallery.
        names: of the prompts.
        training: the training's directory.
        last: its steps.

    Raises:
        DamagedOutput: a file of it is not what was rendered; nothing of its step is copied.
    """
    asked = decisions(training).sampled
    of_recipe = takewhile(lambda step: step < last, sample_steps(ctx.recipe))
    for step in sorted({*of_recipe, *(step for step in asked if step < last)}):
        stamp = find_stamp(ctx.workspace, RENDER, request(replace(ctx, step=step)))
        if stamp is None:
            continue  # Never rendered, e.g. where the training ran alone, or swept away since.
        require_whole(ctx.workspace, stamp.outcome.files)
        source = (ctx.workspace.root / stamp.outcome.files[0].path).parent
        folder = _folder(directory, step)
        kinds = [kind for kind, _ in shown_sides(ctx.recipe.training).items()]
        for file in [f"{name}-{kind}.{ending}" for name in names for kind in kinds for ending in ENDINGS]:
            write_atomic(folder / file, (source / file).read_bytes())
        measured = read_json(source / MEASURES)
        write_json(
            folder / MEASURES, {kind: {name: measured[name][kind] for name in names} for kind in kinds}
        )


def steps_of(directory: Path, name: str, labels: Sides[str]) -> tuple[tuple[str, Side], ...]:
    """The samples of a prompt that lie beside a gallery, by step, each with what people read above it.

    Args:
        directory: of the gallery.
        name: of the prompt.
        labels: of the sides that are shown.
    """
    from ltxcore.validation.gallery import Side

    found = []
    for step, folder in _folders(directory):
        measured = read_json(folder / MEASURES)
        for kind, label in labels.items():
            file = f"{folder.relative_to(directory).as_posix()}/{name}-{kind}"
            # What was damaged and set aside is not there.
            there = all((directory / f"{file}.{ending}").is_file() for ending in ENDINGS)
            if name in measured.get(kind, {}) and there:
                measures = Measures.model_validate(measured[kind][name])
                read = f"Step {step}" if len(labels) == 1 else f"Step {step}, {label.lower()}"
                found.append((read, Side(f"{file}.mp4", f"{file}.jpg", measures)))
    return tuple(found)


def sample_files(directory: Path) -> list[Path]:
    """Every file of the samples beside a gallery, without damaged ones that were set aside."""
    found = (file for _, folder in _folders(directory) for file in sorted(folder.iterdir()))
    return [file for file in found if file.suffix != SET_ASIDE]


def _folder(directory: Path, step: int) -> Path:
    return directory / FOLDER / f"step-{step:06d}"


def _folders(directory: Path) -> list[tuple[int, Path]]:
    if not (directory / FOLDER).is_dir():
        return []
    found = [(p, match) for p in (directory / FOLDER).iterdir() if (match := STEP_NAME.fullmatch(p.name))]
    return sorted((int(match[1]), path) for path, match in found)
