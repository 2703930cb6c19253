"""`ltx2 lora`: look at LoRA files of any trainer, and make others of them."""

from __future__ import annotations

from typing import Final

import typer

from flows.cli.lazy import Entry, group_of

LOOK, MAKE = "Look", "Make another file"
COMMANDS: Final = (
    Entry(
        "info",
        "flows.cli.lora_info:info",
        "Show what a LoRA is, and whether ComfyUI and diffusers load it.",
        LOOK,
    ),
    Entry("convert", "flows.cli.lora_edit:convert", "Rename a LoRA's layers for ComfyUI or diffusers.", MAKE),
    Entry("merge", "flows.cli.lora_edit:merge", "Add LoRAs, each with a weight.", MAKE),
    Entry("resize", "flows.cli.lora_edit:resize", "Reduce a LoRA to a smaller rank.", MAKE),
)

app = typer.Typer(cls=group_of(COMMANDS), no_args_is_help=True, add_completion=False, rich_markup_mode="rich")


@app.callback()
def lora() -> None:
    """Inspect, convert, merge and resize LoRA files of any trainer."""
