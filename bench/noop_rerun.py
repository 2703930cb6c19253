"""Running probe-media again over 10,000 files of which none has changed: stats only, no hash, no probe.

    python -m bench.noop_rerun [FILES]

The files are hard links to one small clip, each with a caption, in folders of 500. The first run looks at
all of them; then the stage is asked again in a fresh process, as the pipeline asks it, and the time of that
process is taken, imports included. A second figure is for one caption edited: then the snapshot is planned
anew from what is remembered. The number printed last is the no-op rerun in seconds, target under 10.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import describe_machine, write_table
from ltxcore.execution.runner import open_execution, run_work
from ltxcore.media.samples import make_samples
from ltxcore.pipeline.base.context import context_here
from ltxcore.pipeline.base.contract import PROBE
from ltxcore.pipeline.base.stamp import Stamp
from ltxcore.store.workspace import Workspace

CLIP = "red-disc-right.mp4"
IN_A_FOLDER = 500
ROUNDS = 3
DATASETS = """
- id: clips
  dataset_type: video
  instance_data_dir: clips
  resolution: 64
  resolution_type: pixel
  video: {num_frames: 17}
- {id: text, dataset_type: text_embeds}
"""


def lay_out(root: Path, files: int) -> None:
    make_samples(root / "samples")
    (root / "datasets.yaml").write_text(DATASETS)
    for number in range(files):
        folder = root / "clips" / f"{number // IN_A_FOLDER:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(root / "samples" / CLIP, folder / f"clip-{number:05d}.mp4")
        (folder / f"clip-{number:05d}.txt").write_text(f"clip number {number}")


def ask(root: Path) -> str:
    """The stage as the pipeline runs it: what is asked for, whether it is there, and if not the work."""
    ctx = context_here(Workspace(root / "workspace"), datasets_file=root / "datasets.yaml")
    execution = open_execution(PROBE, ctx, ctx.workspace.run("bench"))
    if execution is None:
        return "up to date"
    stamp = run_work(execution)
    if not isinstance(stamp, Stamp):
        raise AssertionError("another process did the work meanwhile")
    return f"looked at {stamp.outcome.counts['done']}"


def timed(root: Path, expected: str) -> float:
    """Seconds of a process that asks the stage."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bench.noop_rerun", "--ask", str(root)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - began
    if done.stdout.strip() != expected:
        raise AssertionError(f"expected {expected!r}, got {done.stdout!r}")
    return seconds


def main() -> None:
    if sys.argv[1:2] == ["--ask"]:
        print(ask(Path(sys.argv[2])))
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="bench-noop-") as place:
        root = Path(place)
        lay_out(root, count)
        first = timed(root, f"looked at {count}")
        again = min(timed(root, "up to date") for _ in range(ROUNDS))
        (root / "clips/000/clip-00007.txt").write_text("another caption")
        edited = timed(root, "looked at 0")
    rows = [
        ["first look (one clip's content, hashed for each file)", f"{first:.1f} s"],
        ["one caption edited: every plan made anew", f"{edited:.1f} s"],
        ["nothing changed", f"{again:.2f} s"],
    ]
    title = f"{count} files, a fresh process each, best of {ROUNDS} for the last; {describe_machine()}"
    write_table("noop_rerun", title, ["rerun of probe-media", "time"], rows)
    print(f"{again:.2f}")


if __name__ == "__main__":
    main()
