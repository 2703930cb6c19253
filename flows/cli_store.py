"""`ltx2 explain`, `gc`, `compact`, `verify` and `use-store`: looking after what the pipeline has stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from flows.cli_options import (
    STORE_FAULTS,
    DatasetsOption,
    RecipeOption,
    WorkspaceOption,
    read_recipe,
    refuse,
)
from ltxcore.config.errors import ConfigError
from ltxcore.memory.plan import GIB
from ltxcore.models.errors import ModelError
from ltxcore.stages import sweep
from ltxcore.stages.context import Context
from ltxcore.stages.explain import ClipReport, UnknownClip, explain_clip, explain_stages
from ltxcore.store.blobs import Blobs
from ltxcore.store.compact import Compacted
from ltxcore.store.compact import compact as compact_part
from ltxcore.store.index import Overtaken, damaged, mend
from ltxcore.store.lease import NotExclusive, writing
from ltxcore.store.verify import Verified, forget_broken
from ltxcore.store.verify import verify as verify_store
from ltxcore.store.workspace import LATEST, UnknownSnapshot, Workspace

console = Console(highlight=False, soft_wrap=True)


SHOWN = 40
PARTS = ("media", "audio", "text", "latents")


def explain(
    clip: Annotated[str, typer.Argument(help="A clip's id or path. Without it: every stage.")] = "",
    workspace: WorkspaceOption = Path("workspace"),
    datasets: DatasetsOption = Path("datasets.yaml"),
    recipe: RecipeOption = None,
    snapshot: Annotated[str, typer.Option(help="Id of a snapshot, or `latest`.")] = LATEST,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with what went into each key.")] = False,
) -> None:
    """Say of a clip whether it is in and why, what would be computed again and why, and who saw it."""
    with _refusals():
        chosen = read_recipe(recipe)
        ctx = Context(Workspace(workspace), chosen, datasets, snapshot)
        if clip:
            report = explain_clip(ctx, clip)
            console.print_json(json.dumps(report.as_json())) if as_json else _print_clip(report)
            return
        for stage in explain_stages(ctx):
            _say(f"{stage.stage}: {stage.state}" + (f": {stage.why[0]}" if stage.why else ""))
            for line in stage.why[1:]:
                _say(f"    {line}")


def _print_clip(report: ClipReport) -> None:
    _say(f"{report.clip}  ({report.file})")
    _say(f"  {report.verdict}" + (f": {report.reason}" if report.reason else ""))
    for track in report.tracks:
        _say(f"  {track.what}: {track.state}, key {track.key.value}")
        inputs = {name: str(value)[:64] for name, value in track.key.inputs.items()}
        _say(f"      made of {json.dumps(inputs, ensure_ascii=False)}")
    for title, lines in (
        ("a run now would do", report.work or ["nothing"]),
        ("snapshots that name it", report.snapshots or ["none"]),
        ("runs that saw it", report.runs or ["none"]),
    ):
        _say(f"  {title}:")
        for line in lines:
            _say(f"      {line}")


def gc(
    workspace: WorkspaceOption = Path("workspace"),
    days: Annotated[float, typer.Option(min=0, help="What is younger is kept.")] = 30.0,
    apply: Annotated[
        bool, typer.Option("--apply", help="Do it. Without this, only say what would go.")
    ] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="Pin a run: now and later, keep all it needs.")
    ] = None,
    release: Annotated[list[str] | None, typer.Option(help="A run to pin no longer.")] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="Id of a workspace that shares the store and is no more.")
    ] = None,
) -> None:
    """Take away what no kept run, snapshot or stage needs, and what killed processes left. First shows it."""
    space = Workspace(workspace)
    with _refusals():
        for run in keep or ():
            sweep.pin(space, run)
        for run in release or ():
            sweep.pin(space, run, keep=False)
        if apply:
            found = sweep.apply(space, days, forget or (), _say_waiting)
        else:
            found = sweep.plan(space, days, forget or ())
    _print_sweep(found, space, "removed" if apply else "would remove")
    if not apply and not found.nothing:
        _say("nothing was changed; `--apply` does it")


def _print_sweep(found: sweep.Sweep, space: Workspace, verb: str) -> None:
    for title, paths in (
        ("run", found.runs),
        ("stage directory", found.stages),
        ("snapshot", found.snapshots),
        ("leftover", found.temporary),
    ):
        for path in paths[:SHOWN]:
            _say(f"{verb} {title} {path.relative_to(space.root)}")
        if len(paths) > SHOWN:
            _say(f"{verb} {len(paths) - SHOWN} more of these")
    if found.refs or found.remote_temporary:
        _say(f"{verb} {len(found.refs)} references, {len(found.remote_temporary)} leftovers of the store")
    for part in found.parts:
        _say(
            f"{part.part}: {verb} {len(part.keys)} samples that nothing needs and {len(part.unnamed)} files; "
            f"{part.kept} samples kept"
        )
    for owner, place in found.others.items():
        _say(f"kept what workspace {place} needs ({owner}; `--forget {owner}` if it is no more)")
    _say(f"{verb} {found.bytes / GIB:.3f} GiB in all")


def compact(workspace: WorkspaceOption = Path("workspace")) -> None:
    """Merge the store's index segments and small files, and close the holes in its arrays."""
    done = Compacted()
    space = Workspace(workspace)
    with _refusals():
        for part in PARTS:
            with writing(space.store, part, f"compact of {space.root}", on_wait=_say_waiting):
                compact_part(space.store, part, done)
    _say(
        f"{done.segments} index segments merged, {done.moved} latents moved into holes, "
        f"{done.text_files} text files rewritten, {done.trimmed} unnamed files removed"
    )


