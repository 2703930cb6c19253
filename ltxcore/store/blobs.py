"""Bytes under a root, on a local disk or any fsspec URL, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem
from pydantic import BaseModel, ValidationError

TEMPORARY = ".tmp"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A disk takes several flushes at once, and its journal writes them down together.
FLUSHES_AT_ONCE = 8
# From so many names in one folder on, one listing is cheaper than a question for each.
LIST_FROM = 16


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HALF_A_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
Data = bytes | memoryview
Model = TypeVar("Model", bound=BaseModel)


def is_url(place: str) -> bool:
    """Whether a place is a URL, and not a path on this machine."""
    return _URL.match(place) is not None


def require_no_secret(place: str) -> None:
    """Refuse an address that contains a secret, because it would appear in files, logs and messages.

    Raises:
        SecretInAddress: it names a user or password, or has options; neither is repeated.
    """
    if not is_url(place):
        return
    parts = urlsplit(place)
    if "@" in parts.netloc or parts.query:
        plain = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise SecretInAddress(
            f"the address of a store holds no user, key or option: write {plain} and give the credentials "
            "where fsspec looks for them, for S3 in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in a "
            "profile of ~/.aws, and its server in AWS_ENDPOINT_URL"
        )


def store_place(named: str) -> str:
    """The place of a store, as somebody names it: a URL as it is, a path in full.

    Raises:
        SecretInAddress: it is a URL that holds a secret.
        NoPlace: it begins like an address without being one. What it holds is not repeated.
    """
    require_no_secret(named)
    if is_url(named):
        return named
    if (begun := _HALF_A_URL.match(named)) is not None:
        raise NoPlace(
            f"what begins with {begun[0]} is no address of a store; write one like s3://bucket/prefix, "
            "or ./ before the name of a folder"
        )
    return str(Path(named).expanduser().resolve())


class NoPlace(ValueError):
    """Neither an address nor a path."""


class SecretInAddress(ValueError):
    """An address of a store that holds credentials."""


class OutsideRoot(ValueError):
    """A name that would leave the root."""


class DamagedFile(ValueError):
    """A file of the workspace is damaged."""

    def __init__(self, path: Path, what: object) -> None:
        super().__init__(f"{path} is damaged: {what}; delete it, and the next run writes it again")


class DiskFull(OSError):
    """The disk is full; nothing is left under the file's name."""


@dataclass(frozen=True)
class Entry:
    """Size and age of a file in a listing."""

    size_bytes: int
    modified_s: float


