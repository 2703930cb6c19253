"""What a machine must have for the pipeline, and whether it has it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil

from ltxcore.memory.device import likely_device
from ltxcore.memory.plan import GIB

PACKAGES = (
    "prefect",
    "fastapi",
    "torch",
    "torchaudio",
    "diffusers",
    "transformers",
    "peft",
    "zarr",
    "mlflow",
)
NEEDED_FREE_GIB = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    good: bool
    detail: str


def examine(workspace: Path) -> list[Finding]:
    """Look at the interpreter, the packages, ffmpeg, memory, disk and the GPU."""
    return [
        Finding("python", sys.version_info >= (3, 11), platform.python_version()),
        *[_package(name) for name in PACKAGES],
        *[_program(name) for name in ("ffmpeg", "ffprobe")],
        Finding("memory", True, f"{psutil.virtual_memory().total / GIB:.0f} GiB"),
        _disk(workspace),
        _gpu(),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, "not installed; run `make install`")


def _program(name: str) -> Finding:
    path = shutil.which(name)
    if path is None:
        return Finding(name, False, "not found; `make install` gets it with apt or brew")
    done = subprocess.run([path, "-version"], capture_output=True, text=True, check=False, timeout=30)
    return Finding(name, done.returncode == 0, done.stdout.splitlines()[0] if done.stdout else done.stderr)


def _disk(workspace: Path) -> Finding:
    place = workspace.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / GIB
    return Finding("disk", free >= NEEDED_FREE_GIB, f"{free:.0f} GiB free at {place}")


def _gpu() -> Finding:
    none = Finding("gpu", True, "none; the tiny model runs on the CPU, real weights need one")
    if likely_device() == "cpu":
        return none
    import torch

    if not torch.cuda.is_available():
        return none
    properties = torch.cuda.get_device_properties(0)
    return Finding("gpu", True, f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
