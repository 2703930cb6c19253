"""Sample clips for a first run and for tests: moving shapes with tones that follow them, and bad media.

Everything is drawn and encoded here, so the same ffmpeg gives the same bytes.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ffmpeg

from ltxcore.media import glimmer
from ltxcore.media.errors import MediaError
from ltxcore.media.ffmpeg_process import FFMPEG, file_url, last_words, run_tool
from ltxcore.media.sample_list import BAD_FILES, CAPTIONS, CLIPS, SampleClip
from ltxcore.store.fingerprint import fingerprint

MARKER = ".samples.json"
MAKE_TIMEOUT_S = 120.0
AT_ONCE = 2
LAYOUTS = {6: "5.1", 2: "stereo", 1: "mono"}
QUIET = [*FFMPEG, "-v", "error"]


Maker = Callable[[Path], object]
SetName = Literal["glimmer", "variety"]


@dataclass(frozen=True)
class SampleSet:
    """Files by name, each with what writes it."""

    jobs: Mapping[str, Maker]
    recipe: str
    """Fingerprint of what the files show."""


def make_samples(directory: Path, name: SetName = "variety") -> list[Path]:
    """Write the sample clips and their captions; return the clips' paths, bad ones included.

    A directory that is complete is left as it is, with whatever was edited in it. In one that is not
    (another version, or a run that was killed) every file is made anew, each put in place by a rename.

    Args:
        directory: for the files.
        name: `glimmer`, what `make run` trains the toy LTX-2 on, or `variety`, every kind of clip.

    Raises:
        MediaError: ffmpeg could not make a clip.
        OSError: the directory cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    chosen = _glimmer() if name == "glimmer" else _variety()
    if not _complete(directory, chosen.recipe):
        (directory / MARKER).unlink(missing_ok=True)
        _make(directory, chosen.jobs.items())
        _publish(directory / MARKER, lambda path: path.write_text(json.dumps({"recipe": chosen.recipe})))
    missing = [(file, job) for file, job in chosen.jobs.items() if not (directory / file).exists()]
    _make(directory, missing)
    return sorted(directory / file for file in chosen.jobs if not file.endswith(".txt"))


def _variety() -> SampleSet:
    jobs: dict[str, Maker] = {clip.name: partial(_render, clip) for clip in CLIPS}
    jobs |= {name: partial(_damage, bad) for name, bad in BAD_FILES.items()}
    jobs |= {name: partial(_write, text) for name, text in CAPTIONS.items()}
    return SampleSet(jobs, fingerprint([[repr(clip) for clip in CLIPS], repr(BAD_FILES), CAPTIONS]))


def _glimmer() -> SampleSet:
    jobs: dict[str, Maker] = {name: partial(glimmer.write_clip, clip) for name, clip in glimmer.FILES.items()}
    jobs |= {name: partial(_write, text) for name, text in glimmer.TEXTS.items()}
    shown = [repr(clip.moving_shape()) + repr(clip) for clip in glimmer.FILES.values()]
    return SampleSet(jobs, fingerprint([shown, glimmer.TEXTS]))


def _complete(directory: Path, recipe: str) -> bool:
    try:
        marker = json.loads((directory / MARKER).read_text())
    except (FileNotFoundError, ValueError):
        return False
    return bool(marker == {"recipe": recipe})


def _make(directory: Path, jobs: Iterable[tuple[str, Maker]]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for done in [pool.submit(_publish, directory / name, job) for name, job in jobs]:
            done.result()


def _publish(path: Path, job: Maker) -> None:
    """Let `job` write under a hidden name, then rename: a file that has its name is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as hidden:
        draft = Path(hidden) / path.name
        job(draft)
        draft.replace(path)


def _write(text: str, path: Path) -> None:
    path.write_bytes(f"{text}\n".encode())


def _damage(bad: SampleClip | str, path: Path) -> None:
    """Text under a video's name, or a clip whose last bytes are missing while its index is whole."""
    if isinstance(bad, str):
        _write(bad, path)
        return
    _render(bad, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.7)])


