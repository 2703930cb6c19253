"""`ltx2 lora convert`, `merge` and `resize`: LoRA files made of others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from flows.cli.options import refuse
from ltxcore.models.lora.header import AdapterError, LoraHeader, read_header

if TYPE_CHECKING:
    from ltxcore.models.lora.edit import Edited

console = Console(highlight=False, soft_wrap=True)
NOT_WRITTEN = 1

FileArgument = Annotated[Path, typer.Argument(help="A LoRA file.", metavar="FILE")]
To = Literal["comfyui", "diffusers"]
ToOption = Annotated[
    To | None,
    typer.Option("--to", help="The program whose names the file gets. Default: as in the first file."),
]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="The new file to write.")]


def convert(
    file: FileArgument,
    to: Annotated[To, typer.Option("--to", help="The program whose names the file gets.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: FILE with the program's name in it.")
    ] = None,
) -> None:
    """Rename a LoRA's layers for ComfyUI (bf16, scale multiplied in) or diffusers (alpha in the header)."""
    header = _read(file)
    from ltxcore.models.lora import edit

    _write(lambda: edit.convert(header, output or file.with_stem(f"{file.stem}_{to}"), to))


def merge(
    files: Annotated[list[Path], typer.Argument(help="LoRA files.", metavar="FILE")],
    output: OutputOption,
    weight: Annotated[
        list[float] | None,
        typer.Option("--weight", "-w", help="One weight for each file, in their order. Default: 1 for all."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1, help="Reduce the sum to this rank. Default: the sum of the ranks, which is exact."
        ),
    ] = None,
    to: ToOption = None,
) -> None:
    """Add LoRAs: exactly, with the ranks of all of them, or as the nearest LoRA of one rank."""
    weights = weight or [1.0] * len(files)
    if len(weights) != len(files):
        raise refuse(
            AdapterError(f"{len(files)} files have {len(weights)} weights; give --weight once for each")
        )
    headers = [_read(file) for file in files]
    from ltxcore.models.lora import edit

    _write(lambda: edit.merge(headers, weights, output, to or edit.target_of(headers[0]), rank))


def resize(
    file: FileArgument,
    rank: Annotated[int, typer.Option(min=1, help="The new rank.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: FILE with the rank in its name.")
    ] = None,
    to: ToOption = None,
) -> None:
    """Reduce a LoRA to a smaller rank by singular values, and print how much that leaves out."""
    header = _read(file)
    from ltxcore.models.lora import edit

    target = output or file.with_stem(f"{file.stem}_rank{rank}")
    _write(lambda: edit.resize(header, target, to or edit.target_of(header), rank))


def _read(file: Path) -> LoraHeader:
    try:
        return read_header(file)
    except AdapterError as error:
        raise refuse(error) from None


def _write(make: Callable[[], Edited]) -> None:
    try:
        made = make()
    except AdapterError as error:
        raise refuse(error) from None
    except OSError as error:
        raise refuse(error, status=NOT_WRITTEN) from None
    ranks = f"rank {made.ranks[0]}" if len(made.ranks) == 1 else f"ranks {made.ranks[0]} to {made.ranks[-1]}"
    size = f", {ranks}" if made.ranks else ""
    console.print(f"{made.path}: {made.layers} layers{size}, for {made.target}", markup=False)
    if made.loss.by_layer:
        layer, worst = made.loss.worst
        console.print(
            f"relative error {made.loss.relative:.2%}; at most {worst:.2%}, in {layer}", markup=False
        )
