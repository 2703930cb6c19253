"""Seconds of a LoRA step and peak memory at full size, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

GIB = 1 << 30
WARM_STEPS = 2
KEPT_BLOCKS = 1
"""Blocks before and after a TREAD route that every token goes through: of the shrunk model's four too."""


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
    compiled: bool = False
    tread: float = 0.0
    """Share of the video tokens that pass by all blocks but the first and the last."""
    target_s: float | None = None
    target_gib: float | None = None

    @property
    def target(self) -> str:
        """What the step promises to stay under, in words."""
        said = {"s": self.target_s, "GiB": self.target_gib}
        return ", ".join(f"{value:g} {unit}" for unit, value in said.items() if value)


BASELINE = {"size": (832, 480), "frames": 17, "batch": 2}
LARGE = {"size": (1280, 704), "frames": 49, "batch": 1}
LONG = {"size": (1280, 704), "frames": 121, "batch": 1}
# What matters most comes first: a session that is cut short has measured that.
CASES = (
    Case("480p bf16 resident", **BASELINE, way="resident", target_gib=44),
    Case("704p bf16 resident", **LARGE, way="resident", target_s=1.5),
    Case("704p bf16 resident, compiled", **LARGE, way="resident", compiled=True, target_s=1.5),
    Case("480p int8 resident", **BASELINE, way="resident", precision="int8-quanto", target_gib=26),
    Case("480p bf16 streamed", **BASELINE, way="block_streaming", target_gib=11),
    Case("704p bf16 streamed", **LARGE, way="block_streaming", target_gib=16),
    Case("704p, 121 frames, bf16 resident", **LONG, way="resident"),
    Case("704p bf16 resident, TREAD 0.5", **LARGE, way="resident", tread=0.5),
    Case("704p int8 resident", **LARGE, way="resident", precision="int8-quanto"),
    Case("480p int8 streamed", **BASELINE, way="block_streaming", precision="int8-quanto"),
    Case("480p bf16 resident, TREAD 0.5", **BASELINE, way="resident", tread=0.5),
    Case("480p bf16 group offload, stream", **BASELINE, way="group_offload", use_stream=True),
    Case("480p bf16 group offload", **BASELINE, way="group_offload"),
    Case("480p bf16 RamTorch", **BASELINE, way="ramtorch"),
)


def measure(case: Case, small: bool, steps: int) -> dict[str, Any]:
    """Train `steps` steps after two to warm up, one more under the profiler, then the bare loop.

    Returns:
        The row: seconds of a step and of the same transformer's forward and backward alone, GiB of the
        device's peak (of the process's without one) and of the planner's prediction, launches a step and the
        share of it in which the device was idle (both None without a device).
    """
    import torch

    from bench.gpu.launches import Launches
    from bench.gpu.model import random_transformer, transformer_config
    from bench.gpu.samples import RandomClips
    from ltxcore.config.training_settings import TrainingSettings
    from ltxcore.memory.arrangement import Arrangement, GroupSettings, spread_resident
    from ltxcore.memory.measure import measure_peaks
    from ltxcore.memory.placement import Placement

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformer_config(small)
    home = device if case.way == "resident" else "cpu"
    transformer = random_transformer(small, case.precision, device, home)
    groups = GroupSettings(use_stream=case.use_stream and device == "cuda")
    # RamTorch is the project's own streaming, of all blocks.
    strategy: Any = "block_streaming" if case.way == "ramtorch" else case.way
    resident = spread_resident(config["num_layers"], case.resident)
    placement = Placement(transformer, Arrangement(strategy, resident, groups=groups), device)
    clips = RandomClips(case.size, case.frames, config, small)
    training = TrainingSettings(
        max_train_steps=WARM_STEPS + steps + 1,
        train_batch_size=case.batch,
        mixed_precision="bf16",
        torch_compile=case.compiled,
    )
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    launches = Launches(device)
    with ExitStack() as profiled:
        on_step = _timing(times, WARM_STEPS + steps, lambda: profiled.enter_context(launches))
        connectors = clips.train(transformer, placement, training, on_step, **routes(case))
    peaks = measure_peaks()
    bare_s = clips.bare_step_s(transformer, case.batch, device, steps)
    planner, workload = clips.planned(transformer, connectors, case.batch)
    plan = planner.plan(
        case.way, workload, case.precision, _resident(case, config), config["num_layers"], groups=groups
    )
    step_s = median(times[WARM_STEPS : WARM_STEPS + steps])
    flop = 3 * case.batch * _forward_flop(planner, workload.tokens, case.tread)
    return {
        "case": case.name,
        "step s": step_s,
        "bare s": bare_s,
        "ours / bare": step_s / bare_s,
        "launches": launches.count,
        "idle %": launches.idle_percent,
        "TFLOP/s": flop / step_s / 1e12,
        "peak GiB": (peaks.vram_bytes or peaks.rss_bytes) / GIB,
        "predicted GiB": plan.device_bytes / GIB,
        "host GiB": peaks.rss_bytes / GIB,
        "target": case.target,
    }


def _timing(times: list[float], until: int, then: Callable[[], object]) -> Callable[[Any], None]:
    """Keep the seconds of each step; call `then` after step `until`, before the one that is profiled."""

    def on_step(metrics: Any) -> None:
        times.append(metrics.step_s)
        if len(times) == until:
            then()

    return on_step


def routes(case: Case) -> dict[str, Any]:
    """The recipe's part that lets tokens pass by blocks; nothing where none do."""
    if not case.tread:
        return {}
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
