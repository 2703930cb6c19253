"""Running ffmpeg and ffprobe on files that nobody vouches for: no shell, no network, no endless wait."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import ffmpeg

from ltxcore.media.errors import MediaError

CONTAINERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,mxf,gif,wav,mp3,flac,aac"
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


def file_url(path: Path) -> str:
    """The file for ffmpeg's command line: so that `-x.mp4` is no option and `a:b.mp4` no protocol."""
    return f"file:{path}"


def open_input(path: Path, **options: Any) -> Any:
    """An ffmpeg-python input of one local file."""
    return ffmpeg.input(file_url(path), **READ_OPTIONS, **options)


def run_tool(arguments: list[str], timeout_s: float) -> subprocess.CompletedProcess[bytes]:
    """Run ffmpeg or ffprobe to its end and return its output, whatever its exit status.

    Raises:
        MediaError: it took longer than `timeout_s` and was killed, or the programme is not installed.
    """
    try:
        return subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise MediaError(f"{arguments[0]} did not finish within {timeout_s:g} s and was stopped") from None
    except FileNotFoundError:
        raise MediaError(f"{arguments[0]} is not installed or not on the PATH") from None


def ffprobe(path: Path, *arguments: str) -> tuple[int, bytes, bytes]:
    """Exit status, output and messages of ffprobe on one file.

    Raises:
        MediaError: it took longer than `PROBE_TIMEOUT_S`.
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
