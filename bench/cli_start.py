"""What the commands cost that one types before a run: seconds of processor time, the least of three.

`python -m bench.cli_start`
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import write_table

ROOT = Path(__file__).parents[1]
TIMES = 3
LIMITS = {"--help": 0.7, "keys": 2.0, "doctor": 2.0, "plan": 2.0, "validate": 2.0}


def seconds(*arguments: str) -> float:
    """Processor time of `ltx2` with these arguments, its children's included."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Print a line a command, and last how many are within their limit."""
    with tempfile.TemporaryDirectory() as place:
        clips = Path(place) / "glimmer"
        subprocess.run([sys.executable, "-m", "flows.cli", "samples", str(clips)], cwd=ROOT, check=True)
        datasets = Path(place) / "datasets.yaml"
        datasets.write_text((ROOT / "datasets.yaml").read_text().replace("datasets/glimmer", str(clips)))
        more = {"validate": ("--datasets", str(datasets), "--recipe", str(ROOT / "deploy/recipes/toy.yaml"))}
        within, rows = 0, []
        for name, limit in LIMITS.items():
            cost = min(seconds(name, *more.get(name, ())) for _ in range(TIMES))
            within += cost <= limit
            rows.append([f"ltx2 {name}", f"{cost:.2f}", f"{limit:.1f}"])
    write_table(
        "cli_start", "Seconds of processor time, the least of three.", ["command", "cost", "limit"], rows
    )
    print(f"{within} of {len(LIMITS)} commands within their limit")


if __name__ == "__main__":
    main()