def _render(clip: SampleClip, path: Path) -> None:
    streams = [_picture(clip)] if clip.channels == 0 else [_picture(clip), _sound(clip)]
    options: dict[str, Any] = {
        "c:v": clip.video_codec,
        "threads": 1,
        "fflags": "+bitexact",
        "flags:v": "+bitexact",
        "map_metadata": -1,
        "fps_mode": "passthrough",
        "enc_time_base": "1:1000" if clip.jitter_s else "0",
    }
    if clip.video_codec == "libx264":
        options |= {"preset": "veryfast", "crf": 18}
    else:
        options |= {"b:v": "300k", "deadline": "realtime", "cpu-used": 8}
    if clip.channels:
        options |= {"c:a": clip.audio_codec, "flags:a": "+bitexact"}
    if path.suffix in (".mp4", ".mov"):
        options["movflags"] = "+faststart"
    command = ffmpeg.output(*streams, file_url(path), **options).compile(cmd=QUIET)
    done = run_tool(command, MAKE_TIMEOUT_S)
    if done.returncode != 0:
        raise MediaError(f"ffmpeg cannot make the sample {clip.name}: {last_words(done.stderr, path)}")
    if clip.turned:
        _turn_by_90(path)


def _picture(clip: SampleClip) -> Any:
    """The shape on its background. Only one frame of each is drawn; overlaying does the rest."""
    width, height = clip.size
    top, bottom = clip.background
    shade = {
        band: f"{(int(top, 16) >> shift) & 255}+({(int(bottom, 16) >> shift) & 255}"
        f"-{(int(top, 16) >> shift) & 255})*Y/H"
        for band, shift in (("r", 16), ("g", 8), ("b", 0))
    }
    when = f"N/({clip.rate})" + (f"+{clip.jitter_s}*sin(N*1.7)" if clip.jitter_s else "")
    ground = (
        ffmpeg.input(f"color=c=black:s={width}x{height}:r={clip.rate}:d=10", f="lavfi")
        .filter("trim", end_frame=1)
        .filter("format", "gbrp")
        .filter("geq", **shade)
        .filter("loop", loop=-1, size=1)
        .filter("trim", end_frame=clip.frames)
    )
    if clip.jitter_s:
        ground = ground.filter("settb", "1/1000")
    ground = ground.filter("setpts", f"round(({when})/TB)")
    edge = round(min(clip.size) * clip.scale)
    inside = (
        "255"
        if clip.shape == "box"
        else f"255*clip({edge}/2-hypot(X-{(edge - 1) / 2},Y-{(edge - 1) / 2})+0.5,0,1)"
    )
    shape = (
        ffmpeg.input(f"color=c={clip.colour}:s={edge}x{edge}:r={clip.rate}:d=10", f="lavfi")
        .filter("trim", end_frame=1)
        .filter("format", "gbrap")
        .filter("geq", r="r(X,Y)", g="g(X,Y)", b="b(X,Y)", a=inside)
    )
    x, y = clip.position()
    joined = ffmpeg.filter([ground, shape], "overlay", x=x, y=y, eof_action="repeat", format="gbrp")
    return joined.filter("format", "yuv420p")


def _sound(clip: SampleClip) -> Any:
    layout = LAYOUTS[clip.channels]
    return ffmpeg.input(
        f"aevalsrc=exprs='{'|'.join(clip.tones())}':s={clip.audio_rate}:d={clip.duration_s:.6f}:c={layout}",
        f="lavfi",
    )


def _turn_by_90(path: Path) -> None:
    """Write a quarter turn, clockwise, into the picture track's header (tkhd), as telephones do."""
    data = bytearray(path.read_bytes())
    # After the box's name: version and flags, two dates, track, reserved, duration, reserved, layer, group,
    # volume, reserved; then the matrix, row by row, in 16.16 fixed point (ISO/IEC 14496-12, 8.3.2).
    at = data.index(b"tkhd") + 4 + 40
    one = 0x10000
    matrix = (0, one, 0, -one, 0, 0, 0, 0, 0x40000000)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data)
