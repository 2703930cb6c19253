"""Makes every call of every committing path fail in every way, and counts what was lost.

A write, flush, rename, link, mkdir, open or removal fails with EIO, ENOSPC, ESTALE or SIGKILL, and a write
may be cut short; a put to an object store fails before or after it was done. After each failure what was
committed must be there and whole, and the work done once more must end as if nothing had failed, to the bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.faults.paths import commit_paths
from bench.faults.points import Lost, Trial
from bench.machine import describe_machine


def main() -> None:
    """Print a row a path, each loss, and last how many points were tried and lost."""
    print(describe_machine())
    shared = Path("/dev/shm")  # noqa: S108 - a disk in memory: what is tried is order, not speed
    tried = lost = 0
    print("| path | calls | points | lost |\n|---|---|---|---|")
    for path in commit_paths():
        with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as place:
            trial = Trial(path, Path(place))
            points, losses = list(trial.points()), []
            for point in points:
                try:
                    trial.check(point)
                except Lost as error:
                    losses.append(str(error))
        print(f"| {path.name} | {len(trial.calls)} | {len(points)} | {len(losses)} |", flush=True)
        for loss in losses:
            print(f"    {loss}")
        tried, lost = tried + len(points), lost + len(losses)
    print(f"tried {tried}, lost {lost}")


if __name__ == "__main__":
    main()
