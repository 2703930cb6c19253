"""Running ffmpeg and ffprobe on files that nobody vouches for: no shell, no network, no endless wait."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import ffmpeg

from ltxcore.media.errors import ToolMissing, Undecided

CONTAINERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,mxf,gif,wav,mp3,flac,aac,aiff"
"""Demuxers that a file may choose by its content. Playlists (hls, concat) are not among them: they would
make ffmpeg open what a stranger wrote into the file."""

READ_OPTIONS: dict[str, Any] = {
    "protocol_whitelist": "file",
    "format_whitelist": CONTAINERS,
    # AVI and MPEG leave out presentation times that follow from the decoding order.
    "fflags": "+genpts",
}
PROBE_TIMEOUT_S = 120.0
_ADDRESS = re.compile(r"\s*@ 0x[0-9a-f]+")
_NO_RESOURCES = re.compile(
    rb"Cannot allocate memory|Too many open files|Resource temporarily unavailable|No space left on device"
)
_STOPPED_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGXCPU}


MOST_AT_ONCE = 8


def processes_at_once() -> int:
    """How many ffmpegs to run side by side: one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(2, min(MOST_AT_ONCE, cores))


def file_url(path: Path) -> str:
    """The file for ffmpeg's command line: so that `-x.mp4` is no option and `a:b.mp4` no protocol."""
    return f"file:{path}"


def open_input(path: Path, **options: Any) -> Any:
    """An ffmpeg-python input of one local file."""
    return ffmpeg.input(file_url(path), **READ_OPTIONS, **options)


def run_tool(arguments: list[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run ffmpeg or ffprobe to its end and return its output, whatever its exit status.

    Raises:
        Undecided: it took longer than `timeout_s` and was killed, or it was killed by someone else, or it
            failed for want of memory or files.
        ToolMissing: the programme is not installed.
        OSError: no process can be started.
    """
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise Undecided(f"{arguments[0]} did not finish within {timeout_s:g} s and was stopped") from None
    except FileNotFoundError:
        raise ToolMissing(arguments[0]) from None
    check_not_stopped(arguments[0], done.returncode, done.stderr)
    return done


def check_not_stopped(tool: str, status: int, said: bytes) -> None:
    """Tell a programme that failed because of its file from one that failed because of the machine.

    Raises:
        Undecided: it was killed, or says that it got no memory, file or room on the disk.
    """
    if status in _STOPPED_FROM_OUTSIDE:
        raise Undecided(f"{tool} was killed (signal {-status}), perhaps for want of memory")
    if status != 0 and (lack := _NO_RESOURCES.search(said)) is not None:
        raise Undecided(f"{tool} failed: {lack[0].decode()}")


def ffprobe(path: Path, *arguments: str) -> tuple[int, bytes, bytes]:
    """Exit status, output and messages of ffprobe on one file.

    Raises:
        Undecided: it took longer than `PROBE_TIMEOUT_S`, or was stopped.
        ToolMissing: it is not installed.
    """
    # ffmpeg.probe has no timeout, and always lists every field of every stream.
    options = [text for key, value in READ_OPTIONS.items() for text in (f"-{key}", str(value))]
    done = run_tool(["ffprobe", "-v", "error", *options, *arguments, file_url(path)], PROBE_TIMEOUT_S)
    return done.returncode, done.stdout, done.stderr


def last_words(stderr: bytes | str, path: Path) -> str:
    """The end of what ffmpeg wrote, on one line, without memory addresses and the file's name."""
    text = stderr if isinstance(stderr, str) else stderr.decode("utf-8", "replace")
    text = _ADDRESS.sub("", text.replace(f"{file_url(path)}: ", ""))
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    return "; ".join(lines[-3:]) or "nothing"
