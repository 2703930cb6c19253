"""An object store in a folder: a PUT is there whole or not at all, and fails before or after it was done."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from bench.faults.injector import Active
from ltxcore.store.blobs import Blobs

BUCKET = "bucket"


class ObjectStore(DirFileSystem):
    """Files of a folder as objects. It is no local disk to who asks for its class."""

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        """Put an object; with mode `create` only where there is none.

        Raises:
            FileExistsError: there is one.
        """
        counted = Active.calls
        if counted is not None:
            counted.enter("put", self._join(path))
        target = Path(self._join(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.path, prefix="put-") as whole:
            whole.write(value)
            whole.flush()
            if mode == "create":
                os.link(whole.name, target)
            else:
                os.link(whole.name, f"{whole.name}.new")
                Path(f"{whole.name}.new").replace(target)
        if counted is not None:
            counted.leave("put", self._join(path))

    def rm(self, path: Any, *rest: Any, **more: Any) -> None:
        """Delete objects; one that is not there is no error."""
        counted = Active.calls
        for name in [path] if isinstance(path, str) else path:
            if counted is not None:
                counted.enter("delete", self._join(name))
            Path(self._join(name)).unlink(missing_ok=True)
            if counted is not None:
                counted.leave("delete", self._join(name))


def object_store(root: Path) -> Blobs:
    """The blobs of a bucket in a folder."""
    root.mkdir(parents=True, exist_ok=True)
    blobs = Blobs(root)
    blobs.fs, blobs.root = ObjectStore(path=str(root), fs=LocalFileSystem(), skip_instance_cache=True), BUCKET
    return blobs
