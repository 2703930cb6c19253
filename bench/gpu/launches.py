"""Counts the kernels of a step on a CUDA device, and how long it had none to run."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch


class Launches:
    """Profiles its `with` block. On a device other than CUDA it counts nothing.

    Attributes:
        count: kernels, copies and fills that the device ran; None where nothing was counted.
        idle_percent: share of the time between the first and the last of them in which none ran.
    """

    def __init__(self, device: str) -> None:
        self.count: int | None = None
        self.idle_percent: float | None = None
        self._profiler: Any = None
        if device == "cuda":
            self._profiler = torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
            )

    def __enter__(self) -> Launches:
        if self._profiler is not None:
            torch.cuda.synchronize()
            self._profiler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profiler is None:
            return
        torch.cuda.synchronize()
        self._profiler.__exit__(kind, error, trace)
        cuda = torch.autograd.DeviceType.CUDA
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in self._profiler.events()
            if event.device_type == cuda
        ]
        self.count = len(spans)
        self.idle_percent = idle_percent(spans)


def idle_percent(spans: list[tuple[float, float]]) -> float | None:
    """The share of the time from the first start to the last end that no span covers, in percent.

    Spans may overlap, as those of two streams do. None without spans.
    """
    if not spans:
        return None
    ordered = sorted(spans)
    busy, reached = 0.0, ordered[0][0]
    for start, end in ordered:
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    whole = reached - ordered[0][0]
    return 100 * (1 - busy / whole) if whole else 0.0
