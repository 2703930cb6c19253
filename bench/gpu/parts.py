"""The parts of the measurement, in the order in which they are worth having."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.gpu.training import CASES

STEPS, SMALL_STEPS = 4, 1
VAE_WAYS = 5


@dataclass(frozen=True)
class Part:
    """What one process measures.

    Attributes:
        name: unique; its table's name and the row's, with a colon between them.
        table: the table that its row belongs to.
        about_s: what it takes on a card of 80 GB; four times as long is taken for stuck.
    """

    name: str
    table: str
    about_s: int


def all_parts() -> list[Part]:
    """Correctness first, then the step, then the stages beside it."""
    parts = [Part("tests", "tests", 45), Part("equality", "equality", 60)]
    parts += [Part(f"training: {case.name}", "training", 35) for case in CASES]
    parts += [Part(f"captions: {way}", "stages", 30) for way in ("resident", "group offload")]
    parts += [Part(f"clips: {number}", "stages", 10) for number in range(VAE_WAYS)]
    return parts


def measure_part(name: str, small: bool) -> list[dict[str, Any]]:
    """The rows of a part. Runs in a process of its own, so that peaks are its own.

    Raises:
        KeyError: there is no such part.
        RuntimeError: what was measured is wrong, or could not be.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    table, _, row = name.partition(": ")
    if table == "tests":
        from bench.gpu.device_tests import run_device_tests

        return run_device_tests()
    if table == "equality":
        from bench.gpu.equality import compare_ways

        return compare_ways(small, device)
    if table == "training":
        from bench.gpu.training import measure

        case = {case.name: case for case in CASES}[row]
        return [measure(case, small, SMALL_STEPS if small else STEPS)]
    from bench.gpu.stages import measure_gemma, measure_vae
    from ltxcore.models.vae.ways import WAYS

    if table == "captions":
        return [measure_gemma(small, row, device)]
    return [measure_vae(small, WAYS[int(row)], device)]
