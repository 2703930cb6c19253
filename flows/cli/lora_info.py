"""`ltx2 lora info`: what a LoRA file is, from its header alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.options import refuse
from ltxcore.models.lora.description import Description, describe
from ltxcore.models.lora.header import AdapterError, read_header
from ltxcore.models.lora.loaders import Loading

console = Console(highlight=False)
SHOWN: Final = 3
KINDS: Final = {"lora": "LoRA", "dora": "DoRA", "lokr": "LoKr", "loha": "LoHa"}
NAMES: Final = {
    "diffusers": "diffusers' (transformer.…)",
    "comfyui": "ComfyUI's (diffusion_model.…)",
    "bare": "the reference's, without a prefix",
    "kohya": "kohya's (lora_unet_…)",
}


def info(
    files: Annotated[list[Path], typer.Argument(help="LoRA files.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list with everything.")] = False,
) -> None:
    """Show what a LoRA is: base, rank, layers, trigger, trainer, and whether ComfyUI and diffusers load
    it."""
    try:
        found = [describe(read_header(file)) for file in files]
    except AdapterError as error:
        raise refuse(error) from None
    if as_json:
        typer.echo(json.dumps([one.as_json() for one in found], indent=1, ensure_ascii=False))
        return
    for one in found:
        console.print(str(one.header.path), style="bold", markup=False, soft_wrap=True)
        console.print(_table(one))


def _table(found: Description) -> Table:
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in _facts(found).items():
        rows.add_row(f" {name}", value)
    return rows


def _facts(found: Description) -> dict[str, Any]:
    header = found.header
    facts = {
        "kind": KINDS[header.kind],
        "base": found.version
        if found.released_size
        else f"{found.version} (of another size: a tiny or toy model)",
        "rank": _figures(header.ranks) or "none: its size is in its factors",
        "alpha": _alpha(found),
        "layers": f"{len(header.layers)}, in {', '.join(header.types)}",
        "targets": ", ".join(found.layers_by_target),
        "names": NAMES[header.naming],
        "trigger": found.trigger or "the file names none",
        "trained by": found.trainer or "the file does not say",
    }
    for step in found.history:
        facts.setdefault("made by", "")
        several = len(step.get("of", ())) > 1
        sources = ", ".join(
            f"{source['file']} x {source['weight']:g}" if several else source["file"]
            for source in step.get("of", ())
        )
        done = f"{step.get('operation')} of {sources}"
        facts["made by"] = "; ".join(filter(None, (facts["made by"], done)))
    return facts | {loading.loader: _loading(loading, len(header.names)) for loading in found.loadings}


def _alpha(found: Description) -> str:
    if not found.alphas:
        return "none"
    scales = found.header.scales
    return f"{_figures(found.alphas)} (B·A is multiplied by {_figures(scales)})"


def _figures(values: tuple[float, ...]) -> str:
    """A few figures, or the first and the last of many."""
    if len(values) > SHOWN:
        return f"{values[0]:g} to {values[-1]:g}"
    return ", ".join(f"{value:g}" for value in values)


def _loading(loading: Loading, tensors: int) -> str:
    if loading.refused:
        return f"refuses the file: {loading.refused}"
    if loading.unread:
        reasons = dict.fromkeys(why for _, why in loading.unread)
        first = loading.unread[0][0]
        return (
            f"leaves out {len(loading.unread)} of {tensors} tensors without an error, first {first}: "
            + "; ".join(list(reasons)[:SHOWN])
        )
    if loading.strength != (1.0,):
        return (
            f"loads all of it, but applies {_figures(loading.strength)} times what was trained, as it reads "
            "no alpha of a header"
        )
    return "loads every tensor"
