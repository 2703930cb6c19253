"""The workspace: where everything is that a pipeline makes, and the snapshots in it."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from ltxcore.store.blobs import Blobs, DamagedFile, read_json, read_model, write_json
from ltxcore.store.fingerprint import fingerprint
from ltxcore.store.snapshot import Snapshot

LATEST = "latest"


class StoreUnknown(ValueError):
    """The file that names the store cannot be read."""


class UnknownSnapshot(LookupError):
    """A snapshot id that the workspace does not hold."""


class Workspace:
    """Paths in one workspace. Nothing is created before it is written to."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self.store_file = self.root / "store.json"
        self.models = self.root / "models"
        self.snapshots = self.root / "snapshots"
        self.stages = self.root / "stages"
        self.runs = self.root / "runs"
        self.prefect = self.root / "prefect"
        self.mlflow = self.root / "mlflow"
        self.logs = self.root / "logs"

    @property
    def store_url(self) -> str:
        """Where latents, features, waveforms and what is known of files are kept: a directory or a URL.

        `store` in the workspace, unless `store.json` names another place, which several workspaces may share.
        """
        if not self.store_file.exists():
            return str(self.root / "store")
        try:
            return str(read_json(self.store_file)["url"])
        except (DamagedFile, KeyError, TypeError) as error:
            raise StoreUnknown(
                f"{self.store_file} does not say where the store is; `ltx2 use-store URL` writes it again"
            ) from error

    def use_store(self, url: str) -> None:
        """Keep the store at a directory or at a URL that fsspec knows; what is stored already stays there."""
        write_json(self.store_file, {"url": url if "://" in url else str(Path(url).expanduser().resolve())})

    @property
    def store(self) -> Blobs:
        return Blobs(self.store_url)

    @property
    def id(self) -> str:
        """What tells this workspace from others that share its store, also from a copy of it elsewhere."""
        file = self.root / "workspace.json"
        if not file.exists():
            write_json(file, {"id": secrets.token_hex(8)})
        return fingerprint([read_json(file)["id"], str(self.root)])[:12]

    def run(self, pipeline_run: str) -> Path:
        """The folder of one run of the pipeline.

        Raises:
            ValueError: the name is no plain word, so that it could leave the workspace.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", pipeline_run):
            raise ValueError(f"pipeline_run {pipeline_run!r} may hold letters, digits, `.`, `_` and `-` only")
        return self.runs / pipeline_run

    def run_lock(self, run: Path) -> Path:
        """The lock file that says that a run is going on."""
        return run / "lock"

    def relative(self, path: Path) -> str:
        """A path as it stands in stamps and manifests, so that a workspace can be moved."""
        return path.resolve().relative_to(self.root).as_posix()

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Publish a snapshot and make it the latest."""
        write_json(self._snapshot_file(snapshot.id), snapshot.model_dump(mode="json"))
        write_json(self.snapshots / "latest.json", {"id": snapshot.id})

    def load_snapshot(self, snapshot_id: str = LATEST) -> Snapshot:
        """A snapshot by id, or the latest.

        Raises:
            UnknownSnapshot: there is none of that id, or none at all.
            DamagedFile: it is not what was written.
        """
        wanted = snapshot_id
        if snapshot_id == LATEST:
            pointer = self.snapshots / "latest.json"
            if not pointer.exists():
                raise UnknownSnapshot(f"{self.root} holds no snapshot yet; the stage probe-media makes one")
            wanted = read_json(pointer)["id"]
        if not re.fullmatch(r"[0-9a-f]{16}", wanted) or not self._snapshot_file(wanted).exists():
            raise UnknownSnapshot(
                f"{self.root} holds no snapshot {wanted!r}; the stage probe-media makes them, "
                "and `latest` names the newest"
            )
        return read_model(self._snapshot_file(wanted), Snapshot)

    def _snapshot_file(self, snapshot_id: str) -> Path:
        return self.snapshots / f"{snapshot_id}.json"
