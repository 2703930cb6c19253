"""Errors of clips, in words for their owner, and errors that are not the clip's fault."""

from __future__ import annotations

import errno
from pathlib import Path

from ltxcore.store.printable import printable

_NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS}
_OF_THE_FILE = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EILSEQ,
    errno.ENXIO,
}
AGAIN = "it is tried again on the next run"


class MediaError(Exception):
    """Bad media. Its text is the reason shown to the user, without the file's name.

    Names and tools' words in it are a stranger's: it is made printable, on one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason))


class Undecided(MediaError):
    """The program or the machine failed, so the file may be good; this result is never stored."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; {AGAIN}")


class FolderGone(Undecided):
    """A folder that the file is in is not there: moved, or on a disk that is not mounted."""

    def __init__(self, folder: Path) -> None:
        MediaError.__init__(self, f"the folder {folder} is gone")


class ToolMissing(RuntimeError):
    """A program that is needed to read files is not installed."""

    def __init__(self, tool: str) -> None:
        super().__init__(
            f"{tool} is not installed or not on the PATH. Install it with `make install`, "
            "`sudo apt-get install ffmpeg` (Debian, Ubuntu), `brew install ffmpeg` (macOS) or from "
            "https://ffmpeg.org/download.html, and run again"
        )


class ToolSick(RuntimeError):
    """A program fails on files that are known to be good, so its errors say nothing about other files."""

    def __init__(self, tool: str, what: str) -> None:
        super().__init__(
            printable(
                f"{tool} does not work on this machine: {what}. No file was rejected for it. See which one "
                f"is run (`command -v {tool}`) and what it says (`{tool} -version`), reinstall it, run again"
            )
        )


def cannot_be_read(error: OSError) -> MediaError:
    """The reason why the system cannot read a file; only some errors are the file's fault.

    Raises:
        OSError: `error` itself, where this process or the machine is out of files or memory: the next file
            would fare no better.
    """
    if error.errno in _NO_RESOURCES:
        raise error
    reason = f"cannot be read: {error.strerror or error}"
    return MediaError(reason) if error.errno in _OF_THE_FILE else Undecided(reason)
