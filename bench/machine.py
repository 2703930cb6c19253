"""The machine that a figure was measured on, and the dated table that keeps it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import psutil

RESULTS = Path(__file__).parent / "results"


def describe_machine() -> str:
    """Processor, cores, memory, system and interpreter."""
    memory = psutil.virtual_memory().total / (1 << 30)
    return (
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_table(name: str, title: str, header: list[str], rows: list[list[str]]) -> Path:
    """Write a table to bench/results/DATE-NAME.md and print it."""
    now = datetime.now(UTC)
    lines = [f"# {name}, {now:%Y-%m-%d %H:%M} UTC", "", title, ""]
    lines += ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{now:%Y-%m-%d}-{name}.md"
    path.write_text(text, encoding="utf-8")
    print(text)
    return path
