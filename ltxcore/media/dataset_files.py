"""The only way to open files of a dataset: plain files, inside its directory, up to a size.

Somebody else may have filled the directory. A caption that is a link to a token would end in a gallery and in
a public model card, and a pipe would be waited for without end.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from ltxcore.media.errors import MediaError, Undecided, cannot_be_read

KIB = 1024
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
LINKS = "put the file itself there, or write `follow_links: true` for the dataset"


class Bounds(NamedTuple):
    """The directories in which a dataset's files may be opened."""

    root: Path
    follow_links: bool = False
    """Whether links may lead anywhere."""
    others: tuple[Path, ...] = ()
    """The directories of the job's other datasets: links may lead into these, too."""

    def home_of(self, real: Path) -> Path | None:
        """Which of the datasets' directories holds a path without links; None where none does."""
        return next((top for top in self._tops() if real.is_relative_to(top)), None)

    def _tops(self) -> Iterator[Path]:
        return (root.resolve() for root in (self.root, *self.others))


def check_inside(path: Path, bounds: Bounds) -> None:
    """Refuse what is no plain file, and links that lead out of the datasets. Nothing is read.

    A link to nothing passes: whoever opens it says so.

    Raises:
        MediaError: what `path` is instead.
        Undecided: the disk or its server failed.
    """
    try:
        mode = path.stat().st_mode
        real = path.resolve()
        if not bounds.follow_links and bounds.home_of(real) is None:
            raise MediaError(f"is a link out of the datasets' directories; {LINKS}")
    except FileNotFoundError:
        return
    except (OSError, RuntimeError) as error:
        raise _unread(error) from error
    if stat.S_ISDIR(mode):
        raise MediaError("is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise MediaError("is not a regular file")


@contextmanager
def open_inside(path: Path, bounds: Bounds) -> Iterator[IO[bytes]]:
    """A plain file inside the datasets, opened so that no link can be put in its way meanwhile.

    Raises:
        FileNotFoundError: it is not there.
        MediaError: it is no plain file, or leads out of the datasets.
        Undecided: the disk or its server failed, or the way to it changed meanwhile.
    """
    check_inside(path, bounds)
    try:
        handle = os.open(path, _FLAGS) if bounds.follow_links else _open_beneath(path, bounds)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:
        raise _unread(error) from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise MediaError("is not a regular file")
        yield file


def read_inside(path: Path, bounds: Bounds, most_bytes: int, key: str = "") -> bytes:
    """The content of a small file, as `open_inside`.

    Args:
        key: the dataset's key for the limit, where there is one.

    Raises:
        MediaError: it is larger than `most_bytes`; of a larger file nothing is read.
    """
    try:
        with open_inside(path, bounds) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > most_bytes else file.read(most_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unread(error) from error
    if max(size, len(content)) > most_bytes:
        raised = f"; shorten it, or raise `{key}`" if key else ""
        raise MediaError(f"is too large: {size} bytes, and {most_bytes} are the most that is read{raised}")
    return content


def _open_beneath(path: Path, bounds: Bounds) -> int:
    """Walk from the root to the file's real place without following any link: a swapped one is an error."""
    real = path.resolve(strict=True)
    top = bounds.home_of(real)
    if top is None:
        raise Undecided("changed while it was being opened")
    *folders, name = real.relative_to(top).parts
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = inner
        return os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=here)
    finally:
        os.close(here)


def _unread(error: OSError | RuntimeError) -> MediaError:
    if isinstance(error, OSError):
        return cannot_be_read(error)
    # What Path.resolve raises where links came to lead in a circle after `stat`.
    return Undecided("changed while it was being opened")
