"""Seeds that a recipe leaves open (`seed: -1`): drawn once for a run, and kept with it.

Everything that is drawn while a run works follows from its seeds, so a retry, a resumed run and every stage
must have the same ones. They are in the run's folder; a run that continues an unfinished one of the same
recipe takes its seeds, too.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from ltxcore.config.recipe import Recipe
from ltxcore.config.seeds import OPEN
from ltxcore.pipeline.base.context import Context
from ltxcore.store.blobs import DamagedFile, read_model, write_json
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.locks import is_held

FILE: Final = "seeds.json"
FINISHED: Final = "parent.json"
"""What a run of the whole pipeline leaves at its end."""
DRAWN_BITS: Final = 31
"""Short enough to be written down by hand."""


class Seeds(BaseModel):
    """What was drawn for a run, and for which recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asked: str
    """The fingerprint of the recipe with its seeds open, and of where its data is."""
    training: int
    validation: int

    def put_into(self, recipe: Recipe) -> Recipe:
        """The recipe with numbers where it has -1."""
        training, validation = recipe.training, recipe.validation
        if training.seed == OPEN:
            training = training.model_copy(update={"seed": self.training})
        if validation.validation_seed == OPEN:
            validation = validation.model_copy(update={"validation_seed": self.validation})
        return recipe.model_copy(update={"training": training, "validation": validation})


def with_seeds(ctx: Context, run: Path) -> Context:
    """The context with the seeds of a run, drawn and kept in its folder where that has none yet."""
    if not _is_open(ctx.recipe):
        return ctx
    found = _kept(run) or _unfinished(ctx, run)
    if found is None:
        training, validation = (secrets.randbits(DRAWN_BITS) for _ in range(2))
        found = Seeds(asked=_asked(ctx), training=training, validation=validation)
    if _kept(run) != found:
        write_json(run / FILE, found.model_dump())
    return ctx.with_recipe(found.put_into(ctx.recipe))


def expected_seeds(ctx: Context) -> Context:
    """The context with the seeds of the unfinished run that the next run would continue; unchanged if there
    is none."""
    found = _unfinished(ctx, None) if _is_open(ctx.recipe) else None
    return ctx if found is None else ctx.with_recipe(found.put_into(ctx.recipe))


def _is_open(recipe: Recipe) -> bool:
    return OPEN in (recipe.training.seed, recipe.validation.validation_seed)


def _asked(ctx: Context) -> str:
    # A stage alone knows no dataset file, and the seeds are the recipe's.
    return fingerprint(ctx.recipe.model_dump(mode="json", exclude={"threads"}))


def _kept(run: Path) -> Seeds | None:
    """The seeds in a run's folder; what a crash has cut was never used, since it is written whole."""
    try:
        return read_model(run / FILE, Seeds)
    except (FileNotFoundError, DamagedFile):
        return None


def _unfinished(ctx: Context, run: Path | None) -> Seeds | None:
    """The seeds of the newest run of the same recipe that has ended without finishing."""
    for other in _newest_first(ctx.workspace.runs):
        seeds = None if other == run else _kept(other)
        if seeds is None or seeds.asked != _asked(ctx) or is_held(ctx.workspace.run_lock(other)):
            continue
        return None if (other / FINISHED).exists() else seeds
    return None


def _newest_first(runs: Path) -> Iterator[Path]:
    files = sorted(runs.glob(f"*/{FILE}"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    return (file.parent for file in files)
