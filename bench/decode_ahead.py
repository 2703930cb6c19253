"""Frames a second of decoding + resizing as it feeds the encoder, against ffmpeg alone.

Both do the same work on the same clips in the same run: decode 1280x720 H.264, resample with the same
scaler, cut, RGB. ffmpeg alone writes rawvideo to /dev/null, one clip after another with its own threads;
decoding ahead hands uint8 arrays to Python and checks every frame. Rounds alternate; the best counts.
The number printed last is its rate divided by ffmpeg's, target 0.9.

    python -m bench.decode_ahead [--clips 4] [--seconds 5] [--rounds 3]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

from bench.machine import describe_machine, write_table
from ltxcore.config.datasets import VideoDataset
from ltxcore.media.buckets import geometry
from ltxcore.media.decode import SCALER, decode_frames
from ltxcore.media.decode_ahead import DECODES_AT_ONCE, decode_ahead
from ltxcore.media.frames import select_frames
from ltxcore.media.probe import read_streams
from ltxcore.store.snapshot import FrameSelection, Geometry

Job = tuple[Path, FrameSelection, Geometry]


def make_clips(directory: Path, count: int, seconds: float) -> list[Path]:
    """Clips with grain, so that decoding them costs what real footage does."""
    clips = [directory / f"clip-{number}.mp4" for number in range(count)]
    for number, clip in enumerate(clips):
        picture = f"testsrc2=s=1280x720:r=25:d={seconds},noise=alls=12:allf=t:all_seed={number}"
        subprocess.run(
            ["ffmpeg", "-nostdin", "-y", "-v", "error", "-f", "lavfi", "-i", picture, "-c:v", "libx264",
             "-preset", "veryfast", "-pix_fmt", "yuv420p", str(clip)],
            check=True,
        )  # fmt: skip
    return clips


def plan(clips: list[Path], seconds: float) -> list[Job]:
    dataset = VideoDataset.model_validate(
        {
            "id": "bench",
            "dataset_type": "video",
            "instance_data_dir": ".",
            "resolution": 512,
            "video": {"num_frames": int(seconds * 25)},
        }
    )
    jobs = []
    for clip in clips:
        probe = read_streams(clip)
        cut = geometry(dataset, probe.video.width, probe.video.height, clip.name)
        jobs.append((clip, select_frames(probe, dataset.video), cut))
    return jobs


def ahead(jobs: list[Job]) -> float:
    """Frames a second through the path that encode-latents uses."""
    started, frames = time.perf_counter(), 0
    for _, decoded in decode_ahead(jobs, lambda job: decode_frames(*job)):
        frames += len(decoded)
    return frames / (time.perf_counter() - started)


def ffmpeg_alone(jobs: list[Job]) -> float:
    """Frames a second of ffmpeg doing the same and throwing it away."""
    started = time.perf_counter()
    for clip, frames, cut in jobs:
        size, box = "{}:{}".format(*cut.resize), "{}:{}:{}:{}".format(*cut.target, *cut.crop_xy)
        filters = f"scale={size}:flags={SCALER},format=rgb24,crop={box}"
        taken = ["-an", "-frames:v", str(frames.count), "-vf", filters]
        command = ["ffmpeg", "-nostdin", "-y", "-v", "error", "-i", str(clip), *taken]
        subprocess.run([*command, "-f", "rawvideo", "/dev/null"], check=True)
    return sum(frames.count for _, frames, _ in jobs) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="decode-ahead-") as directory:
        jobs = plan(make_clips(Path(directory), asked.clips, asked.seconds), asked.seconds)
        alone, fed = 0.0, 0.0
        for _ in range(asked.rounds):
            alone, fed = max(alone, ffmpeg_alone(jobs)), max(fed, ahead(jobs))
    rows = [
        ["ffmpeg alone", f"{alone:.1f}"],
        ["decode ahead", f"{fed:.1f}"],
        ["decode ahead / ffmpeg alone", f"{fed / alone:.2f}"],
    ]
    title = (
        f"{len(jobs)} clips of {jobs[0][1].count} frames, 1280x720 H.264 with grain to RGB, "
        f"{DECODES_AT_ONCE} decoded at once, best of {asked.rounds} rounds; {describe_machine()}"
    )
    write_table("decode_ahead", title, ["", "frames a second"], rows)
    print(f"{fed / alone:.2f}")


if __name__ == "__main__":
    main()
