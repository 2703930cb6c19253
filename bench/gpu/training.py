"""Seconds of a LoRA step and peak memory at full size, with random weights; `--small` runs it on a CPU.

    python -m bench.gpu.training [--small] [--case NAME ...] [--steps N] [--out bench/results]

Each case runs in a process of its own, so that peaks are its own. The table comes last.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

GIB = 1 << 30
WARM_STEPS = 2
KEPT_BLOCKS = 1
"""Blocks before and after a TREAD route that every token goes through: of the shrunk model's four too."""


class NotBuilt(RuntimeError):
    """A case of a technique that this version does not have."""


@dataclass(frozen=True)
class Case:
    """One row: a workload, and how the weights are placed."""

    name: str
    size: tuple[int, int]
    frames: int
    batch: int
    way: str
    precision: str = "no_change"
    resident: int = 0
    use_stream: bool = False
    tread: float = 0.0
    """Share of the video tokens that pass by all blocks but the first and the last."""
    target_s: float | None = None
    target_gib: float | None = None


BASELINE = {"size": (832, 480), "frames": 17, "batch": 2}
LARGE = {"size": (1280, 704), "frames": 49, "batch": 1}
CASES = (
    Case("480p bf16 resident", **BASELINE, way="resident", target_gib=44),
    Case("480p int8 resident", **BASELINE, way="resident", precision="int8-quanto", target_gib=26),
    Case("480p bf16 streamed", **BASELINE, way="block_streaming", target_gib=11),
    Case("480p int8 streamed", **BASELINE, way="block_streaming", precision="int8-quanto"),
    Case("480p bf16 group offload", **BASELINE, way="group_offload"),
    Case("480p bf16 group offload, stream", **BASELINE, way="group_offload", use_stream=True),
    Case("480p bf16 RamTorch", **BASELINE, way="ramtorch"),
    Case("480p bf16 resident, TREAD 0.5", **BASELINE, way="resident", tread=0.5),
    Case("704p bf16 resident", **LARGE, way="resident", target_s=2.0),
    Case("704p bf16 resident, TREAD 0.5", **LARGE, way="resident", tread=0.5),
    Case("704p int8 resident", **LARGE, way="resident", precision="int8-quanto"),
    Case("704p bf16 streamed", **LARGE, way="block_streaming", target_gib=16),
)


@dataclass(frozen=True)
class Measured:
    """What a case came to."""

    case: str
    step_s: float
    bare_s: float
    """The same transformer, forward and backward alone."""
    peak_gib: float
    predicted_gib: float
    tflops: float
    host_gib: float


