"""The frames of a sample, as pixels."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ltxcore.media.errors import MediaError, ToolMissing, Undecided
from ltxcore.media.ffmpeg_process import check_not_stopped, last_words, open_input
from ltxcore.media.probe import VideoStream, read_streams
from ltxcore.store.snapshot import FramePlan, Geometry

DECODE_TIMEOUT_S = 600.0
STDERR_KEPT_BYTES = 64 << 10
SCALER = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
FIRST_HD_HEIGHT = 720
# -xerror and explode: a fault is an error, never a grey frame. One thread: a decoder with frame threads
# holds back as many frames more, which a damaged end would swallow; decode clips side by side instead.
STRICT = ["ffmpeg", "-nostdin", "-nostats", "-v", "error", "-xerror"]
STRICT_INPUT = {"copyts": None, "threads": 1, "err_detect": "explode"}


def decode_frames(path: Path, plan: FramePlan, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Decode the frames of a plan, turned upright, resampled and cut: uint8 RGB `[F, H, W, 3]`.

    Frames are found by their timestamps, which are listed again from the file, so a decoder that leaves
    frames out cannot shift the others. Held in memory: the wanted frames and nothing else.

    Raises:
        MediaError: the file no longer fits the plan, a frame that is needed does not decode (with what
            ffmpeg said and how many did).
        Undecided: decoding takes longer than `DECODE_TIMEOUT_S`, or ffmpeg was stopped.
        ToolMissing: ffmpeg is not installed.
    """
    stream = read_streams(path).video
    times = stream.timestamps()
    if max(plan.indices) >= len(times) or (stream.width, stream.height) != geometry.source:
        raise MediaError(
            f"is no longer the file that was probed: {len(times)} frames of {stream.width}x{stream.height}, "
            f"but frame {max(plan.indices)} of {geometry.source[0]}x{geometry.source[1]} is needed"
        )
    wanted = sorted(set(plan.indices))
    width, height = geometry.target
    frames = np.empty((plan.count, height, width, 3), np.uint8)
    command = _command(path, stream, [times[index] for index in wanted], geometry)
    with _reading(command) as running:
        for number, index in enumerate(wanted):
            first, *repeats = np.flatnonzero(np.equal(plan.indices, index))
            if not _fill(running.stdout, frames[first]):
                said = running.last_said()
                raise MediaError(
                    f"does not decode: {number} of the {len(wanted)} frames needed are readable; "
                    f"ffmpeg says: {last_words(said, path)}"
                )
            frames[repeats] = frames[first]
    return frames


def _command(path: Path, stream: VideoStream, times: list[int], geometry: Geometry) -> list[str]:
    source = open_input(path, **STRICT_INPUT)[str(stream.index)]
    once = "(isnan(prev_selected_pts)+gt(pts,prev_selected_pts))"
    chosen = source.filter("select", f"{once}*{_is_one_of(_even_runs(times))}")
    scaled = chosen.filter("scale", *geometry.resize, flags=SCALER, **_colour_matrix(stream))
    cut = scaled.filter("format", "rgb24").filter("crop", *geometry.target, *geometry.crop_xy)
    options = {"format": "rawvideo", "fps_mode": "passthrough", "frames:v": len(times)}
    command: list[str] = cut.output("pipe:1", **options).compile(cmd=STRICT)
    return command


def _even_runs(times: list[int]) -> list[tuple[int, int, int]]:
    """Rising times as (first, last, step): a clip of constant rate is one run, however long it is."""
    runs: list[tuple[int, int, int]] = []
    for time in times:
        if runs:
            first, last, step = runs[-1]
            if first == last or time - last == step:
                runs[-1] = (first, time, time - last)
                continue
        runs.append((time, time, 1))
    return runs


def _is_one_of(runs: list[tuple[int, int, int]]) -> str:
    """An expression that is 1 at the runs' times: a search tree, since ffmpeg takes 100 levels at most."""
    if len(runs) > 1:
        middle = len(runs) // 2
        before, after = _is_one_of(runs[:middle]), _is_one_of(runs[middle:])
        return f"if(gte(pts,{runs[middle][0]}),{after},{before})"
    first, last, step = runs[0]
    if first == last:
        return f"eq(pts,{first})"
    return f"between(pts,{first},{last})*not(mod(pts-({first}),{step}))"


def _colour_matrix(stream: VideoStream) -> dict[str, Any]:
    """HD pictures that do not name their matrix are BT.709 in practice; swscale would take BT.601."""
    unnamed = stream.colour_space in (None, "unknown")
    return {"in_color_matrix": "bt709"} if unnamed and min(stream.stored) >= FIRST_HD_HEIGHT else {}


def _fill(pipe: IO[bytes], frame: npt.NDArray[np.uint8]) -> bool:
    """Read one whole frame; False when the output ends before it does."""
    view = frame.reshape(-1).data
    at = 0
    while at < len(view):
        read = pipe.readinto(view[at:])  # type: ignore[attr-defined]
        if not read:
            return False
        at += read
    return True


class _Running:
    """A started ffmpeg, with its stderr drained by a thread so that it cannot block on a full pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        if process.stdout is None or process.stderr is None:
            raise ValueError("the process must have pipes")
        self._process = process
        self._timed_out = False
        self.stdout: IO[bytes] = process.stdout
        self._said = bytearray()
        self._drain = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._drain.start()

    def _read(self, pipe: IO[bytes]) -> None:
        while piece := pipe.read1(4096):  # type: ignore[attr-defined]
            self._said += piece
            del self._said[:-STDERR_KEPT_BYTES]

    def time_out(self) -> None:
        """Kill it, and remember why."""
        self._timed_out = True
        self._process.kill()

    def last_said(self) -> bytes:
        """What it said, after it has ended its output too early because of the file.

        Raises:
            Undecided: it ended because it was stopped, here or by the system.
        """
        if self._timed_out:
            raise Undecided(f"ffmpeg did not finish within {DECODE_TIMEOUT_S:g} s and was stopped")
        self._drain.join(timeout=10)
        said = bytes(self._said)
        check_not_stopped("ffmpeg", self._process.wait(timeout=10), said)
        return said


@contextmanager
def _reading(command: list[str]) -> Iterator[_Running]:
    """ffmpeg for as long as the block lasts: killed when the block ends early, or after the timeout."""
    try:
        started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError:
        raise ToolMissing(command[0]) from None
    with started as process:
        running = _Running(process)
        alarm = threading.Timer(DECODE_TIMEOUT_S, running.time_out)
        alarm.daemon = True
        alarm.start()
        try:
            yield running
        finally:
            alarm.cancel()
            process.kill()
