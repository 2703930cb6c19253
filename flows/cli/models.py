"""`ltx2 models`, `promote` and `rollback`: the champions of a workspace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli.options import (
    STORE_FAULTS,
    JsonOption,
    NoWorkspace,
    WorkspaceOption,
    existing_workspace,
    refuse,
)
from flows.tables import table as empty_table
from ltxcore.jobs.publish.judged_loras import UnknownLora, list_models, promote_by_hand, version_data
from ltxcore.judging.champions import Champion, ChampionError, Champions
from ltxcore.pipeline.base.outputs import DamagedOutput

console = Console(highlight=False, soft_wrap=True)
FAULTS = (ChampionError, UnknownLora, DamagedOutput, OSError, *STORE_FAULTS)
NOT_EXCHANGED = 1
ModelArgument = Annotated[
    str, typer.Argument(help="The model's name, as `promotion.model` has it.", metavar="MODEL")
]


def models(workspace: WorkspaceOption = Path("workspace"), as_json: JsonOption = False) -> None:
    """List the champions of a workspace with the versions before them, and where they lie."""
    with _refusals():
        found = list_models(existing_workspace(workspace))
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    if not found:
        console.print("No model has a champion; `promotion: {model: my-lora}` in a recipe makes one.")
    for model in found:
        console.print(f"{model['model']}: {model.get('fault', model['path'])}", markup=False)
        rows = empty_table(
            {"": "name", "version": "figures", "training": "name", "verdict": "words", "promoted": "name"}
        )
        for version in model["versions"]:
            mark = "champion" if version["version"] == model["champion"] else ""
            rows.add_row(
                mark,
                str(version["version"]),
                version.get("training", "")[:16],
                version.get("fault", version.get("verdict", "")),
                version.get("promoted", ""),
            )
        console.print(rows)


def promote(
    model: ModelArgument,
    which: Annotated[
        str,
        typer.Argument(help="The training, as its gate page names it, or a version.", metavar="TRAINING"),
    ],
    workspace: WorkspaceOption = Path("workspace"),
    as_json: JsonOption = False,
) -> None:
    """Make a judged LoRA the champion, whatever its verdict was. Its files are compared with their hashes
    first."""
    with _refusals():
        champion = promote_by_hand(existing_workspace(workspace), model, which)
    _tell(champion, in_json=as_json)


def rollback(
    model: ModelArgument,
    workspace: WorkspaceOption = Path("workspace"),
    to: Annotated[int | None, typer.Option(help="A version. Default: the champion before this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Take back the champion before this one. Nothing is deleted."""
    with _refusals():
        champion = Champions(existing_workspace(workspace), model).roll_back(to)
    _tell(champion, in_json=as_json)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except NoWorkspace as error:
        raise refuse(error) from None
    except FAULTS as error:
        raise refuse(error, NOT_EXCHANGED) from None


def _tell(champion: Champion, in_json: bool) -> None:
    if in_json:
        typer.echo(json.dumps(version_data(champion), indent=1, ensure_ascii=False))
        return
    record = champion.record
    console.print(
        f"{record.model} is version {record.version}, training {record.training[:16]}: {champion.directory}",
        markup=False,
    )
