"""probe-media's look at 1,000 files against ffprobe in a shell loop.

    python -m bench.probe_1000 [FILES]

The files are two small clips with sound, each copy with other bytes at its end, so that every one is hashed
and probed. The loop reads streams and format alone, one file after another, as one writes it on a shell. It
does none of this, which probe-media does of every file: sha256, the time of every frame that the decoder
gives, by decoding all of them, loudness and silence by decoding the whole sound, and two small pictures for
near duplicates; nor does it commit anything. A third row is a loop that asks ffprobe and ffmpeg for the
same, without the pictures. On clips of
two seconds starting a programme is most of the time, so probe-media starts two for a file, as many files at
once as there are cores. On a machine that is busy with other work the times say little, and the processor
time of a file says what it costs. The number printed last is the plain loop's time divided by probe-media's.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.machine import describe_machine, write_table
from ltxcore.execution.runner import do_units
from ltxcore.media.samples import make_samples
from ltxcore.pipeline.base.context import context_here
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.pipeline.base.progress import Progress
from ltxcore.pipeline.base.work import Assignment
from ltxcore.stages.probe_media.work import ProbeMedia
from ltxcore.store.workspace import Workspace

CLIPS = ("red-disc-right.mp4", "blue-box-up.mp4")
DATASETS = """
- {id: clips, dataset_type: video, instance_data_dir: clips, resolution: 64, resolution_type: pixel}
- {id: text, dataset_type: text_embeds}
"""
PLAIN = 'for f in "$1"/*; do ffprobe -v error -show_streams -show_format -of json "$f" > /dev/null; done'
FULL = r"""for f in "$1"/*; do
  sha256sum "$f" > /dev/null
  ffprobe -v error -show_streams -show_format -of json "$f" > /dev/null
  ffprobe -v error -select_streams v:0 -show_entries packet=pts,dts,duration,flags -of compact "$f" \
    > /dev/null
  ffmpeg -nostdin -nostats -v info -i "$f" -map 0:a:0 -af ebur128=framelog=verbose -f null - 2> /dev/null
done"""


def lay_out(root: Path, files: int) -> None:
    make_samples(root / "samples")
    (root / "datasets.yaml").write_text(DATASETS)
    (root / "clips").mkdir()
    for number in range(files):
        # A `free` box of its own at the end: players pass over it.
        box = (20).to_bytes(4, "big") + b"free" + f"{number:012d}".encode()
        content = (root / "samples" / CLIPS[number % len(CLIPS)]).read_bytes()
        (root / "clips" / f"clip-{number:05d}.mp4").write_bytes(content + box)


class Took(NamedTuple):
    """Seconds on the clock, and of all processors together."""

    wall_s: float
    cpu_s: float


def took(work: Callable[[], None]) -> Took:
    began, cpu = time.perf_counter(), _cpu_s()
    work()
    return Took(time.perf_counter() - began, _cpu_s() - cpu)


def _cpu_s() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def loop(code: str, clips: Path) -> None:
    subprocess.run(["sh", "-c", code, "sh", str(clips)], check=True)


def look(root: Path) -> None:
    ctx = context_here(Workspace(root / "workspace"), datasets_file=root / "datasets.yaml")
    work = ProbeMedia(Assignment(ctx, {}, root / "stage", Progress(PROBE.name, root / "run")))
    files = work.total()
    do_units(work)
    broken = [content for _, content in work.memo.probes.items() if content.error]
    if broken or len(work.memo.probes) != files:
        raise AssertionError(f"{len(work.memo.probes)} of {files} files were probed; {broken[:1]}")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-probe-") as place:
        root = Path(place)
        lay_out(root, count)
        plain, full = (took(partial(loop, code, root / "clips")) for code in (PLAIN, FULL))
        ours = took(partial(look, root))
    rows = [
        [
            name,
            f"{its.wall_s:.1f} s",
            f"{count / its.wall_s:.0f}",
            f"{its.wall_s / ours.wall_s:.2f}",
            f"{1000 * its.cpu_s / count:.0f} ms",
        ]
        for name, its in (
            ("shell loop: ffprobe, streams and format alone", plain),
            ("shell loop: the same work as probe-media", full),
            ("probe-media", ours),
        )
    ]
    load = "load " + " to ".join(f"{value:.1f}" for value in (before, os.getloadavg()[0]))
    title = f"{count} clips of 2 s with sound, {load}; {describe_machine()}"
    heading = ["", "time", "files/s", "time / probe-media's", "processor time a file"]
    write_table("probe_1000", title, heading, rows)
    print(f"{plain.wall_s / ours.wall_s:.2f}")


if __name__ == "__main__":
    main()
