"""The workspace: the places of everything that a pipeline makes, and its snapshots."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from ltxcore.config.base import Strict
from ltxcore.store.blobs import (
    Blobs,
    DamagedFile,
    SecretInAddress,
    read_json,
    read_model,
    require_no_secret,
    store_place,
    write_json,
)
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.locks import exclusive, in_use
from ltxcore.store.snapshot import Snapshot

LATEST = "latest"
NEWEST_FILE = "newest.json"
logger = logging.getLogger(__name__)


class StoreUnknown(ValueError):
    """`store.json` cannot be read, so the place of the store is unknown."""


class UnknownSnapshot(LookupError):
    """A snapshot id that the workspace does not hold."""


class Named(Strict):
    """The content of `workspace.json` and of the pointer to the latest snapshot."""

    id: str


class NewestRun(Strict):
    """The pointer to the newest run."""

    run: str


class Workspace:
    """Paths in one workspace. Nothing is created before it is written to."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self.store_file = self.root / "store.json"
        self.models = self.root / "models"
        self.snapshots = self.root / "snapshots"
        self.stages = self.root / "stages"
        self.runs = self.root / "runs"
        self.champions = self.root / "champions"
        self.prefect = self.root / "prefect"
        self.mlflow = self.root / "mlflow"
        self.logs = self.root / "logs"

    @property
    def exists(self) -> bool:
        """Whether anything was ever made here; a folder with something else in it is no workspace."""
        parts = (self.store_file, self.snapshots, self.stages, self.runs, self.prefect, self.mlflow)
        return any(part.exists() for part in (self.root / "store", *parts))

    @property
    def store_url(self) -> str:
        """Where latents, features, waveforms and what is known of files are kept: a directory or a URL.

        It is `store` in the workspace, unless `store.json` names another place, which workspaces may share.

        Raises:
            StoreUnknown: `store.json` is damaged, or its address holds a secret.
        """
        if not self.store_file.exists():
            return str(self.root / "store")
        try:
            url = str(read_json(self.store_file)["url"])
            require_no_secret(url)
            return url
        except SecretInAddress as error:
            raise StoreUnknown(f"{self.store_file}: {error}") from None
        except (DamagedFile, KeyError, TypeError) as error:
            raise StoreUnknown(
                f"{self.store_file} does not say where the store is; `ltx2 use-store URL` writes it again"
            ) from error

    def use_store(self, url: str) -> None:
        """Keep the store at a directory or at a URL that fsspec knows; what is stored already stays there."""
        write_json(self.store_file, {"url": store_place(url)})

    @property
    def store(self) -> Blobs:
        """The store of `store_url`."""
        return Blobs(self.store_url)

    @property
    def id(self) -> str:
        """The id that distinguishes this workspace from others that share its store, and from copies of
        itself."""
        file = self.root / "workspace.json"
        if not file.exists():
            write_json(file, Named(id=secrets.token_hex(8)).model_dump())
        return fingerprint([read_model(file, Named).id, str(self.root)])[:12]

    def run(self, pipeline_run: str) -> Path:
        """The folder of one run of the pipeline.

        Raises:
            ValueError: the name is no plain word, so that it could leave the workspace.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", pipeline_run):
            raise ValueError(f"pipeline_run {pipeline_run!r} may hold letters, digits, `.`, `_` and `-` only")
        return self.runs / pipeline_run

    @property
    def newest_run(self) -> str | None:
        """The name of the run that was begun last; None where there is none.

        Raises:
            DamagedFile: the file that names it does not.
        """
        file = self.runs / NEWEST_FILE
        return read_model(file, NewestRun).run if file.exists() else None

    def note_newest_run(self, run: Path) -> None:
        """Note that a run is begun."""
        write_json(self.runs / NEWEST_FILE, NewestRun(run=run.name).model_dump())

    def log_of(self, run: Path) -> Path:
        """The log of a run that was started in a terminal."""
        return self.logs / f"run-{run.name}.log"

    def run_lock(self, run: Path) -> Path:
        """The lock file that exists while a run goes on."""
        return run / "lock"

    @property
    def sweep_lock(self) -> Path:
        """The lock file of whoever takes away what no run needs."""
        return self.root / "sweep.lock"

    @contextmanager
    def going_on(self, run: Path) -> Iterator[None]:
        """Say that a run is going on while the body runs; a sweep that is at work ends first.

        So no sweep takes away what a run that began meanwhile has found to be there.
        """
        with ExitStack() as held:
            with exclusive(self.sweep_lock, f"the start of run {run.name}", on_wait=_say_waiting):
                held.enter_context(in_use(self.run_lock(run)))
            yield

    def relative(self, path: Path) -> str:
        """A path as it stands in stamps and manifests, so that a workspace can be moved."""
        return path.resolve().relative_to(self.root).as_posix()

    @property
    def latest_file(self) -> Path:
        """The file with the pointer to the latest snapshot."""
        return self.snapshots / "latest.json"

    def snapshot_files(self) -> list[Path]:
        """The file of every snapshot, in the order of their ids."""
        return sorted(file for file in self.snapshots.glob("*.json") if file != self.latest_file)

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Publish a snapshot and make it the latest."""
        write_json(self._snapshot_file(snapshot.id), snapshot.model_dump(mode="json"))
        write_json(self.latest_file, Named(id=snapshot.id).model_dump())

    def snapshot_made(self, snapshot_id: str) -> datetime | None:
        """When a snapshot was written last, in local time; None where it is not kept."""
        file = self._snapshot_file(snapshot_id)
        return datetime.fromtimestamp(file.stat().st_mtime).astimezone() if file.exists() else None

    def load_snapshot(self, snapshot_id: str = LATEST) -> Snapshot:
        """A snapshot by id, or the latest.

        Raises:
            UnknownSnapshot: there is none of that id, or none at all.
            DamagedFile: it is not what was written.
        """
        wanted = snapshot_id
        if snapshot_id == LATEST:
            if not self.latest_file.exists():
                raise UnknownSnapshot(f"{self.root} holds no snapshot yet; the stage probe-media makes one")
            wanted = read_model(self.latest_file, Named).id
        if not re.fullmatch(r"[0-9a-f]{16}", wanted) or not self._snapshot_file(wanted).exists():
            raise UnknownSnapshot(
                f"{self.root} holds no snapshot {wanted!r}; the stage probe-media makes them, "
                "and `latest` names the newest"
            )
        return read_snapshot(self._snapshot_file(wanted))

    def _snapshot_file(self, snapshot_id: str) -> Path:
        return self.snapshots / f"{snapshot_id}.json"


def read_snapshot(file: Path) -> Snapshot:
    """A snapshot from its file, whose name is the hash of its content.

    Raises:
        DamagedFile: it is not what was written.
        FileNotFoundError: there is none.
    """
    data = read_json(file)
    # Of what is in the file, not of the model: a later version may have fields that this one has not.
    content = (
        {name: value for name, value in data.items() if name != "roots"} if isinstance(data, dict) else data
    )
    if fingerprint(content)[:16] != file.stem:
        raise DamagedFile(file, "its content is not that of its name")
    try:
        return Snapshot.model_validate(data)
    except ValidationError as error:
        raise DamagedFile(file, error) from error


def _say_waiting(holder: str) -> None:
    logger.info("Waiting for %s", holder)
