"""Runs ffmpeg and ffprobe on untrusted files: no shell, no network, no endless wait."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import ffmpeg

from ltxcore.config.dataset_kinds import MOST_MEGAPIXELS_READ
from ltxcore.media.errors import MediaError, ToolMissing, Undecided
from ltxcore.media.tool_health import require_healthy_tools

CONTAINERS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,mxf,gif,wav,mp3,flac,aac,aiff"
"""Demuxers that a file may choose by its content. Playlists (hls, concat) are not among them: they would
make ffmpeg open what a stranger wrote into the file."""

FFMPEG = ["ffmpeg", "-nostdin", "-nostats", "-filter_threads", "1", "-filter_complex_threads", "1"]
"""One thread, like the decoders of `open_input`: files are worked on side by side instead."""

READ_OPTIONS: dict[str, Any] = {
    "protocol_whitelist": "file",
    "format_whitelist": CONTAINERS,
    # AVI and MPEG leave out presentation times that follow from the decoding order.
    "fflags": "+genpts",
}
MOST_PIXELS = int(MOST_MEGAPIXELS_READ * 1_000_000)
"""Pictures in a file that are larger are not decoded, whatever they are there for: opening a file decodes the
first picture of each track, covers too, and one of a few KB may unfold into gigabytes."""
_CODED_MORE = 128
"""Pixels by which the coded picture may be wider and higher than the one that is shown."""
MOST_LISTED_BYTES = 256 << 20
"""Of ffprobe's listing: a hundred hours of video. A few MB can be made to list gigabytes."""
PROBE_TIMEOUT_S = 120.0
_ADDRESS = re.compile(r"\s*@ 0x[0-9a-f]+")
_NO_RESOURCES = re.compile(
    rb"Cannot allocate memory|Too many open files|Resource temporarily unavailable|No space left on device"
)
_CANNOT_BE_RUN = {126, 127}
"""What a shell and the loader end with: no right to run it, not found, a library that it needs is gone."""


MOST_AT_ONCE = 8


def processes_at_once() -> int:
    """How many ffmpegs to run side by side: one for each core that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
    return max(2, min(MOST_AT_ONCE, cores))


def file_url(path: Path) -> str:
    """The file for ffmpeg's command line: so that `-x.mp4` is no option and `a:b.mp4` no protocol."""
    return f"file:{path}"


def most_pixels_of(width: int, height: int) -> int:
    """The limit under which a picture of that size is decoded, and covers beside it as always."""
    return max(MOST_PIXELS, (width + _CODED_MORE) * (height + _CODED_MORE))


def open_input(path: Path, most_pixels: int = MOST_PIXELS, **options: Any) -> Any:
    """An ffmpeg-python input of one local file, decoded in one thread.

    With frame threads a decoder would hold back as many frames more, which a damaged end would swallow.

    Args:
        most_pixels: larger pictures in it are not decoded.
    """
    return ffmpeg.input(file_url(path), threads=1, **READ_OPTIONS, max_pixels=most_pixels, **options)


def run_tool(
    arguments: list[str], timeout_s: float, most_bytes: int | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ffmpeg or ffprobe to its end and return its output, whatever its exit status.

    Args:
        most_bytes: it is stopped when its output is longer.

    Raises:
        MediaError: its output is longer than `most_bytes`.
        Undecided: it took longer than `timeout_s` and was killed, or it was killed by someone else, or it
            failed because it had too little memory or too few files.
        ToolMissing: the programme is not installed.
        ToolSick: it works with no file.
        OSError: no process can be started.
    """
    try:
        done = _run(arguments, timeout_s, most_bytes)
    except subprocess.TimeoutExpired:
        raise Undecided(f"{arguments[0]} did not finish within {timeout_s:g} s and was stopped") from None
    except FileNotFoundError:
        raise ToolMissing(arguments[0]) from None
    check_not_stopped(arguments[0], done.returncode, done.stderr)
    return done


def _run(
    arguments: list[str], timeout_s: float, most_bytes: int | None
) -> subprocess.CompletedProcess[bytes]:
    if most_bytes is None:
        return subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False
        )
    started = subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with started as process, ThreadPoolExecutor(2) as readers:
        pipes = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
        read = [readers.submit(_read_most, pipe, most_bytes, process) for pipe in pipes]
        try:
            process.wait(timeout_s)
        finally:
            process.kill()
        out, said = (reader.result() for reader in read)
    return subprocess.CompletedProcess(arguments, process.returncode, out, said)


def _read_most(pipe: IO[bytes], most_bytes: int, process: subprocess.Popen[bytes]) -> bytes:
    """All that a process writes; one that writes more than `most_bytes` is killed.

    Raises:
        MediaError: it wrote more.
    """
    read = pipe.read(most_bytes + 1)
    if len(read) > most_bytes:
        process.kill()
        raise MediaError(f"lists more than {most_bytes >> 20} MiB of frames or faults; cut it into clips")
    return read


def check_not_stopped(tool: str, status: int, said: bytes) -> None:
    """Raise unless a failure of ffmpeg is the file's fault.

    Raises:
        Undecided: it died of a signal, could not be run, failed without a word, or says that it got no
            memory, file or room on the disk.
        ToolSick: it fails on files that are known to be good, too.
    """
    if status == -signal.SIGKILL:
        raise Undecided(f"{tool} was killed (signal 9), perhaps because memory ran out")
    if status < 0:
        raise Undecided(f"{tool} died of signal {-status}")
    if status in _CANNOT_BE_RUN:
        last_line = said.decode("utf-8", "replace").strip().rpartition("\n")[2] or "no word"
        raise Undecided(f"{tool} cannot be run (exit status {status}): {last_line}")
    if status != 0 and not said.strip():
        raise Undecided(f"{tool} ended with status {status} and no message")
    if status != 0 and (lack := _NO_RESOURCES.search(said)) is not None:
        raise Undecided(f"{tool} failed: {lack[0].decode()}")
    if status != 0:
        require_healthy_tools()


def ffprobe(path: Path, *arguments: str, most_pixels: int = MOST_PIXELS) -> tuple[int, bytes, bytes]:
    """Exit status, output and messages of ffprobe on one file.

    Args:
        most_pixels: larger pictures in it are not decoded.

    Raises:
        MediaError: it lists more than `MOST_LISTED_BYTES`.
        Undecided: it took longer than `PROBE_TIMEOUT_S`, or was stopped.
        ToolMissing: it is not installed.
    """
    # ffmpeg.probe has no timeout, and always lists every field of every stream.
    given = {**READ_OPTIONS, "max_pixels": most_pixels}
    options = [text for key, value in given.items() for text in (f"-{key}", str(value))]
    command = ["ffprobe", "-v", "error", *options, *arguments, file_url(path)]
    done = run_tool(command, PROBE_TIMEOUT_S, MOST_LISTED_BYTES)
    return done.returncode, done.stdout, done.stderr


def last_words(stderr: bytes | str, path: Path) -> str:
    """The end of what ffmpeg wrote, on one line, without memory addresses and the file's name."""
    text = stderr if isinstance(stderr, str) else stderr.decode("utf-8", "replace")
    text = _ADDRESS.sub("", text.replace(f"{file_url(path)}: ", ""))
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    return "; ".join(lines[-3:]) or "nothing"