def verify(
    workspace: WorkspaceOption = Path("workspace"),
    repair: Annotated[
        bool, typer.Option(help="Mark what is broken as missing: the next run makes it.")
    ] = False,
) -> None:
    """Hold every index and committed sample against its checksums. Exit status 1 where one is broken."""
    space = Workspace(workspace)
    with _refusals():
        if not _indexes_whole(space, repair):
            raise typer.Exit(1)
        with console.status("reading every committed sample"):
            found = verify_store(space.store)
        _print_broken(found, space)
        if repair:
            for part in sorted({broken.part for broken in found.broken}):
                with writing(space.store, part, f"verify of {space.root}", on_wait=_say_waiting):
                    marked = forget_broken(space.store, part, found.broken)
                _say(f"{part}: {marked} marked as missing; the next run makes them again")
    raise typer.Exit(1 if found.broken and not repair else 0)


def _indexes_whole(space: Workspace, repair: bool) -> bool:
    """Name the segments that are damaged and, to repair, keep what is whole of them."""
    found = {part: damaged(space.store, part) for part in PARTS}
    for part, segments in found.items():
        for name, segment in segments.items():
            _say(f"{name} is not what was written; {len(segment.records)} records of it are whole")
        if segments and repair:
            with writing(space.store, part, f"verify of {space.root}", on_wait=_say_waiting):
                _say(f"{part}: {mend(space.store, part)} segments written with what is whole of them")
    if repair or not any(found.values()):
        return True
    _say("`--repair` keeps what is whole, and the next run makes the rest again")
    return False


def _print_broken(found: Verified, space: Workspace) -> None:
    clips: dict[str, str] = {}
    if found.broken:
        try:
            clips = {sample.media_id: sample.id for sample in space.load_snapshot().samples}
        except UnknownSnapshot:
            _say("there is no snapshot to name the clips by")
    for broken in found.broken:
        clip = clips.get(str(broken.inputs.get("media")), broken.inputs.get("kind", broken.part))
        _say(f"{broken.part} {broken.key} of {clip}: {broken.file} {broken.fault}")
    _say(f"{found.checked} samples checked, {len(found.broken)} broken")


def use_store(
    url: Annotated[str, typer.Argument(help="A directory, or a URL such as s3://bucket/prefix.")],
    workspace: WorkspaceOption = Path("workspace"),
) -> None:
    """Keep this workspace's store somewhere else: on S3, or where other workspaces share it."""
    space = Workspace(workspace)
    # Taking a lock shows that it can be reached and written, and that it keeps writers apart.
    with _refusals(), writing(Blobs(url), "refs", f"use-store of {space.root}", wait_s=120):
        space.use_store(url)
    _say(f"{space.root} keeps its store at {space.store_url}; what was stored before stays where it is")


@contextmanager
def _refusals() -> Iterator[None]:
    """Say what cannot be done, without a traceback."""
    try:
        yield
    except (
        ConfigError,
        ModelError,
        NotExclusive,
        Overtaken,
        UnknownClip,
        sweep.UnknownRun,
        OSError,
        ImportError,
        *STORE_FAULTS,
    ) as error:
        raise refuse(error) from None


def _say_waiting(holder: str) -> None:
    _say(f"waiting for {holder}")


def _say(text: str) -> None:
    console.print(text, markup=False)
