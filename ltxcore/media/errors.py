"""What is wrong with a clip, in words for the person who owns it, and what is not the clip's fault."""

from __future__ import annotations

import errno

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
    """Bad media. Its text is the reason that the user is shown, without the file's name in front."""


class Undecided(MediaError):
    """The programme or the machine failed, which says nothing of the file: never to be remembered."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; {AGAIN}")


class ToolMissing(RuntimeError):
    """A programme without which no file can be judged is not installed."""

    def __init__(self, tool: str) -> None:
        super().__init__(
            f"{tool} is not installed or not on the PATH. Install it with `make install`, "
            "`sudo apt-get install ffmpeg` (Debian, Ubuntu), `brew install ffmpeg` (macOS) or from "
            "https://ffmpeg.org/download.html, and run again"
        )


def cannot_be_read(error: OSError) -> MediaError:
    """The reason for a file that the system does not give; only some errors are verdicts on the file.

    Raises:
        OSError: `error` itself, where this process or the machine is out of files or memory: the next file
            would fare no better.
    """
    if error.errno in _NO_RESOURCES:
        raise error
    reason = f"cannot be read: {error.strerror or error}"
    return MediaError(reason) if error.errno in _OF_THE_FILE else Undecided(reason)
