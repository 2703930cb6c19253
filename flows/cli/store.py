"""`ltx2 gc`, `compact`, `verify` and `use-store`: looking after what the pipeline has stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows.cli.options import (
    STORE_FAULTS,
    JsonOption,
    NoWorkspace,
    WorkspaceOption,
    existing_workspace,
    refuse,
    show_json,
)
from flows.tables import say
from ltxcore.config.errors import ConfigError
from ltxcore.execution import sweep
from ltxcore.jobs.checks.output_damage import check_outputs, set_aside
from ltxcore.jobs.explain.explain import UnknownClip
from ltxcore.jobs.explain.lift_quarantine import lift_quarantine
from ltxcore.memory.plan import GIB
from ltxcore.models.errors import ModelError
from ltxcore.models.files.damage import check_models
from ltxcore.models.files.damage import set_aside as set_model_aside
from ltxcore.pipeline.base.context import context_here
from ltxcore.store.blobs import Blobs, NoPlace, SecretInAddress, store_place
from ltxcore.store.compact import Compacted
from ltxcore.store.compact import compact as compact_part
from ltxcore.store.file_hashes import GONE
from ltxcore.store.index import Overtaken, damaged, mend
from ltxcore.store.lease import NotExclusive, writing
from ltxcore.store.verify import Verified, forget_broken
from ltxcore.store.verify import verify as verify_store
from ltxcore.store.workspace import UnknownSnapshot, Workspace

console = Console(highlight=False)


SHOWN = 40
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
CREDENTIALS_ADVICE = (
    "for S3 set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_ENDPOINT_URL for another server), or "
    "run `aws configure`"
)
PARTS = ("media", "audio", "text", "latents")


def gc(
    workspace: WorkspaceOption = Path("workspace"),
    days: Annotated[
        float, typer.Option(min=0, help="Keep everything younger than this number of days.")
    ] = 30.0,
    apply: Annotated[
        bool, typer.Option("--apply", help="Delete. Without this, only show what would be deleted.")
    ] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="Pin a run: keep everything that it needs, until --release.")
    ] = None,
    release: Annotated[list[str] | None, typer.Option(help="A run that is no longer pinned.")] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="Id of a workspace that shared the store and no longer exists.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show, or with --apply delete, what no kept run, snapshot or stage needs, and what killed processes
    left."""
    with _refusals():
        space = existing_workspace(workspace)
        for run in keep or ():
            sweep.pin(space, run)
        for run in release or ():
            sweep.pin(space, run, keep=False)
        if apply:
            found = sweep.apply(space, days, forget or (), _say_waiting)
        else:
            found = sweep.plan(space, days, forget or ())
    if as_json:
        show_json(_sweep_json(found, space, applied=apply))
        return
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
        _say(f"kept what workspace {place} needs ({owner}; `--forget {owner}` if it no longer exists)")
    _say(f"{verb} {found.bytes / GIB:.3f} GiB in all")


def _sweep_json(found: sweep.Sweep, space: Workspace, *, applied: bool) -> dict[str, Any]:
    paths = {
        "runs": found.runs,
        "stages": found.stages,
        "snapshots": found.snapshots,
        "leftovers": found.temporary,
    }
    return {
        "applied": applied,
        **{name: [str(path.relative_to(space.root)) for path in listed] for name, listed in paths.items()},
        "parts": [
            {"part": p.part, "samples": len(p.keys), "files": len(p.unnamed), "kept": p.kept}
            for p in found.parts
        ],
        "bytes": found.bytes,
    }


def compact(workspace: WorkspaceOption = Path("workspace"), as_json: JsonOption = False) -> None:
    """Merge the store's index segments and small files, and remove files that no record names."""
    done = Compacted()
    with _refusals():
        space = existing_workspace(workspace)
        for part in PARTS:
            with writing(space.store, part, f"compact of {space.root}", on_wait=_say_waiting):
                compact_part(space.store, part, done)
    if as_json:
        show_json(asdict(done))
        return
    _say(
        f"{done.segments} index segments merged, "
        f"{done.text_files} text files rewritten, {done.trimmed} unnamed files removed"
    )


def verify(
    workspace: WorkspaceOption = Path("workspace"),
    repair: Annotated[
        bool, typer.Option(help="Set damaged files aside or mark them; the next run makes them again.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; changes nothing.")] = False,
) -> None:
    """Check stages' files, model files, every index and every sample; exits with 1 if any is damaged."""
    with _refusals():
        space = existing_workspace(workspace)
        if as_json:
            looked = _verify_json(space)
            show_json(looked)
            raise typer.Exit(0 if looked["whole"] else 1)
        outputs_whole = _outputs_whole(space, repair) & _models_whole(space, repair)
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
    raise typer.Exit(0 if outputs_whole and (repair or not found.broken) else 1)


