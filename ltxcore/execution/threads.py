"""The threads of a stage: the recipe's, those of the request's first try, or what the model's size says."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ltxcore.config.base import Strict
from ltxcore.memory.threads import computing_with, count_cores, threads_for
from ltxcore.pipeline.base.context import Context
from ltxcore.pipeline.base.contract import FRAMES, TRAIN, Stage
from ltxcore.store.blobs import DamagedFile, read_model, write_json

logger = logging.getLogger(__name__)

FILE = "threads.json"


class Kept(Strict):
    """What the first try of a request computed with, on a CPU."""

    threads: int


@contextmanager
def with_threads(ctx: Context, stage: Stage, device: str, directory: Path) -> Iterator[int | None]:
    """Compute with the threads of a stage while the block lasts; gives their number, of each process.

    None on a GPU where the recipe does not say: what is computed is the same, and nothing is changed.

    Args:
        ctx: the stage's.
        stage: which.
        device: it computes on.
        directory: of the request; the number is kept there, so that a retry on another machine takes it, too.
    """
    asked = ctx.recipe.threads
    if device != "cpu" and asked is None:
        yield None
        return
    kept = _kept(directory)
    cores = count_cores()
    own = threads_for(count_parameters(ctx, stage), cores, _processes(ctx, stage))
    threads = asked or kept or own
    if kept not in (None, threads):
        logger.warning(
            "%s began with %d threads and continues with %d, as the recipe says, so sums are rounded "
            "differently",
            stage.name,
            kept,
            threads,
        )
    elif threads not in (asked, own):
        logger.info(
            "%s computes with %d threads, as it began; this machine of %d cores would take %d",
            stage.name,
            threads,
            cores,
            own,
        )
    if kept != threads:
        write_json(directory / FILE, Kept(threads=threads).model_dump())
    with computing_with(threads):
        yield threads


def count_parameters(ctx: Context, stage: Stage) -> int:
    """Parameters of all models that a stage may load, from the headers of their files."""
    if stage is FRAMES:
        return ctx.teacher.resident_bytes(1)
    parts = {"text_projection": "connectors"}
    components = {parts.get(name, name) for name in stage.models if name != "tokenizer"}
    return sum(math.prod(shape) for name in components for shape in ctx.source.shapes(name).values())


def _processes(ctx: Context, stage: Stage) -> int:
    return ctx.recipe.processes.count if stage is TRAIN else 1


def _kept(directory: Path) -> int | None:
    try:
        return read_model(directory / FILE, Kept).threads
    except (FileNotFoundError, DamagedFile):
        # Nothing was computed yet, or nothing is known of it: the file is written whole.
        return None
