"""The measures of each step, one JSON line a step; curves and results are computed from this record."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import TextIO

from ltxcore.store.blobs import write_atomic

METRICS_FILE = "metrics.jsonl"
ENDS_SHARE, LEAST_STEPS = 0.1, 5
"""First and last loss are means over this share of the steps, and over at least so many."""


@dataclass(frozen=True)
class StepMetrics:
    """One optimizer step."""

    step: int
    """Steps done, this one included."""
    epoch: int
    loss: float
    """Mean over the accumulated batches."""
    video_loss: float | None
    """Mean over the accumulated batches that have pictures; None where none has."""
    audio_loss: float | None
    """Mean over the accumulated batches that have sound; None where none has."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    step_s: float
    data_wait_s: float
    """The part of step_s that stood waiting for samples."""
    peak_vram_bytes: int
    peak_rss_bytes: int
    sample_ids: tuple[str, ...]
    measures: Mapping[str, float] = field(default_factory=dict)
    """Further series, by name: means over the accumulated batches that have them."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What `loss` is the sum of: `video_loss`, `audio_loss` or a measure's name -> its weight."""

    @property
    def parts(self) -> dict[str, tuple[float, float]]:
        """Name -> weight and value of each part of `loss`, the pictures and the sound first."""
        values = {"video_loss": self.video_loss, "audio_loss": self.audio_loss, **self.measures}
        named = {name: (self.weights[name], value) for name, value in values.items() if name in self.weights}
        return {name: (weight, value) for name, (weight, value) in named.items() if value is not None}

    @property
    def shown_sum(self) -> str:
        """The loss as a sum of its parts, for display; empty if there is only one part."""
        terms = [_term(name, *part) for name, part in self.parts.items()]
        return " + ".join(terms) if len(terms) > 1 else ""


def _term(name: str, weight: float, value: float) -> str:
    factor = "" if weight == 1 else f"{weight:g} x "
    return f"{factor}{name.removesuffix('_loss')} {value:.4f}"


def comparable_ends(metrics: Sequence[StepMetrics]) -> tuple[float, float]:
    """The loss of the first and of the last steps, of those alone whose loss is the sum of the same parts.

    A step on silent clips has no sound in its loss, and would compare an apple with a pear. Of the kinds of
    steps the commonest is taken, and its ends are means over `ENDS_SHARE` of it, but at least `LEAST_STEPS`.

    Args:
        metrics: of a training, in the order of its steps; one at least.
    """
    kinds = Counter(frozenset(m.parts) for m in metrics)
    usual = max(kinds, key=lambda kind: (kinds[kind], len(kind)))
    losses = [m.loss for m in metrics if frozenset(m.parts) == usual]
    ends = max(round(len(losses) * ENDS_SHARE), min(LEAST_STEPS, (len(losses) + 1) // 2))
    return fmean(losses[:ends]), fmean(losses[-ends:])


class MetricsLog:
    """Appends to a metrics file, and continues one after a checkpoint."""

    def __init__(self, path: Path, continue_from: int, writes: bool = True) -> None:
        """Open `path`, dropping the lines of steps after `continue_from`: they are computed again.

        One process of a training `writes`; in the others nothing is opened and `append` does nothing.
        """
        self._file: TextIO | None = None
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [m for m in read_metrics(path) if m.step <= continue_from]
        write_atomic(path, "".join(map(_line, kept)).encode())
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def append(self, metrics: StepMetrics) -> None:
        """Add a line and hand it to the operating system, so that a killed process loses none."""
        if self._file is not None:
            self._file.write(_line(metrics))
            self._file.flush()


class MetricsReader:
    """Follows the metrics file of a training that another process is about to start or continue."""

    def __init__(self, path: Path, done: int) -> None:
        """Wait for `path` to be begun anew, as `MetricsLog` does; steps up to `done` are known already."""
        self._path, self._done = path, done
        self._before = path.stat().st_ino if path.exists() else None
        self._at_bytes = 0

    def new(self) -> list[StepMetrics]:
        """The whole lines that were added since the last look."""
        if not self._path.exists() or self._path.stat().st_ino == self._before:
            return []
        with self._path.open("rb") as file:
            file.seek(self._at_bytes)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._at_bytes += len(whole) + 1
        found = [_parse(line) for line in whole.decode("utf-8").split("\n")]
        return [metrics for metrics in found if metrics.step > self._done]


def read_metrics(path: Path) -> list[StepMetrics]:
    """All whole lines, in order; a last line that a crash cut short is left out, and no file is no lines."""
    if not path.exists():
        return []
    # Not splitlines: a file name in a sample id may hold what Python takes for a line end.
    *whole, _cut_short = path.read_text(encoding="utf-8").split("\n")
    return [_parse(line) for line in whole]


def _parse(line: str) -> StepMetrics:
    data = json.loads(line)
    return StepMetrics(**{**data, "sample_ids": tuple(data["sample_ids"])})


def _line(metrics: StepMetrics) -> str:
    return json.dumps(asdict(metrics), ensure_ascii=False, allow_nan=False) + "\n"
