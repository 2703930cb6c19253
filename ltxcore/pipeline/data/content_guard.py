"""Reading the files of a snapshot: what is read is the content that probe-media saw, or nothing is learnt.

A result is stored under the content's key, for ever and for every workspace on the store. So before and after
each read the file must be the one that was probed; and an error is a verdict only of a file that is there,
whole and unchanged. Everything else may pass: the stage ends incomplete, names the file, and the next run
tries it again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ltxcore.media.errors import FolderGone, MediaError, Undecided
from ltxcore.media.tool_health import require_healthy_tools
from ltxcore.pipeline.base.context import Context
from ltxcore.store.fingerprint import FileIdentity, fingerprint, hash_file
from ltxcore.store.index import Index
from ltxcore.store.records import FILES

T = TypeVar("T")


def memo_key(root: str, name: str) -> str:
    """Under what is remembered which content a file of a dataset has."""
    return fingerprint({"root": root, "name": name})[:40]


class ContentGuard:
    """Reads files of the context's snapshot; one is hashed again only where it moved since it was probed."""

    def __init__(self, ctx: Context) -> None:
        self._roots = ctx.snapshot.roots
        self._known = Index(ctx.store, "media/files", FILES)
        self._seen: dict[Path, tuple[FileIdentity, str]] = {}

    def read(self, dataset: str, name: str, media_id: str, decode: Callable[[Path], T]) -> T | MediaError:
        """What `decode` makes of a file, or why it makes nothing.

        Args:
            dataset: id of the dataset that holds the file.
            name: its path inside the dataset.
            media_id: sha256 of the content that is wanted.

        Returns:
            The result; `Undecided` where the file is not there, is another one or was changed meanwhile, or
            the machine failed; any other `MediaError` is a verdict on the content.

        Raises:
            ToolSick: ffmpeg or ffprobe fails on files that are known to be good, too.
            ToolMissing: one is not installed.
        """
        path = Path(self._roots[dataset]) / name
        try:
            before = FileIdentity.of(path)
            if self._content(path, dataset, name, before) != media_id:
                return Undecided("holds another content than probe-media saw: it was replaced since")
            result: T | MediaError
            try:
                result = decode(path)
            except MediaError as error:
                result = error
                if not isinstance(error, Undecided):
                    # A verdict needs tools that work, also where they ended well and wrote nothing, and a
                    # file that can be read to its end and is what it was.
                    require_healthy_tools()
                    self._seen.pop(path, None)
                    if hash_file(path) != media_id:
                        return Undecided(f"was changed while it was read ({error})")
            if FileIdentity.of(path) != before:
                return Undecided("was changed while it was read")
        except FileNotFoundError as error:
            folder = _missing_folder(path)
            if folder is not None:
                return FolderGone(folder)
            return Undecided(f"cannot be read now: {error.strerror or error}")
        except OSError as error:
            return Undecided(f"cannot be read now: {error.strerror or error}")
        return result

    def _content(self, path: Path, dataset: str, name: str, identity: FileIdentity) -> str:
        """sha256 of a file, remembered for as long as its identity is the same."""
        seen = self._seen.get(path)
        if seen is None:
            known = self._known.get(memo_key(self._roots[dataset], name))
            seen = None if known is None else (known.identity, known.media_id)
        if seen is None or seen[0] != identity:
            seen = identity, hash_file(path)
        self._seen[path] = seen
        return seen[1]


def _missing_folder(file: Path) -> Path | None:
    """The topmost folder above a file that is not there; None where only the file is gone."""
    return next((folder for folder in reversed(file.parents) if not folder.exists()), None)
