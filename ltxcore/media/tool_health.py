"""Checks that ffmpeg and ffprobe work: their errors count only if they can read a known good clip.

The clip is generated and encoded without loss, so decoding must return the same values. It uses FFV1 and PCM,
which every build has.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from threading import Lock
from typing import Final

from ltxcore.media.errors import ToolMissing, ToolSick
from ltxcore.store.fingerprint import FileIdentity

WIDTH, HEIGHT, FRAMES = 16, 16, 2
FRAME_BYTES: Final = WIDTH * HEIGHT * 4
TIMEOUT_S = 60.0
_QUIET = ("-hide_banner", "-nostdin", "-v", "error")
_found_healthy: set[tuple[FileIdentity, ...]] = set()
_one_at_a_time = Lock()


def require_healthy_tools() -> None:
    """Check that ffmpeg and ffprobe can read a known good clip; once, until they are replaced.

    Raises:
        ToolSick: they cannot, so their errors say nothing about a file.
        ToolMissing: one is not installed.
        OSError: no process can be started.
    """
    with _one_at_a_time:
        installed = tuple(FileIdentity.of(_place(tool)) for tool in ("ffmpeg", "ffprobe"))
        if installed not in _found_healthy:
            with tempfile.TemporaryDirectory(prefix="ltx2-health-") as folder:
                _try(Path(folder))
            _found_healthy.add(installed)


def _place(tool: str) -> Path:
    found = shutil.which(tool)
    if found is None:
        raise ToolMissing(tool)
    return Path(found)


def _try(folder: Path) -> None:
    raw, clip = folder / "raw", folder / "clip.mkv"
    frames = bytes(n * 7 % 256 if n % 4 < 3 else 255 for n in range(FRAMES * FRAME_BYTES))
    raw.write_bytes(frames)
    pictures = ("-f", "rawvideo", "-pix_fmt", "bgra", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", str(raw))
    sound = ("-f", "s16le", "-ar", "16000", "-ac", "1", "-i", str(raw))
    codecs = ("-c:v", "ffv1", "-pix_fmt", "bgra", "-c:a", "pcm_s16le")
    _said(["ffmpeg", *_QUIET, *pictures, *sound, *codecs, str(clip)])
    shown = _said(["ffmpeg", *_QUIET, "-i", str(clip), "-map", "0:v", "-f", "rawvideo", "pipe:1"])
    heard = _said(["ffmpeg", *_QUIET, "-i", str(clip), "-map", "0:a", "-f", "s16le", "pipe:1"])
    for what, found in (("pictures", shown), ("sound", heard)):
        if found != frames:
            raise ToolSick("ffmpeg", f"the {what} of a clip that it made itself come back changed")
    listed = _said(
        ["ffprobe", "-v", "error", "-show_entries", "stream=codec_type", "-of", "csv=p=0", str(clip)]
    )
    if listed.split() != [b"video", b"audio"]:
        raise ToolSick("ffprobe", f"it lists {listed[:80]!r} in a clip with pictures and sound")


def _said(command: list[str]) -> bytes:
    """What a command writes to its output.

    Raises:
        ToolSick: it fails.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolSick(command[0], f"it does not finish a tiny clip within {TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2] or "nothing"
        raise ToolSick(command[0], f"it fails on a clip of its own (exit status {done.returncode}): {words}")
    return done.stdout