def measure(case: Case, small: bool, steps: int) -> Measured:
    """Train `steps` steps after two to warm up, then the bare loop, in this process."""
    import torch

    from bench.gpu.model import random_connectors, random_transformer, transformer_config
    from bench.gpu.samples import RandomClips
    from ltxcore.config.lora_settings import LoraSettings
    from ltxcore.config.recipe import Recipe
    from ltxcore.config.training_settings import TrainingSettings
    from ltxcore.memory.arrangement import Arrangement, GroupSettings, spread_resident
    from ltxcore.memory.measure import measure_peaks
    from ltxcore.memory.placement import Placement, place_connectors
    from ltxcore.training.loop import train

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not small:
        raise SystemExit("there is no CUDA device; give --small to run the same code shrunk")
    config = transformer_config(small)
    home = device if case.way == "resident" else "cpu"
    transformer = random_transformer(small, case.precision, device, home)
    groups = GroupSettings(use_stream=case.use_stream and device == "cuda")
    # RamTorch is the project's own streaming, of all blocks.
    strategy: Any = "block_streaming" if case.way == "ramtorch" else case.way
    resident = spread_resident(config["num_layers"], case.resident)
    placement = Placement(transformer, Arrangement(strategy, resident, groups=groups), device)
    connectors = random_connectors(small, device)
    place_connectors(connectors, device, streamed=False)
    clips = RandomClips(case.size, case.frames, config, small)
    recipe = Recipe(
        lora=LoraSettings(lora_rank=16),
        training=TrainingSettings(
            max_train_steps=WARM_STEPS + steps, train_batch_size=case.batch, mixed_precision="bf16"
        ),
        **routes(case),
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        train(
            transformer,
            connectors,
            clips,
            recipe,
            Path(directory),
            run_fingerprint="bench",
            max_tokens=clips.text_tokens,
            placement=placement,
            on_step=lambda metrics: times.append(metrics.step_s),
        )
    peaks = measure_peaks()
    bare_s = clips.bare_step_s(transformer, case.batch, device, steps)
    planner, workload = clips.planned(transformer, connectors, case.batch)
    plan = planner.plan(
        case.way, workload, case.precision, _resident(case, config), config["num_layers"], groups=groups
    )
    step_s = median(times[WARM_STEPS:])
    flop = 3 * case.batch * _forward_flop(planner, workload.tokens, case.tread)
    return Measured(
        case=case.name,
        step_s=step_s,
        bare_s=bare_s,
        peak_gib=(peaks.vram_bytes or peaks.rss_bytes) / GIB,
        predicted_gib=plan.device_bytes / GIB,
        tflops=flop / step_s / 1e12,
        host_gib=peaks.rss_bytes / GIB,
    )


def routes(case: Case) -> dict[str, Any]:
    """The recipe's part that lets tokens pass by blocks; nothing where none do.

    Raises:
        NotBuilt: this version cannot.
    """
    from ltxcore.config.recipe import Recipe

    if not case.tread:
        return {}
    if "tread" not in Recipe.model_fields:
        raise NotBuilt("this version has no TREAD")
    kept = KEPT_BLOCKS
    route = {"selection_ratio": case.tread, "start_layer_idx": kept, "end_layer_idx": -1 - kept}
    return {"tread": {"routes": [route]}}


def _forward_flop(planner: Any, tokens: Any, tread: float) -> float:
    """One forward pass, of which all blocks but the outer ones see a part of the video tokens."""
    fewer = replace(tokens, video=round(tokens.video * (1 - tread)))
    routed = max(0, planner.sizes.blocks - 2 * KEPT_BLOCKS) / planner.sizes.blocks if tread else 0.0
    whole, part = (planner.sizes.forward_flop(count) for count in (tokens, fewer))
    return float(routed * part + (1 - routed) * whole)


def _resident(case: Case, config: dict[str, Any]) -> int:
    return int(config["num_layers"]) if case.way == "resident" else case.resident


def table(results: list[Measured]) -> str:
    """The results as Markdown, with each case's targets."""
    cases = {case.name: case for case in CASES}
    head = "| case | s/step | bare s | peak GiB | predicted | TFLOP/s | host GiB | target |"
    lines = [head, "|" + "---|" * (head.count("|") - 1)]
    for found in results:
        case = cases[found.case]
        target = [f"{case.target_s} s"] * bool(case.target_s) + [f"{case.target_gib} GiB"] * bool(
            case.target_gib
        )
        lines.append(
            f"| {found.case} | {found.step_s:.3f} | {found.bare_s:.3f} | {found.peak_gib:.2f} | "
            f"{found.predicted_gib:.2f} | {found.tflops:.3g} | {found.host_gib:.2f} | {', '.join(target)} |"
        )
    return "\n".join(lines)


def machine() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    return f"{platform.processor() or platform.machine()}, no GPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--small", action="store_true", help="shrunk, on any machine")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    given = parser.parse_args()
    chosen = [case for case in CASES if given.case is None or case.name in given.case]
    results, failed, left_out = [], {}, {}
    for case in chosen:
        started = time.monotonic()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                results.append(pool.submit(measure, case, given.small, given.steps).result())
            except NotBuilt as error:
                left_out[case.name] = str(error)
            except (RuntimeError, MemoryError) as error:
                failed[case.name] = str(error).splitlines()[0]
        print(f"{case.name}: {time.monotonic() - started:.0f} s", flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    stem = given.out / f"{date.today():%Y-%m-%d}-training{'-small' if given.small else ''}"
    text = f"{machine()}, {date.today()}\n\n{table(results)}\n"
    text += "".join(f"\n{name} was left out: {why}\n" for name, why in left_out.items())
    text += "".join(f"\n{name} failed: {why}\n" for name, why in failed.items())
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    stem.with_suffix(".json").write_text(json.dumps([asdict(found) for found in results], indent=1))
    print(f"\n{text}")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