class Blobs:
    """Named byte strings under one root.

    A write is visible whole or not at all: on a local disk by a temporary file, fsync and rename; on an
    object store because a PUT is atomic.
    """

    def __init__(self, root: str | Path) -> None:
        self.url = str(root)
        if is_url(self.url):
            # What another process has just written must be seen, so listings are never remembered.
            self.fs, self.root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        else:
            # Not for fsspec to parse: `a::b`, `a?b` and `%41` are names of directories, too.
            self.fs, self.root = LocalFileSystem(), str(Path(root).absolute())

    @property
    def local(self) -> Path | None:
        """The root as a local path, or None where it is remote."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """The full path of a name.

        Raises:
            OutsideRoot: the name is absolute or climbs out of the root.
        """
        parts = name.split("/")
        if name.startswith("/") or ".." in parts:
            raise OutsideRoot(f"{name!r} is not a name inside {self.url}")
        return f"{self.root}/{name}"

    def write(self, name: str, data: Data) -> None:
        """Publish `data` under `name`, replacing what was there.

        Raises:
            DiskFull: there is no room; nothing is left under `name` then.
            OSError: the place cannot be written.
        """
        if self.local is None:
            self.fs.pipe_file(self.path(name), bytes(data))
            return
        write_atomic(Path(self.path(name)), data)

    def create(self, name: str, data: Data) -> None:
        """Publish `data` under a name that is free: of several who try at once, one succeeds.

        Raises:
            FileExistsError: the name is taken, by other bytes than these.
            DiskFull, OSError: as `write`.
        """
        try:
            if self.local is not None:
                _write_local(Path(self.path(name)), data, _link)
            else:
                self.fs.pipe_file(self.path(name), bytes(data), mode="create")
        except OSError:
            # An answer that got lost makes the client ask again, and it then meets its own file.
            if not self.exists(name) or self.read(name) != data:
                raise

    def write_all(self, files: Mapping[str, Data], *, replace: bool = True) -> None:
        """Publish many files; after a crash each is there whole or not at all, and on the disk at return.

        Args:
            replace: whether a name that is taken is overwritten, or is an error as in `create`.
        """
        if self.local is None:
            one = self.write if replace else self.create
            with ThreadPoolExecutor(FLUSHES_AT_ONCE) as pool:
                list(pool.map(one, files, files.values()))
            return
        paths = {Path(self.path(name)): data for name, data in files.items()}
        for folder in {path.parent for path in paths}:
            make_directory(folder)
        made: list[Path] = []

        def put(path: Path) -> None:
            _put_in_place(path, paths[path], _replace if replace else _link)
            made.append(path)

        try:
            with ThreadPoolExecutor(FLUSHES_AT_ONCE) as pool:
                list(pool.map(put, paths))
        except BaseException:
            if not replace:
                # They are of no use without the others, and take room where that is what is missing.
                for path in made:
                    path.unlink(missing_ok=True)
            raise
        for folder in {path.parent for path in paths}:
            sync_directory(folder)

    def read(self, name: str) -> bytes:
        """The bytes of `name`; FileNotFoundError where there are none."""
        if self.local is not None:
            return Path(self.path(name)).read_bytes()
        data: bytes = self.fs.cat_file(self.path(name))
        return data

    def read_all(self, names: Collection[str]) -> dict[str, bytes]:
        """The bytes of many names, at once where that is faster; FileNotFoundError if any is not there."""
        if self.local is not None or not names:
            return {name: self.read(name) for name in names}
        found = self.fs.cat([self.path(name) for name in names])
        if isinstance(found, bytes):
            return {next(iter(names)): found}
        return {name: found[self.path(name)] for name in names}

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        if self.local is not None:
            return os.path.exists(self.path(name))  # noqa: PTH110 - three times as fast, for each sample
        return bool(self.fs.exists(self.path(name)))

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """The bytes of each of the names that is there, asking folder by folder where many are in one."""
        folders: dict[str, set[str]] = {}
        for name in names:
            folders.setdefault(name.rpartition("/")[0], set()).add(name)
        found: dict[str, int] = {}
        for folder, inside in folders.items():
            if len(inside) >= LIST_FROM:
                listed = self._listed(folder)
                found |= {name: listed[name] for name in listed.keys() & inside}
            else:
                asked = {name: self._size(name) for name in inside}
                found |= {name: size for name, size in asked.items() if size is not None}
        return found

    def _size(self, name: str) -> int | None:
        """The bytes of a file, None where there is none."""
        try:
            if self.local is not None:
                return os.stat(self.path(name)).st_size  # noqa: PTH116 - three times as fast, for each sample
            return int(self.fs.info(self.path(name))["size"] or 0)
        except FileNotFoundError:
            return None

    def _listed(self, folder: str) -> dict[str, int]:
        """The bytes of each file directly in a folder; none where there is no such folder."""
        if self.local is None:
            return {name: entry.size_bytes for name, entry in self._entries(folder).items()}
        try:
            with os.scandir(self.path(folder)) as entries:
                return {f"{folder}/{e.name}": e.stat().st_size for e in entries if e.is_file()}
        except FileNotFoundError:
            return {}

    def list(self, folder: str) -> list[str]:
        """Names of the files directly in a folder, sorted; none where there is no such folder."""
        if self.local is None:
            return sorted(self._entries(folder))
        try:
            with os.scandir(self.path(folder)) as entries:
                return sorted(f"{folder}/{e.name}" for e in entries if e.is_file())
        except FileNotFoundError:
            return []

    def walk(self, folder: str) -> dict[str, Entry]:
        """Every file below a folder, with its size and age."""
        if self.local is None:
            found = self.fs.find(self.path(folder), detail=True)
            return {self._name(path): _entry(info) for path, info in found.items() if info["type"] == "file"}
        return {self._name(str(path)): entry for path, entry in walk_files(Path(self.path(folder)))}

    def delete(self, names: Collection[str]) -> None:
        """Remove files; one that is gone already is no error."""
        if self.local is not None:
            for name in names:
                Path(self.path(name)).unlink(missing_ok=True)
        elif names:
            self.fs.rm([self.path(name) for name in names])

    def _entries(self, folder: str) -> dict[str, Entry]:
        try:
            entries = self.fs.ls(self.path(folder), detail=True, refresh=True)
        except FileNotFoundError:
            return {}
        return {self._name(e["name"]): _entry(e) for e in entries if e["type"] == "file"}

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self.root}/")


def _entry(info: dict[str, Any]) -> Entry:
    modified = info.get("LastModified", info.get("mtime", info.get("created")))
    age = modified.timestamp() if isinstance(modified, datetime) else float(modified or time.time())
    return Entry(int(info["size"] or 0), age)


def walk_files(folder: Path) -> Iterator[tuple[Path, Entry]]:
    """Every file below a local folder; none where there is no such folder."""
    for directory, _, names in os.walk(folder):
        for name in names:
            path = Path(directory) / name
            try:
                info = path.lstat()
            except FileNotFoundError:
                continue  # Another process has finished with it between the listing and the look.
            yield path, Entry(info.st_size, info.st_mtime)


def write_atomic(path: Path, data: Data) -> None:
    """Write a local file by way of a temporary one beside it, fsync and rename.

    Raises:
        DiskFull: there is no room; the file is as it was.
    """
    _write_local(path, data, _replace)


def _write_local(path: Path, data: Data, publish: Callable[[Path, Path], None]) -> None:
    make_directory(path.parent)
    _put_in_place(path, data, publish)
    sync_directory(path.parent)


def _put_in_place(path: Path, data: Data, publish: Callable[[Path, Path], None]) -> None:
    with _with_advice_if_full(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=TEMPORARY)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            publish(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _replace(temporary: Path, path: Path) -> None:
    temporary.replace(path)


def _link(temporary: Path, path: Path) -> None:
    """Publish under a name that must be free; of several writers the filesystem lets one succeed."""
    os.link(temporary, path)
    temporary.unlink()


@contextmanager
def _with_advice_if_full(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        advice = "free some space (`ltx2 gc` shows what can go) and run again; what was committed stays"
        raise DiskFull(error.errno, f"{error.strerror}: {advice}", str(path)) from error


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, so that they survive a power cut."""
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for folder in reversed(missing):
        with _with_advice_if_full(folder):
            folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


def write_json(path: Path, data: Any) -> None:
    """Write plain data as readable JSON, atomically."""
    write_atomic(path, (json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Plain data from a JSON file.

    Raises:
        DamagedFile: it is no JSON.
        FileNotFoundError: there is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DamagedFile(path, error) from error


def read_model(path: Path, model: type[Model]) -> Model:
    """A model from a JSON file.

    Raises:
        DamagedFile: the file does not hold one.
        FileNotFoundError: there is none.
    """
    data = read_json(path)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise DamagedFile(path, error) from error


def sync_directory(directory: Path) -> None:
    """Make a rename in a directory survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
