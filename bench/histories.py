"""Draws histories of a store that two workspaces share, and counts what they were made of.

Runs of the data stages, sweeps, compactions, damage, repairs and suspended writers, with kills and failing
disks in the middle of them, on a disk and on an object store; after each step everything that is committed is
read and compared with a plain model. The first history that harms something ends the bench and is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from bench.faults.histories import Histories
from bench.machine import describe_machine

SETTINGS = settings(
    database=None,
    deadline=None,
    stateful_step_count=5,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OF_A_SEED = 100


def draw(number: int) -> None:
    """The histories of one seed."""

    class Seeded(Histories):
        pass

    run_state_machine_as_test(seed(number)(Seeded), settings=settings(SETTINGS, max_examples=OF_A_SEED))


def main() -> None:
    """Print a row for everything that happened, and last how many histories there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--histories", type=int, default=10_000, help="how many, 100 for each seed")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--table", type=Path, help="also write the table to this file")
    chosen = parser.parse_args()
    number = chosen.first_seed
    while Histories.happened["histories"] < chosen.histories:
        draw(number)
        number += 1
        print(f"seed {number - 1}: {Histories.happened['histories']} histories", flush=True)
    counts = dict(Histories.happened)
    lines = [
        describe_machine(),
        "",
        f"seeds {chosen.first_seed} to {number - 1}",
        "",
        "| what | times |",
        "|---|---|",
    ]
    lines += [f"| {what} | {counts[what]} |" for what in sorted(counts.keys() - {"histories"})]
    lines += ["", f"{counts['histories']} histories, harmed 0"]
    text = "\n".join(lines) + "\n"
    print(text)
    if chosen.table is not None:
        chosen.table.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