def _verify_json(space: Workspace) -> dict[str, Any]:
    """All that is damaged, with nothing repaired."""
    outputs, models = check_outputs(space), check_models(space.models)
    segments = [name for part in PARTS for name in damaged(space.store, part)]
    samples = None if segments else verify_store(space.store)
    broken = () if samples is None else samples.broken
    return {
        "whole": not (outputs.damaged or models.faults or segments or broken),
        "outputs": {
            "checked": outputs.checked,
            "damaged": [
                {"file": str(found.fault.file.relative_to(space.root)), "fault": found.fault.fault}
                for found in outputs.damaged
            ],
            "at_work": [str(path.relative_to(space.root)) for path in outputs.at_work],
        },
        "models": {"checked": models.checked, "damaged": [str(fault) for fault in models.faults]},
        "indexes": {"damaged": segments},
        "samples": {
            "checked": None if samples is None else samples.checked,
            "broken": [asdict(found) for found in broken],
        },
    }


def _outputs_whole(space: Workspace, repair: bool) -> bool:
    """Print the damaged files of stages and, to repair, set them aside. Whether nothing is left to do."""
    with console.status("reading every file that a stage left"):
        found = check_outputs(space)
    for damage in found.damaged:
        _say(f"{damage.fault.file.relative_to(space.root)} {damage.fault.fault}")
    for directory in found.at_work:
        _say(f"{directory.relative_to(space.root)} is being written and was not checked")
    _say(f"{found.checked} outputs of stages checked, {len(found.damaged)} files damaged")
    if not found.damaged:
        return True
    if not repair:
        _say("`--repair` sets aside what is damaged, and the next run makes it again")
        return False
    moved = set_aside(space, found.damaged)
    for before, now in moved.items():
        _say(f"{before.relative_to(space.root)} is now {now.name}; the next run makes it again")
    left = [damage for damage in found.damaged if damage.whole not in moved and damage.fault.fault != GONE]
    for damage in left:
        _say(f"{damage.whole.relative_to(space.root)} stays where it is: it is in use, or cannot be read")
    return not left


def _models_whole(space: Workspace, repair: bool) -> bool:
    """Print the damaged model files and, to repair, set aside those that can be made again."""
    with console.status("reading every model file"):
        found = check_models(space.models)
    left = 0
    for fault in found.faults:
        _say(str(fault))
        aside = set_model_aside(space.models, fault) if repair else None
        if aside is not None:
            _say(f"{fault.file} is now {aside.name} and is made again when it is needed")
        else:
            left += 1
            _say("`--repair` sets aside what can be made again; delete and download other model files again")
    _say(f"{found.checked} model files checked, {len(found.faults)} damaged")
    return not left


def _indexes_whole(space: Workspace, repair: bool) -> bool:
    """Print the damaged index segments and, to repair, keep their intact records."""
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
    """Use another place for this workspace's store: S3, or a directory that other workspaces share."""
    space = Workspace(workspace)
    # Taking a lock shows that it can be reached and written, and that it keeps writers apart.
    with _refusals(), told_of_credentials(url):
        place = store_place(url)
        with writing(Blobs(place), "refs", f"use-store of {space.root}", wait_s=120):
            space.use_store(place)
    _say(f"{space.root} keeps its store at {space.store_url}; what was stored before stays where it is")


def retry(
    clip: Annotated[str, typer.Argument(help="A clip's id, path or file name.")] = "",
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Every quarantined clip.")] = False,
    workspace: WorkspaceOption = Path("workspace"),
    as_json: JsonOption = False,
) -> None:
    """Lift the quarantine of a clip, or of all: the next run tries to decode them again."""
    with _refusals():
        if bool(clip) == quarantined:
            raise UnknownClip("name one clip, or write --quarantined for all of them")
        ctx = context_here(existing_workspace(workspace))
        lifted = lift_quarantine(ctx, None if quarantined else clip, _say_waiting)
    if as_json:
        show_json(lifted)
        return
    for name in lifted:
        _say(f"{name}: the next run tries it again")
    if not lifted:
        _say("nothing is quarantined")


@contextmanager
def _refusals() -> Iterator[None]:
    """Say what cannot be done, without a traceback."""
    try:
        yield
    except (
        ConfigError,
        ModelError,
        NoPlace,
        NoWorkspace,
        NotExclusive,
        Overtaken,
        SecretInAddress,
        UnknownClip,
        sweep.UnknownRun,
        OSError,
        ImportError,
        *STORE_FAULTS,
    ) as error:
        raise refuse(error) from None


@contextmanager
def told_of_credentials(url: str) -> Iterator[None]:
    """Say in a sentence that a place wants credentials, whichever library finds them missing.

    Raises:
        PermissionError: there are none, or the place refuses them.
    """
    try:
        yield
    except Exception as error:
        # Of botocore, gcsfs and adlfs, none of which need be installed.
        if type(error).__name__ not in NO_CREDENTIALS:
            raise
        message = f"{url} wants credentials, and there are none here; {CREDENTIALS_ADVICE}"
        raise PermissionError(message) from None


def _say_waiting(holder: str) -> None:
    _say(f"waiting for {holder}")


def _say(text: str) -> None:
    say(console, text)
