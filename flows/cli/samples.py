"""`ltx2 samples`: the demo clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from ltxcore.config.dataset_places import SAMPLES
from ltxcore.media.samples import make_samples

console = Console()


def samples(
    directory: Annotated[Path, typer.Argument()] = Path(SAMPLES),
    name: Annotated[
        Literal["glimmer", "variety"],
        typer.Option("--set", help="What the toy LTX-2 learns in `make run`, or every kind of clip."),
    ] = "glimmer",
) -> None:
    """Write the sample clips, unless they exist."""
    with console.status("making sample clips"):
        made = make_samples(directory, name)
    console.print(f"{len(made)} files in {directory}", markup=False, soft_wrap=True)
