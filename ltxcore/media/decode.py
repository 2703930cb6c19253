"""The frames of a sample, as pixels."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from ltxcore.media.avi import numbered_input
from ltxcore.media.clocks import keep_clock
from ltxcore.media.colour import matrix_of, to_screen
from ltxcore.media.errors import MediaError, ToolMissing, Undecided
from ltxcore.media.ffmpeg_process import FFMPEG, MOST_PIXELS, check_not_stopped, last_words, open_input
from ltxcore.media.interlacing import deinterlaced
from ltxcore.media.probe import MediaProbe, VideoStream, read_streams
from ltxcore.media.transparency import alpha_decoder, on_white
from ltxcore.media.wanted import MEGA, Wanted
from ltxcore.store.snapshot import FrameSelection, Geometry

DECODE_TIMEOUT_S = 600.0
STDERR_KEPT_BYTES = 64 << 10
SCALER = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"
QUIET = [*FFMPEG, "-v", "error"]
# -xerror and explode: a fault is an error, never a grey frame.
STRICT = [*QUIET, "-xerror"]
STRICT_INPUT = {"err_detect": "explode"}


def decode_frames(path: Path, plan: FrameSelection, geometry: Geometry) -> npt.NDArray[np.uint8]:
    """Decode the frames of a plan, turned upright, resampled and cut: uint8 RGB `[F, H, W, 3]`.

    Frames are found by their timestamps, so a decoder that leaves frames out cannot shift the others. Held
    in memory: the wanted frames and nothing else. Faults anywhere before the last wanted frame have the
    decoder asked which frames they damage; only where a wanted one is among them is it an error.

    Raises:
        MediaError: the file no longer fits the plan, a frame that is needed does not decode (with what
            ffmpeg said and how many did).
        Undecided: decoding takes longer than `DECODE_TIMEOUT_S`, or ffmpeg was stopped.
        ToolMissing: ffmpeg is not installed.
    """
    wanted = _as_large(geometry)
    found = read_streams(path, decoded=not plan.times, track=plan.track, wanted=wanted)
    if (found.video.width, found.video.height) != geometry.source:
        # Of a stream that changes its size only the decoder knows that of the frames used.
        found = read_streams(path, track=plan.track, wanted=wanted)
    times = _times(found.video, plan, geometry)
    shown = sorted(set(times))
    width, height = geometry.target
    pictures = np.empty((len(shown), height, width, 3), np.uint8)
    number, said = _read(_command(path, found, plan, shown, geometry, strict=True), pictures)
    if number < len(shown):
        video = read_streams(path, track=plan.track, wanted=wanted).video
        hurt = _hurt(video, shown)
        readable, words = number, said
        if not hurt:
            readable, words = _read(_command(path, found, plan, shown, geometry, strict=False), pictures)
        if readable < len(shown):
            raise MediaError(
                f"does not decode: {readable} of the {len(shown)} frames needed are readable; "
                f"ffmpeg says: {video.damage or last_words(words or said, path)}"
            )
    return pictures[np.searchsorted(shown, times)]


def _as_large(geometry: Geometry) -> Wanted:
    """Pictures of the size that was probed, whose own limit was kept then; pixels may be twice as wide."""
    width, height = geometry.source
    return Wanted(max_megapixels=max(MOST_PIXELS, 2 * width * height) / MEGA)


def _times(video: VideoStream, plan: FrameSelection, geometry: Geometry) -> tuple[int, ...]:
    """When each frame of a plan is shown, in ticks.

    Raises:
        MediaError: the file has no such frames.
    """
    same = (video.width, video.height) == geometry.source
    if plan.times and same:
        return plan.times
    known = video.timestamps()
    if max(plan.indices) >= len(known) or not same:
        raise MediaError(
            f"is no longer the file that was probed: {len(known)} frames of {video.width}x{video.height}, "
            f"but frame {max(plan.indices)} of {geometry.source[0]}x{geometry.source[1]} is needed"
        )
    return tuple(known[index] for index in plan.indices)


def _hurt(video: VideoStream, shown: list[int]) -> set[int]:
    """Those times whose frames are damaged according to the decoder."""
    known = video.timestamps()
    bad = {known[index] for first, count in video.damaged for index in range(first, first + count)}
    return set(shown) - (set(known) - bad)


def _read(command: list[str], pictures: npt.NDArray[np.uint8]) -> tuple[int, bytes]:
    """Read a command's output into pictures; returns how many it filled, and ffmpeg's message if not all."""
    with _reading(command) as running:
        for number, picture in enumerate(pictures):
            if not _fill(running.stdout, picture):
                return number, running.last_said()
    return len(pictures), b""


def _command(
    path: Path, found: MediaProbe, plan: FrameSelection, times: list[int], geometry: Geometry, strict: bool
) -> list[str]:
    stream = found.video
    options = {**(STRICT_INPUT if strict else {}), **keep_clock(found.container)}
    options |= alpha_decoder(stream.codec, plan.on_white)
    if stream.numbered:
        options |= numbered_input(stream.time_base)
    pictures = open_input(path, stream.most_pixels, **options)[str(stream.index)]
    if plan.deinterlaced:
        order = None if plan.deinterlaced is True else plan.deinterlaced
        pictures = deinterlaced(pictures, stream.time_base, order)
    once = "(isnan(prev_selected_pts)+gt(pts,prev_selected_pts))"
    pictures = pictures.filter("select", f"{once}*{_is_one_of(_even_runs(times))}")
    colours = stream.colours
    matrix, converted = matrix_of(colours, stream.stored), colours.hdr is not None or colours.wide is not None
    if plan.on_white:
        pictures, matrix = on_white(pictures, matrix, converted), {}
        colours = colours.model_copy(update={"matrix": "gbr", "levels": "pc"})
    pictures = pictures.filter("scale", *geometry.resize, flags=SCALER, **matrix)
    between = "rgb24" if not converted else "gbrp16le" if plan.on_white else "yuv444p16le"
    pictures = pictures.filter("format", between).filter("crop", *geometry.target, *geometry.crop_xy)
    pictures = to_screen(pictures, colours).filter("format", "rgb24")
    written = {"format": "rawvideo", "fps_mode": "passthrough", "frames:v": len(times)}
    command: list[str] = pictures.output("pipe:1", **written).compile(cmd=STRICT if strict else QUIET)
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
